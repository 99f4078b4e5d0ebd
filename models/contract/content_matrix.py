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
FP16_MAX = 65504.0  # beyond it a number is infinite in a matrix
BLOCK_ROWS = 1 << 16  # rows under one digest; part of the format
_VECTORS_NAME = r"vectors(-[0-9]+)?\.f16"
_REDUCTION_NAME = r"reduction\.safetensors"
_CHUNK_BYTES = 1 << 20


class ReductionMeta(BaseModel):
    """Which map made a matrix of fewer numbers per item, and what it cost.

    Attributes:
        file: the map, beside the matrix.
        sha256: of that file.
        full_dim: width of the encoder's vectors; the matrix's is `dim`.
        explained_variance: share of the measured vectors' variance that the map keeps.
        neighbour_overlap: share of a measured text's 10 nearest among the measured ones that it keeps, by cosine.
        fitted: texts that the map was fitted to.
        measured: texts that were measured; others than the fitted ones where there are enough.
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
        format_version: of these keys; the first version did not say it.
        rows: valid rows, the padding row included.
        dim, dtype: of a row.
        encoder_id: what made the vectors.
        template_version: of the texts that they were made of; None where they were made of none.
        texts: digest over (item_idx, text_hash, flag) of these rows; other texts need another file.
        vectors: name of the file.
        reduction: the map from the encoder's vectors to these; None where they are the encoder's own.
        blocks: SHA-256 of the valid rows, `BLOCK_ROWS` at a time; None where an earlier release wrote them.
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
        """What the valid rows take."""
        return self.rows * self.dim * 2

    @property
    def num_blocks(self) -> int:
        """How many digests the valid rows have."""
        return -(-self.rows // BLOCK_ROWS)


class Vectors:
    """The valid rows of a matrix, mapped; a block of them is read whole, and verified, when its first row is wanted.

    A block is verified once per process, as long as the file stays as it is.

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
            BadInput: bytes of their blocks have changed.
        """
        if self._is_verified is not None:
            blocks_N = rows_N // BLOCK_ROWS
            for block in np.unique(blocks_N[~self._is_verified[blocks_N]]).tolist():
                require_blocks(self._file, self._meta, [block % self._meta.num_blocks])
                self._is_verified[block] = True
        return self._mapped[rows_N]

    @property
    def nbytes(self) -> int:
        """What the rows take on disk."""
        return self._meta.bytes

    def give_pages_back(self) -> None:
        """Takes the pages that were read out of this process; the system's cache keeps them."""
        mapped = self._mapped._mmap  # pyright: ignore[reportAttributeAccessIssue] - numpy's own, not in its stubs
        mapped.madvise(mmap.MADV_DONTNEED)


@lru_cache(maxsize=64)
def _is_verified(file: Path, _: FileState, blocks: tuple[str, ...]) -> np.ndarray:
    """Which blocks this process has verified; shared by all who open the same file."""
    return np.zeros(len(blocks), bool)


def vectors_file(folder: Path, meta: MatrixMeta) -> Path:
    """The file of vectors, which lies in the folder whatever the meta says.

    Raises:
        BadInput: the meta names something else.
    """
    return inside(folder, meta.vectors, _VECTORS_NAME, f"content matrix {folder}")


def reduction_file(folder: Path, meta: ReductionMeta) -> Path:
    """The file of the map, likewise."""
    return inside(folder, meta.file, _REDUCTION_NAME, f"content matrix {folder}")


def read_meta(folder: Path) -> MatrixMeta:
    """The meta of the matrix in a folder.

    Raises:
        BadInput: there is none, or not one of a matrix; it has changed, or names files elsewhere.
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
    """Makes the rows that it names valid, at once."""
    write_whole(folder / META, json.dumps(sealed(meta.model_dump()), indent=1))


def open_matrix(folder: Path) -> tuple[Vectors, MatrixMeta]:
    """The vectors, float16 [rows, dim], mapped and not read, and what `meta.json` says of them.

    Raises:
        BadInput: the folder, its meta.json or the vectors' size is not what it should be.
    """
    meta = read_meta(folder)
    vectors = vectors_file(folder, meta)
    if not vectors.is_file():
        raise BadInput(f"content matrix {folder}: {vectors.name} is missing; {WAY_BACK}")
    have = vectors.stat().st_size
    if have < meta.bytes:  # longer: a run is extending it, or was killed while it did
        raise BadInput(f"{vectors}: {have} bytes, but {meta.rows} x {meta.dim} fp16 need {meta.bytes}; {WAY_BACK}")
    if meta.blocks is None:
        warn_unverified(folder, "it is next extended")
    return Vectors(vectors, meta), meta


def block_digests(file: Path, rows: int, dim: int, blocks: Iterable[int]) -> list[str]:
    """SHA-256 of some blocks of a file that has so many valid rows."""
    with file.open("rb") as vectors:
        return [_digest_at(vectors.fileno(), *_span(block, rows, dim)) for block in blocks]


def require_blocks(file: Path, meta: MatrixMeta, blocks: Iterable[int] | None = None) -> None:
    """Refuses a matrix with changed bytes in some of its blocks, or in any.

    Raises:
        BadInput: in one line, with the file, the first rows that have changed and the way back.
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
    """First byte of a block, and the one behind its last."""
    return block * BLOCK_ROWS * dim * 2, min((block + 1) * BLOCK_ROWS, rows) * dim * 2


def _digest_at(descriptor: int, start: int, stop: int) -> str:
    """Of a range of bytes; read, not mapped, so that they do not stay in the process."""
    digest = hashlib.sha256()
    for offset in range(start, stop, _CHUNK_BYTES):
        digest.update(os.pread(descriptor, min(_CHUNK_BYTES, stop - offset), offset))
    return digest.hexdigest()
