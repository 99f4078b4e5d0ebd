"""Batches of tensors from a Parquet snapshot, read by Petastorm or by a small reader over pyarrow.

Only this module imports Petastorm. Shapes: B rows of a batch, L length of a list column.
"""

import re
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.contract.failures import BadInput
from models.contract.settings import NO_URL, StreamConfig
from models.contract.snapshot import Snapshot
from models.data.chunks import Chunk, exact_batches, num_rows, shuffled


@dataclass(frozen=True)
class FilePart:
    """Rows start .. stop - 1 of a file."""

    file: Path
    start: int
    stop: int


class ArrowReader:
    """Reads a snapshot once per iteration, row group by row group, as batches of tensors.

    With several ranks, all ranks use the same order of files (shuffled by the seed), and each reads an equal share of
    the rows: whatever the files and row groups, no row is read by two ranks, and all ranks take `len(reader)` steps.
    Rows that do not fill a step of all ranks, fewer than ranks x batch_size, are left out; which ones depends on
    the seed.

    Args:
        snapshot: result of `open_snapshot`.
        columns: column names. Numbers give [B], lists of equal length [B, L]. Strings become 64-bit hashes, the same
            in every run.
        batch_size: rows per batch, B.
        seed: None reads in file order; a number shuffles row groups and, through a buffer, rows.
            The same seed repeats the order.
        drop_last: leave out the last batch if it is smaller than `batch_size`.
        config: the shuffle buffer's size.
        rank, ranks: number of this process, and how many read the same snapshot together.

    Raises:
        BadInput: the snapshot lacks a column; while iterating, a column holds nulls or lists of unequal length.
        ValueError: several ranks without `drop_last`.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        columns: list[str],
        batch_size: int,
        *,
        seed: int | None = None,
        drop_last: bool = False,
        config: StreamConfig | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if ranks > 1 and not drop_last:
            raise ValueError("several ranks take equal steps only with drop_last")
        unknown = [name for name in columns if name not in snapshot.schema]
        if unknown:
            have = ", ".join(snapshot.schema)
            raise BadInput(f"snapshot {snapshot.path} has no column {', '.join(unknown)}; it has: {have}")
        self.snapshot, self.columns, self.batch_size = snapshot, list(columns), batch_size
        self.seed, self.drop_last, self.config = seed, drop_last, config or StreamConfig()
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self.batches()

    def batches(self, start: int = 0) -> Generator[dict[str, Tensor], None, None]:
        """The batches from number `start` on; earlier ones are read and thrown away."""
        with closing(self._chunks() if self.snapshot.rows else _nothing()) as read:
            chunks: Iterator[Chunk] = read
            if self.seed is not None:
                chunks = shuffled(read, self.config.shuffle_rows, self._rng(self.seed))
            for chunk in islice(exact_batches(chunks, self.batch_size, self.drop_last), start, len(self)):
                yield {name: torch.from_numpy(np.ascontiguousarray(chunk[name])) for name in self.columns}

    def __len__(self) -> int:
        """Number of batches."""
        full, rest = divmod(self.snapshot.rows // self.ranks, self.batch_size)
        return full + (0 if self.drop_last or not rest else 1)

    def _rng(self, seed: int) -> np.random.Generator:
        return np.random.default_rng([seed, self.rank])

    def _share(self) -> list[FilePart]:
        """This rank's equal share of the rows, as parts of files."""
        sizes: list[Any] = list(zip(self.snapshot.files, self.snapshot.file_rows, strict=True))
        if self.seed is not None and self.ranks > 1:
            np.random.default_rng(self.seed).shuffle(sizes)
        low, high = (self.snapshot.rows * rank // self.ranks for rank in (self.rank, self.rank + 1))
        parts, before = [], 0
        for file, rows in sizes:
            start, stop = max(low - before, 0), min(high - before, rows)
            if start < stop:
                parts.append(FilePart(file, start, stop))
            before += rows
        return parts

    def _chunks(self) -> Generator[Chunk, None, None]:
        yield from self._row_groups(self._share())

    def _row_groups(self, parts: list[FilePart]) -> Generator[Chunk, None, None]:
        groups: list[Any] = [group for part in parts for group in _groups_of(part)]
        if self.seed is not None:
            self._rng(self.seed).shuffle(groups)
        for file, group, start, stop in groups:
            with pq.ParquetFile(file) as parquet:
                table = parquet.read_row_group(group, columns=self.columns).slice(start, stop - start)
            yield {n: _column_array(n, table.column(n).combine_chunks()) for n in self.columns}


class PetastormReader(ArrowReader):
    """Reads through Petastorm, whose thread reads ahead while the model trains. Otherwise as `ArrowReader`.

    Petastorm 0.13.1 ends an epoch too early when its last row groups are handed out between two of its checks
    (a third of the runs over small row groups lost some), and with several workers the order depends on
    timing. Therefore one worker reads endless epochs, and an epoch ends after the manifest's number of rows.
    Petastorm's own sharding gives ranks unequal numbers of rows. So it reads only the whole files of a rank's share;
    the files at the ends of the share, which it could not cut, are read without it.
    """

    def _chunks(self) -> Generator[Chunk, None, None]:
        rows = dict(zip(self.snapshot.files, self.snapshot.file_rows, strict=True))
        share = self._share()
        whole = [part.file for part in share if part.stop - part.start == rows[part.file]]
        yield from self._row_groups([part for part in share if part.stop - part.start < rows[part.file]])
        if whole:
            yield from self._whole_files(whole, sum(rows[file] for file in whole))

    def _whole_files(self, files: list[Path], num_left: int) -> Generator[Chunk, None, None]:
        # Petastorm uses names that pyarrow and numpy have deprecated; the versions are pinned. Its threads
        # warn as well, so a temporary filter (`catch_warnings`) would not reach them all.
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=r"petastorm\b")
        from petastorm import make_batch_reader  # pyright: ignore[reportMissingImports] - beside the main environment

        reader = make_batch_reader(
            [_petastorm_url(file) for file in files],
            schema_fields=[f"^{re.escape(name)}$" for name in self.columns],
            reader_pool_type="thread",
            workers_count=1,
            shuffle_row_groups=self.seed is not None,
            # To Petastorm, 0 means "no seed".
            seed=None if self.seed is None else self.seed + 1,
            num_epochs=None,  # pyright: ignore[reportArgumentType] - endless; the stubs guess int from its default
            convert_early_to_numpy=True,
        )
        try:
            while num_left > 0:
                chunk = self._next_chunk(reader)
                num_left -= num_rows(chunk)
                yield chunk
        finally:
            reader.stop()
            reader.join()

    def _next_chunk(self, reader: Iterator[tuple]) -> Chunk:
        try:
            rows = next(reader)
        except (RuntimeError, AttributeError, TypeError, ValueError) as error:
            names = ", ".join(self.columns)
            raise BadInput(f"snapshot {self.snapshot.path}: cannot read columns {names}: {error}") from error
        return {name: _checked_array(name, getattr(rows, name)) for name in self.columns}


