"""How far a release's vectors moved from the previous release's. Shapes: N entities of both releases, K width."""

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.lake.frames import frame_of
from learn_spark.quality.gates import unit

SAMPLE = 2048
NEIGHBOURS = 10


def paired_vectors(
    new: DataFrame, old: DataFrame, key: str, column: str, at_least: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most 2,048 entities that both frames have, the same ones in every run, as [N, K] and [N, K of the old].

    Args:
        new, old: `key`, `ds` and `column`; of several rows of an entity the newest counts.
        key: the entity's id.
        column: the vectors.
        at_least: if the frames share fewer entities, no vector is read, and none returned.
    """
    ids = new.select(key).intersect(old.select(key))
    drawn = ids.orderBy(F.xxhash64(key), key).limit(SAMPLE).collect()
    if len(drawn) < max(at_least, 1):
        return np.zeros((0, 1)), np.zeros((0, 1))
    drawn_df = frame_of(new.sparkSession, drawn, f"{key} string")
    rows = _newest(new, drawn_df, key, column, "new").join(_newest(old, drawn_df, key, column, "old"), key, "inner")
    found = {row[key]: row for row in rows.collect()}
    pairs = [found[entity] for (entity,) in drawn]
    return np.array([row.new for row in pairs], np.float64), np.array([row.old for row in pairs], np.float64)


def centroid_shift(new_NK: np.ndarray, old_NK: np.ndarray) -> float:
    """How far the mean vector moved, in units of the old vectors' root mean square length; NaN if the widths differ."""
    if new_NK.shape != old_NK.shape:
        return float("nan")
    length = np.sqrt((old_NK**2).sum(1).mean())
    return float(np.linalg.norm(new_NK.mean(0) - old_NK.mean(0)) / max(length, 1e-12))


def vector_cosine(new_NK: np.ndarray, old_NK: np.ndarray) -> float:
    """The mean cosine of an entity's two vectors if neither is zeros; NaN if the widths differ, or none is left."""
    if new_NK.shape != old_NK.shape:
        return float("nan")
    is_there_N = new_NK.any(1) & old_NK.any(1)
    if not is_there_N.any():
        return float("nan")
    return float((unit(new_NK[is_there_N]) * unit(old_NK[is_there_N])).sum(1).mean())


def neighbour_overlap(new_NK: np.ndarray, old_NK: np.ndarray) -> float:
    """The mean share of an entity's nearest neighbours by cosine that are the same in both sets of vectors."""
    count = min(NEIGHBOURS, len(new_NK) - 1)
    near_new, near_old = (_nearest(unit(vectors), count) for vectors in (new_NK, old_NK))
    shared = [len(set(a) & set(b)) for a, b in zip(near_new.tolist(), near_old.tolist(), strict=True)]
    return float(np.mean(shared) / max(count, 1))


def _nearest(unit_NK: np.ndarray, count: int) -> np.ndarray:
    cosine_NN = unit_NK @ unit_NK.T
    np.fill_diagonal(cosine_NN, -np.inf)
    return np.argpartition(-cosine_NN, max(count - 1, 0), axis=1)[:, :count]


def _newest(df: DataFrame, drawn: DataFrame, key: str, column: str, name: str) -> DataFrame:
    kept = df.join(F.broadcast(drawn), on=key, how="inner")
    return kept.groupBy(key).agg(F.max_by(column, "ds").alias(name))
