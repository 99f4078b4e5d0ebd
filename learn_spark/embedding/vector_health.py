"""Checks the health of the vectors that are about to go into the matrix, by figures with limits.

Shapes: N items, one for each sampled text, D width.
"""

from pathlib import Path

import numpy as np
from pyspark.sql import functions as F

from learn_spark.config.model_sections import EmbeddingSettings
from learn_spark.embedding.matrix import Extension, is_whole, known_meta, read_rows
from learn_spark.embedding.sample import sampled_vectors
from learn_spark.errors import QualityError
from learn_spark.lake.frames import only_row
from learn_spark.quality.drift import neighbour_overlap
from learn_spark.quality.gates import Gate, effective_rank
from models.contract.content_matrix import META, MatrixMeta
from models.contract.failures import BadInput

SAMPLE = 2000
ENOUGH = 100  # fewer vectors say nothing about their spread


def require_health(extension: Extension, settings: EmbeddingSettings) -> list[Gate]:
    """Checks the gates over the rows to be written: norms and duplicates over all of the encoder's vectors, effective
    rank and neighbour overlap over a sample as the matrix will hold it.

    Raises:
        QualityError: names every figure that is out of its limits; the matrix stays as it was.
    """
    gates = [*_counted(extension, settings), *_sampled(extension, settings)]
    failed = [str(gate) for gate in gates if not gate.passed]
    if failed:
        raise QualityError(
            f"embed_items: the content matrix is left as it was, gates of `embedding` failed: {'; '.join(failed)}"
        )
    return gates


def _counted(extension: Extension, settings: EmbeddingSettings) -> list[Gate]:
    texts_df = extension.rows_df.where(F.col("flag").isNull()).select(
        "text_hash", "norm", F.xxhash64("embedding").alias("vector")
    )
    found = only_row(
        texts_df.agg(
            F.count_distinct("text_hash").alias("texts"),
            F.count_distinct("vector").alias("vectors"),
            F.count_if(F.col("norm") == 0).alias("zeros"),
        )
    )
    gates = [Gate("content_zero_norms", found["zeros"], upper=0)]
    if found["texts"] >= ENOUGH:
        share = 1 - found["vectors"] / found["texts"]
        gates.append(Gate("content_duplicate_share", share, upper=settings.gates.max_duplicate_share))
    return gates


def _sampled(extension: Extension, settings: EmbeddingSettings) -> list[Gate]:
    if extension.wanted < ENOUGH:  # items, and there are no more texts than items
        return []
    idx_N, vectors_ND = sampled_vectors(extension.rows_df, SAMPLE)
    if len(idx_N) < ENOUGH:
        return []
    if extension.reduction is not None:
        vectors_ND = extension.reduction.reduced(vectors_ND).astype(np.float32)
    # The mean, which is large in decoders, says nothing about the vectors' spread.
    rank = effective_rank(vectors_ND - vectors_ND.mean(axis=0))
    gates = [Gate("content_effective_rank", rank, lower=settings.gates.min_effective_rank)]
    before = _matrix_before(extension)
    if before is not None:
        overlap = _overlap(*before, idx_N, vectors_ND)
        if overlap is not None:
            gates.append(Gate("content_neighbour_overlap", overlap, lower=settings.gates.min_neighbour_overlap))
    return gates


def _matrix_before(extension: Extension) -> tuple[Path, MatrixMeta] | None:
    """The matrix that a new file replaces: this folder's, else the newest one beside it; None for an appended one."""
    if extension.first_row:
        return None
    metas = extension.folder.parent.glob(f"*/{META}")
    beside = [path.parent for path in sorted(metas, key=lambda path: path.stat().st_mtime, reverse=True)]
    for folder in (extension.folder, *beside):
        meta = known_meta(folder)
        if meta is not None and is_whole(folder, meta):
            return folder, meta
    return None


def _overlap(folder: Path, meta: MatrixMeta, idx_N: np.ndarray, vectors_ND: np.ndarray) -> float | None:
    """Over the sampled items with a vector in both matrices; None if they are too few, or the old file is damaged."""
    known_N = idx_N < meta.rows
    try:
        before_ND = read_rows(folder, idx_N[known_N])
    except BadInput:
        return None
    has_vector = before_ND.any(axis=1)
    if has_vector.sum() < ENOUGH:
        return None
    return neighbour_overlap(vectors_ND[known_N][has_vector], before_ND[has_vector])