def open_reader(
    snapshot: Snapshot,
    columns: list[str],
    batch_size: int,
    *,
    seed: int | None = None,
    drop_last: bool = False,
    config: StreamConfig,
    rank: int = 0,
    ranks: int = 1,
) -> ArrowReader:
    """The reader that `config.reader` names; the arguments are those of `ArrowReader`."""
    cls = PetastormReader if config.reader == "petastorm" else ArrowReader
    return cls(snapshot, columns, batch_size, seed=seed, drop_last=drop_last, config=config, rank=rank, ranks=ranks)


def read_column(snapshot: Snapshot, column: str) -> np.ndarray:
    """One whole column: [rows], or [rows, L] for lists.

    Raises:
        BadInput: the snapshot has no row.
    """
    if not snapshot.rows:
        raise BadInput(f"snapshot {snapshot.path} has no row")
    reader = ArrowReader(snapshot, [column], batch_size=snapshot.rows)
    return next(iter(reader))[column].numpy()


def hashed(texts: np.ndarray) -> np.ndarray:
    """64-bit hashes of texts, int64, the same on every machine and in every run."""
    hash_array = pd.util.hash_array  # pyright: ignore[reportAttributeAccessIssue] - pandas imports it late
    return hash_array(texts.astype(object), categorize=False).view(np.int64)


def _nothing() -> Generator[Chunk, None, None]:
    yield from ()


def _groups_of(part: FilePart) -> Iterator[tuple[Path, int, int, int]]:
    """(file, row group, first row, row after the last) of every row group that the part touches."""
    metadata = pq.read_metadata(part.file)
    before = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        start, stop = max(part.start - before, 0), min(part.stop - before, rows)
        if start < stop:
            yield part.file, group, start, stop
        before += rows


def _petastorm_url(file: Path) -> str:
    # Petastorm takes a URL's path as it stands, without decoding: `as_uri` would break names with spaces.
    path = file.resolve().as_posix()
    if set(path) & set(NO_URL):
        raise BadInput(f"Petastorm cannot read paths with ?, # or a line end: {path!r}; choose stream.reader: arrow")
    return f"file://{path}"


def _column_array(name: str, column: pa.Array) -> np.ndarray:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lengths = np.diff(column.offsets.to_numpy())
        if column.null_count or (lengths != lengths[0]).any():
            raise BadInput(f"column {name}: lists must be present and of equal length")
        return _checked_array(name, column.flatten().to_numpy(zero_copy_only=False).reshape(len(lengths), -1))
    if column.null_count:
        raise BadInput(f"column {name} holds nulls")
    return _checked_array(name, column.to_numpy(zero_copy_only=False))


def _checked_array(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "UO":
        values = hashed(values)
    if values.dtype.kind not in "iufb" or (values.dtype.kind == "f" and np.isnan(values).any()):
        raise BadInput(f"column {name}: {values.dtype} values, or nulls; numbers are needed")
    return values
