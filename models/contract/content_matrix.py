"""The files of a content matrix, for readers with and without torch: row = item_idx, row 0 = padding (zeros)."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from models.contract.failures import BadInput
from models.contract.strict import parse_settings
from models.contract.whole_files import read_json, write_whole

META = "meta.json"
VECTORS = "vectors.f16"
DTYPE = "<f2"


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
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    dim: int
    dtype: Literal["float16"]
    encoder_id: str
    template_version: str | None = None
    texts: int | None = None
    vectors: str = VECTORS
    reduction: ReductionMeta | None = None
    format_version: Literal[1] = 1

    @property
    def bytes(self) -> int:
        """What the valid rows take."""
        return self.rows * self.dim * 2


def vectors_file(folder: Path, meta: MatrixMeta) -> Path:
    """The file of vectors, which lies in the folder whatever the meta says."""
    return folder / Path(meta.vectors).name


def read_meta(folder: Path) -> MatrixMeta:
    """The meta of the matrix in a folder.

    Raises:
        BadInput: there is none, or not one of a matrix.
    """
    file = folder / META
    return parse_settings(MatrixMeta, read_json(file, "content matrix"), f"content matrix {file}")


def write_meta(folder: Path, meta: MatrixMeta) -> None:
    """Makes the rows that it names valid, at once."""
    write_whole(folder / META, json.dumps(meta.model_dump(), indent=1))


def open_matrix(folder: Path) -> tuple[np.memmap, MatrixMeta]:
    """The vectors, float16 [rows, dim], mapped and not read, and what `meta.json` says of them.

    Raises:
        BadInput: the folder, its meta.json or the vectors' size is not what it should be.
    """
    meta = read_meta(folder)
    vectors = vectors_file(folder, meta)
    if not vectors.is_file():
        raise BadInput(f"content matrix {folder}: {vectors.name} is missing")
    have = vectors.stat().st_size
    if have < meta.bytes:  # longer: a run is extending it, or was killed while it did
        raise BadInput(f"{vectors}: {have} bytes, but {meta.rows} x {meta.dim} fp16 need {meta.bytes}")
    return np.memmap(vectors, dtype=DTYPE, mode="r", shape=(meta.rows, meta.dim)), meta
