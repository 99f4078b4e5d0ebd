"""Item codes as categorical features of a ranker: each level, and each prefix. Shapes: N rows, L levels."""

import numpy as np
import pyarrow as pa

MOST = 255  # categories per column, as trees learn little from rare ones


def code_features(codes_NL: np.ndarray, train: np.ndarray) -> dict[str, np.ndarray]:
    """`item_codes`: each level's code as a category. `item_code_prefixes`: each prefix of codes likewise.

    Args:
        codes_NL: the items' codes; -1 if an item has none, which is a category of its own.
        train: numbers of the training rows.

    Returns:
        Categories by name, uint8 [N, L], numbered from 1 by frequency in the training rows. Category 0 collects those
        beyond the first MOST - 1 and those that are in no training row.
    """
    prefix_N, prefixes = np.zeros(len(codes_NL), np.int64), []
    for code_N in codes_NL.T.astype(np.int64):
        pair_N = prefix_N * (code_N.max(initial=0) + 2) + code_N + 1
        prefix_N = np.unique(pair_N, return_inverse=True)[1].reshape(-1)
        prefixes.append(_by_frequency(prefix_N, train))
    levels = [_by_frequency(code_N, train) for code_N in codes_NL.T]
    return {"item_codes": np.stack(levels, axis=1), "item_code_prefixes": np.stack(prefixes, axis=1)}


def codes_in(rows: pa.Table) -> np.ndarray:
    """The column `item_codes`, whose lists all have one length, as an array [N, L]."""
    return rows["item_codes"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)


def _by_frequency(value_N: np.ndarray, train: np.ndarray) -> np.ndarray:
    known_U, count_U = np.unique(value_N[train], return_counts=True)
    kept_U = known_U[np.argsort(-count_U, kind="stable")][: MOST - 1]
    place_U = np.argsort(kept_U)
    found_N = np.searchsorted(kept_U[place_U], value_N).clip(max=len(kept_U) - 1)
    is_kept_N = kept_U[place_U][found_N] == value_N
    return np.where(is_kept_N, place_U[found_N] + 1, 0).astype(np.uint8)
