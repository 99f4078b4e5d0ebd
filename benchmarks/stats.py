"""Statistics of paired measurements: ratios with intervals, and the line T = a + b n."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
SEED = 7


@dataclass(frozen=True)
class Estimate:
    """A median and its 90% interval."""

    value: float
    low: float
    high: float


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> Estimate:
    """The median of the rounds' ratios, with a bootstrap interval over the rounds (percentiles 5 and 95).

    Args:
        over: one figure per round.
        under: the figures of the same rounds, in the same order.
    """
    ratios = np.divide(over, under)
    draws = np.random.default_rng(SEED).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [5, 95])
    return Estimate(float(np.median(ratios)), float(low), float(high))


def fitted_line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(a, b) of T = a + b n by least squares.

    Raises:
        ValueError: there are fewer than two different sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError(f"a line needs two sizes, not {list(sizes)}")
    slope, intercept = np.polyfit(sizes, seconds, deg=1)
    return float(intercept), float(slope)


def slopes(rounds_by_size: dict[float, Sequence[float]]) -> list[float]:
    """The slope b of every round, fitted to the round's seconds at all sizes."""
    sizes = sorted(rounds_by_size)
    return [fitted_line(sizes, seconds)[1] for seconds in zip(*(rounds_by_size[n] for n in sizes), strict=False)]
