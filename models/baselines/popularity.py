"""Popularity: every user gets the most bought items. Shapes: I items, N known items, R rows of a snapshot."""

import numpy as np

from models.contract.snapshot import Snapshot
from models.data.stream import read_column

DAY_SECONDS = 86400


def log_popularity(count_I: np.ndarray) -> np.ndarray:
    """log(1 + purchases) of every item, float32. It is the baseline's score, and the prior added to other scores."""
    return np.log1p(count_I).astype(np.float32)


def count_items(items: np.ndarray, num_rows: int) -> np.ndarray:
    """How often every item occurs in an array of item_idx, without padding (0): int64 [I]."""
    return np.bincount(items[items > 0].ravel(), minlength=num_rows)


def recent_log_popularity(snapshot: Snapshot, num_rows: int, days: int) -> np.ndarray:
    """`log_popularity` over the last `days` days of a snapshot's histories (hist_items, hist_ts)."""
    items, event_ts = read_column(snapshot, "hist_items"), read_column(snapshot, "hist_ts")
    is_recent = (items > 0) & (event_ts > event_ts.max() - days * DAY_SECONDS)
    return log_popularity(count_items(items[is_recent], num_rows))


def known_log_popularity(item_N: np.ndarray, purchases_N: np.ndarray, num_rows: int) -> np.ndarray:
    """`log_popularity` of all items [I], from the known items' purchases; other items count 0 purchases."""
    count_I = np.zeros(num_rows, np.int64)
    count_I[item_N] = purchases_N
    return log_popularity(count_I)


def trained_items(snapshot: Snapshot, num_rows: int) -> np.ndarray:
    """item_idx of all items in the snapshot's histories and targets, ascending."""
    counts = [count_items(read_column(snapshot, name), num_rows) for name in ("hist_items", "tar_items")]
    return np.flatnonzero(sum(counts))


def training_counts(user_R: np.ndarray, hist_items_RH: np.ndarray, tar_items_RT: np.ndarray, num: int) -> np.ndarray:
    """Occurrences of every item in training rows: int64 [I].

    Counts the targets of all rows and the history of each user's first row (the shortest). Where a user's rows are all
    prefixes of his or her events, this counts every event once. A target in several rows counts once per row. An item
    that is only in later histories (its event fell between the rows) counts once.
    """
    length_R = (hist_items_RH > 0).sum(1)
    order_R = np.lexsort((length_R, user_R))
    _, first = np.unique(user_R[order_R], return_index=True)
    count_I = count_items(tar_items_RT, num) + count_items(hist_items_RH[order_R[first]], num)
    return np.maximum(count_I, count_items(hist_items_RH, num) > 0)
