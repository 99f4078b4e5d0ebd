"""Writes rows of the content matrix: tasks write one file per block; the driver copies the files to their places.

So no file is written by several tasks at once, which mounted file systems and buckets handle badly, and Spark collects
no vectors.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.embedding.reduction import Reduction
from learn_spark.lake.task_files import TaskFiles, task_files
from models.contract.content_matrix import BLOCK_ROWS
from models.contract.verified import file_digest

_WRITTEN = "name string, first_row bigint, rows bigint, sha256 string"
_THREADS = 4
_COPIED_AT_ONCE = 8 << 20


def write_rows(rows_df: DataFrame, file: Path, dim: int, reduction: Reduction | None) -> int:
    """Writes vectors at their rows; within a block, the rows between them become zeros.

    Args:
        rows_df: (item_idx, embedding); within a block, no row of the file that must stay lies between them.
        file: of the matrix, already long enough.
        dim: numbers per row of the file.
        reduction: the map that is applied to the vectors before they are written, if any.

    Returns:
        How many vectors were written.
    """
    for leftover in file.parent.glob(f".{file.name}.*"):
        shutil.rmtree(leftover)
    folder = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    with task_files(folder) as gathered:
        written = (
            rows_df.select("item_idx", "embedding")
            .repartition(F.expr(f"item_idx div {BLOCK_ROWS}"))
            .sortWithinPartitions("item_idx")
            .mapInPandas(_block_writer(gathered, dim, reduction), _WRITTEN)
            .collect()
        )
        gathered.gather({row.name: row.sha256 for row in written})
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda row: _place(folder / row.name, file, row.first_row * dim * 2), written))
    folder.rmdir()
    return sum(row.rows for row in written)


def _block_writer(
    gathered: TaskFiles, dim: int, reduction: Reduction | None
) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """The function for `mapInPandas`: writes sorted (item_idx, embedding) rows to one file per block."""

    def write(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for block, pieces in groupby(_cut(batches), key=lambda piece: piece["item_idx"].iloc[0] // BLOCK_ROWS):
            name, first, count = f"rows-{block}", None, 0
            with gathered.new(name) as path:
                with path.open("wb") as file:
                    for piece_pdf in pieces:
                        rows_N, embeddings_N = piece_pdf["item_idx"].to_numpy(), piece_pdf["embedding"].to_numpy()
                        if reduction is not None:
                            embeddings_N = _reduced(embeddings_N, reduction)
                        first = int(rows_N[0]) if first is None else first
                        starts_R = np.flatnonzero(np.diff(rows_N, prepend=-2) != 1)
                        for start, end in zip(starts_R, [*starts_R[1:], len(rows_N)], strict=True):
                            file.seek((int(rows_N[start]) - first) * dim * 2)
                            file.write(b"".join(embeddings_N[start:end]))
                        count += len(rows_N)
                digest = file_digest(path)
            yield pd.DataFrame({"name": [name], "first_row": [first], "rows": [count], "sha256": [digest]})

    return write


def _cut(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Splits sorted rows where a block ends."""
    for batch_pdf in batches:
        yield from (piece_pdf for _, piece_pdf in batch_pdf.groupby(batch_pdf["item_idx"] // BLOCK_ROWS))


def _reduced(embeddings_N: np.ndarray, reduction: Reduction) -> list[bytes]:
    vectors_ND = np.frombuffer(b"".join(embeddings_N), "<f2").reshape(len(embeddings_N), reduction.meta.full_dim)
    return [row_K.tobytes() for row_K in reduction.reduced(vectors_ND)]


def _place(part: Path, file: Path, offset: int) -> None:
    """Moves a part into the matrix's file; the part is deleted at once, so that all parts need little extra room."""
    with part.open("rb") as source, file.open("r+b") as vectors:
        vectors.seek(offset)
        shutil.copyfileobj(source, vectors, _COPIED_AT_ONCE)
        vectors.flush()
        os.fsync(vectors.fileno())
    part.unlink()
