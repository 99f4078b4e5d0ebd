"""Fits the codebook of item codes: k-means on the vectors, then on the remainders of each level (RQ-KMeans).

Shapes: N vectors, K width, S centroids per level.
"""

from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from models.contract.codebook import Codebook

NOTHING = 1e-10  # share of the vectors' sum of squares; a smaller remainder is rounding error


def fitted(vector_NK: np.ndarray, levels: int, size: int, seed: int) -> Codebook:
    """The codebook of these vectors. The same vectors in the same order give the same codebook.

    A level has at most `size` centroids: fewer if it has fewer distinct remainders, but at least one. Vectors that are
    not finite are ignored.
    """
    left_NK = vector_NK[np.isfinite(vector_NK).all(1)].astype(np.float64)
    least = NOTHING * float(np.square(left_NK).sum())
    spread = float(left_NK.var(0).sum()) if len(left_NK) else 0.0
    found = []
    with threadpool_limits(1):  # several threads would sum in a different order each time
        for level in range(levels):
            centroid_SK = _centroids(left_NK, size, seed + level, least)
            found.append(centroid_SK)
            level_book = Codebook((centroid_SK,))
            left_NK = left_NK - level_book.decode(level_book.encode(left_NK))
    return Codebook(tuple(found), spread)


def _centroids(left_NK: np.ndarray, size: int, seed: int, least: float) -> np.ndarray:
    """The centroids of one level, rounded to float32, in which they are stored."""
    if float(np.square(left_NK).sum()) <= least:
        return np.zeros((1, left_NK.shape[1]))
    count = min(size, len(np.unique(left_NK, axis=0)))
    settings: dict[str, Any] = {"n_clusters": count, "n_init": 1, "max_iter": 100, "random_state": seed}
    means = KMeans(**settings).fit(left_NK)
    return means.cluster_centers_.astype(np.float32).astype(np.float64)
