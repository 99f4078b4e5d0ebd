"""The rows, candidates and targets that every retrieval system is measured on.

docs/decisions/0008-one-retrieval-evaluator.md defines what the figures measure.

Shapes: B test rows, H history length, T target length, I items (including padding, item 0), N known items,
P (row, item) pairs of targets, Q (row, item) pairs of items that users had before.
"""

from pathlib import Path

import numpy as np

from models.baselines.popularity import (
    known_log_popularity,
    log_popularity,
    recent_log_popularity,
    training_counts,
)
from models.contract.evaluation_specs import SystemsSpec
from models.contract.failures import BadInput
from models.contract.snapshot import Snapshot, open_snapshot
from models.contract.whole_files import require_folder
from models.data.content import ContentMatrix
from models.data.stream import read_column
from models.evaluation.validation import distinct_targets
from models.metrics.segments import Segments
from models.towers.repeats import held_pairs

TRAIN_COLUMNS = ("user_id", "hist_items", "tar_items")
UNKNOWN = "tar_unknown"  # optional column of test rows: how many targets have no item_idx
TEST_COLUMNS = ("user_id", "hist_items", "hist_ts", "hist_len", "tar_items")


class RetrievalRows:
    """The data of a `SystemsSpec` as arrays.

    Attributes:
        content: the content matrix.
        train, test: columns of the snapshots by name.
        event_types: names of the codes in the test rows' hist_types; empty if there are none.
        count_I: number of occurrences in training.
        popularity_I: log(1 + purchases) in the days before the test day; without a test day, over the training rows.
        prior_I: the log popularity that `popularity_prior` multiplies.
        is_candidate_I: whether an item is a candidate at all.
        target_P2: (row, item) of the targets, sorted by row.
        is_new_P: whether the target is new to the user, who never had the item before.
        seen_Q2: (row, item) of the items that users had before, sorted by row.
        num_dropped: number of targets left out because the user had them before.
    """

    def __init__(self, spec: SystemsSpec) -> None:
        self.spec = spec
        self.content = ContentMatrix(require_folder(spec.content_matrix, "content_matrix"))
        train, test = (opened(getattr(spec, key), key) for key in ("train_snapshot", "test_snapshot"))
        self.train = {name: read_column(train, name) for name in TRAIN_COLUMNS}
        self.event_types = test.event_types
        columns = [*TEST_COLUMNS, *(name for name in (UNKNOWN, "hist_types") if name in test.schema)]
        self.test = {name: read_column(test, name) for name in columns}
        for rows in (self.train, self.test):
            for name in ("hist_items", "tar_items"):
                self._check_items(rows[name])
        self.count_I = training_counts(*(self.train[name] for name in TRAIN_COLUMNS), num=self.content.rows)
        self.is_candidate_I = np.arange(self.content.rows) > 0
        if spec.known_items:
            self._read_known(spec.known_items)
        else:
            self.popularity_I = log_popularity(self.count_I)
            self.prior_I = recent_log_popularity(test, self.content.rows, spec.popularity_days)
        self.target_P2, self.is_new_P, self.seen_Q2 = self._targets()
        self.num_dropped = 0
        if spec.filter_seen:
            self.num_dropped = int((~self.is_new_P).sum())
            self.target_P2, self.is_new_P = self.target_P2[self.is_new_P], self.is_new_P[self.is_new_P]
        if not len(self.target_P2):
            raise BadInput(f"test_snapshot: no row of {test.path} has a history and a target to rank")

    def _check_items(self, items: np.ndarray) -> None:
        largest = int(items.max(initial=0))
        if largest >= self.content.rows:
            raise BadInput(
                f"item_idx {largest} of the snapshots is outside the content matrix of {self.content.rows} rows"
            )

    def _read_known(self, known_items: Path) -> None:
        known = opened(known_items, "known_items")
        item_N = read_column(known, "item_idx")
        self._check_items(item_N)
        self.popularity_I = known_log_popularity(item_N, read_column(known, "purchases"), self.content.rows)
        self.prior_I = self.popularity_I
        if self.spec.candidates == "known":
            self.is_candidate_I = np.isin(np.arange(self.content.rows), item_N[item_N > 0])

    def _targets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(row, item) of the targets, sorted by row; whether they are new to the user; (row, item) of seen items."""
        if self.spec.purchases:
            pair_2, is_target, is_seen = self._purchases(opened(self.spec.purchases, "purchases"))
            seen_Q2 = pair_2[is_seen & (pair_2[:, 1] > 0)]
            return pair_2[is_target], ~is_seen[is_target], seen_Q2
        target_P2 = self._with_unknown(distinct_targets(self.test["hist_len"], self.test["tar_items"]))
        seen_Q2, _ = held_pairs(self.test["hist_items"])
        key_Q, key_P = (pair_2 @ [self.content.rows, 1] for pair_2 in (seen_Q2, target_P2))
        return target_P2, ~np.isin(key_P, key_Q), seen_Q2

    def _with_unknown(self, target_P2: np.ndarray) -> np.ndarray:
        """Adds each row's targets without an item_idx as item 0. This is no candidate, so every system misses them."""
        unknown_B = np.where(self.test["hist_len"] > 0, self.test.get(UNKNOWN, 0), 0)
        missed_U2 = np.stack([np.repeat(np.arange(len(unknown_B)), unknown_B), np.zeros(unknown_B.sum(), int)], axis=1)
        pair_2 = np.concatenate([target_P2, missed_U2])
        return pair_2[np.lexsort((pair_2[:, 1], pair_2[:, 0]))]

    def _targets_trained(self) -> int:
        """How many targets are also among the same user's targets in training."""
        row_P, item_P = self.target_P2.T
        row_T, column_T = np.nonzero(self.train["tar_items"])
        user_T, user_P = self.train["user_id"][row_T], self.test["user_id"][row_P]
        _, number = np.unique(np.concatenate([user_T, user_P]), return_inverse=True)
        items = np.concatenate([self.train["tar_items"][row_T, column_T].astype(np.int64), item_P])
        key = number * self.content.rows + items
        return int(np.isin(key[len(user_T) :], key[: len(user_T)]).sum())

    def _purchases(self, purchases: Snapshot) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sorted (row, item) of the purchases of the rows' users, and whether each was in the window, or before it."""
        users_B, row_U = np.unique(self.test["user_id"], return_index=True)
        if len(users_B) < len(self.test["user_id"]):
            raise BadInput("purchases are those of users, but test_snapshot has several rows of a user")
        user_id, item = (read_column(purchases, name) for name in ("user_id", "item_idx"))
        self._check_items(item)
        place = np.searchsorted(users_B, user_id).clip(max=len(users_B) - 1)
        if (users_B[place] != user_id).any():
            raise BadInput(f"snapshot {purchases.path} holds users that test_snapshot lacks")
        pair_2 = np.stack([row_U[place], item], axis=1).astype(np.int64)
        order = np.lexsort((pair_2[:, 1], pair_2[:, 0]))
        order = order[self.test["hist_len"][pair_2[order, 0]] > 0]
        is_target, is_seen = (read_column(purchases, name)[order] > 0 for name in ("is_target", "is_seen"))
        return pair_2[order], is_target, is_seen

    def segments(self) -> Segments:
        """All targets, with segments by the item's occurrences in training and by the length of the row's history."""
        spec, (row_P, item_P) = self.spec, self.target_P2.T
        count_P, length_P = self.count_I[item_P], self.test["hist_len"][row_P]
        is_cold_P, is_tail_P = count_P <= spec.cold_item_max, count_P <= spec.long_tail_max
        is_in = {
            "all": np.ones(len(row_P), bool),
            "cold_items": is_cold_P,
            "long_tail_items": is_tail_P & ~is_cold_P,
            "other_items": ~is_tail_P & ~is_cold_P,
            "cold_users": length_P <= spec.cold_user_max,
            "other_users": length_P > spec.cold_user_max,
        }
        return self._segments(row_P, is_in)

    def new_to_user(self) -> Segments:
        """The targets that are new to the user, for a ranking without the items that the user had before."""
        row_P = self.target_P2[self.is_new_P, 0]
        return self._segments(row_P, {"all": np.ones(len(row_P), bool)})

    def _segments(self, row_P: np.ndarray, is_in: dict[str, np.ndarray]) -> Segments:
        user_P = np.unique(self.test["user_id"][row_P], return_inverse=True)[1]
        return Segments(row_P, user_P, is_in, self.spec.ks, self.spec.resamples, self.spec.seed)

    def about(self) -> dict[str, int]:
        """Counts of the data."""
        is_cold_I, is_tail_I = (self.count_I <= most for most in (self.spec.cold_item_max, self.spec.long_tail_max))
        return {
            "rows": len(np.unique(self.target_P2[:, 0])),
            "users": len(np.unique(self.test["user_id"][self.target_P2[:, 0]])),
            "targets": len(self.target_P2),
            "targets_no_candidate": int((~self.is_candidate_I[self.target_P2[:, 1]]).sum()),
            "targets_new": int(self.is_new_P.sum()),
            "targets_trained": self._targets_trained(),
            "items": self.content.rows - 1,
            "candidates": int(self.is_candidate_I.sum()),
            "cold_items": int((is_cold_I & self.is_candidate_I).sum()),
            "long_tail_items": int((is_tail_I & ~is_cold_I & self.is_candidate_I).sum()),
            "rows_without_history": int((self.test["hist_len"] == 0).sum()),
            "targets_seen_left_out": self.num_dropped,
            "train_rows": len(self.train["user_id"]),
            "train_users": len(np.unique(self.train["user_id"])),
        }


def opened(path: Path, key: str) -> Snapshot:
    """Opens a snapshot, which must hold rows; `key` is its key in the spec, for errors."""
    snapshot = open_snapshot(require_folder(path, key))
    if not snapshot.rows:
        raise BadInput(f"snapshot {snapshot.path} holds no rows")
    return snapshot
