"""Residual quantisation, number by number."""

from collections.abc import Sequence


def residual_codes(vector: Sequence[float], levels: Sequence[Sequence[Sequence[float]]]) -> list[int]:
    """Level by level, the index of the centroid nearest to the remainder of the levels before."""
    left, codes = [*map(float, vector)], []
    for centroids in levels:
        distances = [sum((a - b) ** 2 for a, b in zip(left, centroid, strict=True)) for centroid in centroids]
        codes.append(distances.index(min(distances)))
        left = [a - b for a, b in zip(left, centroids[codes[-1]], strict=True)]
    return codes
