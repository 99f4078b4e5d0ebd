"""The files of a content matrix, for readers with and without torch: row = item_idx, row 0 = padding (zeros)."""

import hashlib
import json
import mmap
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.contract.failures import BadInput
from models.contract.strict import parse_settings
from models.contract.verified import WAY_BACK, FileState, file_state, inside, read_sealed, sealed, warn_unverified
from models.contract.whole_files import write_whole

META = "meta.json"
VECTORS = "vectors.f16"
DTYPE = "<f2"
FP16_MAX = 65504.0  # larger numbers become infinite in a matrix
BLOCK_ROWS = 1 << 16  # rows per digest; part of the format
_VECTORS_NAME = r"vectors(-[0-9]+)?\.f16"
_REDUCTION_NAME = r"reduction\.safetensors"
_CHUNK_BYTES = 1 << 20


class ReductionMeta(BaseModel):
    """Which map reduced the width of a matrix, and what the reduction loses.

    Attributes:
        file: the map's file, beside the matrix.
        sha256: digest of that file.
        full_dim: width of the encoder's vectors; the matrix's is `dim`.
        explained_variance: share of the measured vectors' variance that the map keeps.
        neighbour_overlap: mean share of a measured text's 10 nearest neighbours (by cosine, among the measured texts)
            that are still among its 10 nearest after the map.
        fitted: number of texts that the map was fitted on.
        measured: number of texts that were measured; not the fitted ones if there are enough others.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    sha256: str
    full_dim: int
    explained_variance: float
    neighbour_overlap: float
    fitted: int
    measured: int


class MatrixMeta(BaseModel):
    """`meta.json`.

    Attributes:
        format_version: version of these keys; files of the first version do not name it.
        rows: number of valid rows, the padding row included.
        dim, dtype: width and type of a row.
        encoder_id: the encoder that made the vectors.
        template_version: of the texts that the vectors were made from; None if they were not made from texts.
        texts: digest over (item_idx, text_hash, flag) of these rows; other texts need another file.
        vectors: name of the file of vectors.
        reduction: the map from the encoder's vectors to these; None if they are the encoder's own.
        blocks: SHA-256 of each `BLOCK_ROWS` valid rows; None if an earlier version, which had no digests, wrote them.
    """

    model_config = ConfigDict(frozen=True)

    rows: Annotated[int, Field(ge=0)]
    dim: Annotated[int, Field(ge=1)]
    dtype: Literal["float16"]
    encoder_id: str
    template_version: str | None = None
    texts: int | None = None
    vectors: str = VECTORS
    reduction: ReductionMeta | None = None
    blocks: tuple[str, ...] | None = None
    format_version: Literal[1] = 1

    @property
    def bytes(self) -> int:
        """Size of the valid rows in bytes."""
        return self.rows * self.dim * 2

    @property
    def num_blocks(self) -> int:
        """Number of blocks, and so of digests, of the valid rows."""
        return -(-self.rows // BLOCK_ROWS)


class Vectors:
    """The valid rows of a matrix, memory-mapped. The first access to a row reads and verifies the row's whole block.

    A block is verified once per process, unless the file changes.

    Attributes:
        shape: rows and width.
    """

    def __init__(self, file: Path, meta: MatrixMeta) -> None:
        self._file, self._meta = file, meta
        self._mapped = np.memmap(file, dtype=DTYPE, mode="r", shape=(meta.rows, meta.dim))
        self.shape: tuple[int, int] = (meta.rows, meta.dim)
        self._is_verified = None if meta.blocks is None else _is_verified(file, file_state(file), meta.blocks)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows_N: np.ndarray) -> np.ndarray:
        """Rows by their numbers, float16 [N, dim].

        Raises:
            BadInput: the bytes of a block have changed.
        """
        if self._is_verified is not None:
            blocks_N = rows_N // BLOCK_ROWS
            for block in np.unique(blocks_N[~self._is_verified[blocks_N]]).tolist():
                require_blocks(self._file, self._meta, [block % self._meta.num_blocks])
                self._is_verified[block] = True
        return self._mapped[rows_N]

    @property
    def nbytes(self) -> int:
        """Size of the rows on disk in bytes."""
        return self._meta.bytes

    def give_pages_back(self) -> None:
        """Releases the pages that were read from this process's memory; the system's page cache keeps them."""
        mapped = self._mapped._mmap  # pyright: ignore[reportAttributeAccessIssue] - numpy's own, not in its stubs
        mapped.madvise(mmap.MADV_DONTNEED)


@lru_cache(maxsize=64)
def _is_verified(file: Path, _: FileState, blocks: tuple[str, ...]) -> np.ndarray:
    """Which blocks this process has verified; shared by all `Vectors` of the same file."""
    return np.zeros(len(blocks), bool)


def vectors_file(folder: Path, meta: MatrixMeta) -> Path:
    """The file of vectors that the meta names; it must be in the folder itself.

    Raises:
        BadInput: the meta names a file elsewhere, or one that is not named as vectors are.
    """
    return inside(folder, meta.vectors, _VECTORS_NAME, f"content matrix {folder}")


def reduction_file(folder: Path, meta: ReductionMeta) -> Path:
    """The file of the map, with the same check as `vectors_file`."""
    return inside(folder, meta.file, _REDUCTION_NAME, f"content matrix {folder}")


def read_meta(folder: Path) -> MatrixMeta:
    """The meta of the matrix in a folder.

    Raises:
        BadInput: meta.json is missing, is not that of a matrix, has changed, or names files outside the folder.
    """
    file = folder / META
    meta = parse_settings(MatrixMeta, read_sealed(file, "content matrix"), f"content matrix {file}")
    vectors_file(folder, meta)
    if meta.reduction is not None:
        reduction_file(folder, meta.reduction)
    if meta.blocks is not None and len(meta.blocks) != meta.num_blocks:
        raise BadInput(f"content matrix {file}: {len(meta.blocks)} digests for {meta.rows} rows; {WAY_BACK}")
    return meta


def write_meta(folder: Path, meta: MatrixMeta) -> None:
    """Writes meta.json atomically, which makes the rows that it names valid."""
    write_whole(folder / META, json.dumps(sealed(meta.model_dump()), indent=1))


def open_matrix(folder: Path) -> tuple[Vectors, MatrixMeta]:
    """The vectors, float16 [rows, dim], memory-mapped and not yet read, and their `meta.json`.

    Raises:
        BadInput: meta.json is missing or wrong, or the file of vectors is missing or too short.
    """
    meta = read_meta(folder)
    vectors = vectors_file(folder, meta)
    if not vectors.is_file():
        raise BadInput(f"content matrix {folder}: {vectors.name} is missing; {WAY_BACK}")
    have = vectors.stat().st_size
    if have < meta.bytes:  # a longer file is fine: a run is extending it, or was killed while extending it
        raise BadInput(f"{vectors}: {have} bytes, but {meta.rows} x {meta.dim} fp16 need {meta.bytes}; {WAY_BACK}")
    if meta.blocks is None:
        warn_unverified(folder, "it is next extended")
    return Vectors(vectors, meta), meta


def block_digests(file: Path, rows: int, dim: int, blocks: Iterable[int]) -> list[str]:
    """SHA-256 of the given blocks of a file with `rows` valid rows of width `dim`."""
    with file.open("rb") as vectors:
        return [_digest_at(vectors.fileno(), *_span(block, rows, dim)) for block in blocks]


def require_blocks(file: Path, meta: MatrixMeta, blocks: Iterable[int] | None = None) -> None:
    """Refuses a matrix whose bytes have changed in any of the given blocks (by default all).

    Raises:
        BadInput: one line with the file, the first changed block of rows and how to repair it.
    """
    if meta.blocks is None:
        return
    for block in range(meta.num_blocks) if blocks is None else blocks:
        if block_digests(file, meta.rows, meta.dim, [block]) != [meta.blocks[block]]:
            last = min((block + 1) * BLOCK_ROWS, meta.rows) - 1
            raise BadInput(
                f"{file}: rows {block * BLOCK_ROWS} .. {last} have changed since they were written (SHA-256 differs);"
                f" {WAY_BACK}"
            )


def _span(block: int, rows: int, dim: int) -> tuple[int, int]:
    """The offset of a block's first byte, and that after its last."""
    return block * BLOCK_ROWS * dim * 2, min((block + 1) * BLOCK_ROWS, rows) * dim * 2


def _digest_at(descriptor: int, start: int, stop: int) -> str:
    """SHA-256 of a range of bytes. They are read, not mapped, so that they do not stay in the process's memory."""
    digest = hashlib.sha256()
    for offset in range(start, stop, _CHUNK_BYTES):
        digest.update(os.pread(descriptor, min(_CHUNK_BYTES, stop - offset), offset))
    return digest.hexdigest()
