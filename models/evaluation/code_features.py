"""Item codes as a ranker's categories: each level by itself, and each prefix. Shapes: N rows, L levels."""

import numpy as np
import pyarrow as pa

MOST = 255  # categories of a column: trees learn little of rare ones


def code_features(codes_NL: np.ndarray, train: np.ndarray) -> dict[str, np.ndarray]:
    """`item_codes`, a category per level, and `item_code_prefixes`, one per first code, first two, and so on.

    Args:
        codes_NL: the items' codes; -1 where an item has none, which is a category, too.
        train: the training rows' numbers.

    Returns:
        Categories by name, uint8 [N, L]: from 1 on, the most frequent of the training rows first. Those that come after
        the MOST - 1st share 0, as do those that no training row has.
    """
    prefix_N, prefixes = np.zeros(len(codes_NL), np.int64), []
    for code_N in codes_NL.T.astype(np.int64):
        pair_N = prefix_N * (code_N.max(initial=0) + 2) + code_N + 1
        prefix_N = np.unique(pair_N, return_inverse=True)[1].reshape(-1)
        prefixes.append(_by_frequency(prefix_N, train))
    levels = [_by_frequency(code_N, train) for code_N in codes_NL.T]
    return {"item_codes": np.stack(levels, axis=1), "item_code_prefixes": np.stack(prefixes, axis=1)}


def codes_in(rows: pa.Table) -> np.ndarray:
    """Column `item_codes` of lists of one length: [N, L]."""
    return rows["item_codes"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)


def _by_frequency(value_N: np.ndarray, train: np.ndarray) -> np.ndarray:
    known_U, count_U = np.unique(value_N[train], return_counts=True)
    kept_U = known_U[np.argsort(-count_U, kind="stable")][: MOST - 1]
    place_U = np.argsort(kept_U)
    found_N = np.searchsorted(kept_U[place_U], value_N).clip(max=len(kept_U) - 1)
    is_kept_N = kept_U[place_U][found_N] == value_N
    return np.where(is_kept_N, place_U[found_N] + 1, 0).astype(np.uint8)
