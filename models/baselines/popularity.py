"""Popularity: everybody gets the most bought items."""

import numpy as np


def log_popularity(count_I: np.ndarray) -> np.ndarray:
    """log(1 + purchases) of every item, float32: as a score the baseline, as a summand the prior."""
    return np.log1p(count_I).astype(np.float32)
