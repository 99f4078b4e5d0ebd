"""Residual quantisation, number by number."""

from collections.abc import Sequence


def residual_codes(vector: Sequence[float], levels: Sequence[Sequence[Sequence[float]]]) -> list[int]:
    """The place of the nearest centroid, level by level, of what the levels before have left."""
    left, codes = [*map(float, vector)], []
    for centroids in levels:
        distances = [sum((a - b) ** 2 for a, b in zip(left, centroid, strict=True)) for centroid in centroids]
        codes.append(distances.index(min(distances)))
        left = [a - b for a, b in zip(left, centroids[codes[-1]], strict=True)]
    return codes
