"""Retrieval over all items on a validation snapshot. It chooses the best state in the training of several models.

Shapes: B rows, I items, K embedding width, T target length, P (row, target) pairs, Q (row, item) pairs of history.
"""

from functools import cached_property

import numpy as np
import torch

from models.baselines.popularity import recent_log_popularity
from models.contract.failures import BadInput
from models.contract.settings import ValidationConfig
from models.contract.snapshot import Snapshot
from models.data.stream import read_column
from models.metrics.ranks import recall_ndcg, target_ranks
from models.towers.repeats import held_pairs


class Validation:
    """Rows of a validation snapshot, and the figures of any embeddings on them.

    Args:
        val: the snapshot.
        num_rows: number of rows of the content matrix; items 1 .. num_rows - 1 are the candidates.
        config: metric, k and prior.
        columns: columns that the model reads besides hist_items and hist_len.

    Attributes:
        rows: the columns by name.
        metric: the figure that chooses the best state.

    Raises:
        BadInput: no row has both a history and a target.
    """

    def __init__(self, val: Snapshot, num_rows: int, config: ValidationConfig, columns: tuple[str, ...] = ()) -> None:
        self.k, self.metric = config.k, f"{config.metric}_at_{config.k}"
        self.rows = {name: read_column(val, name) for name in ("hist_items", "hist_len", "tar_items", *columns)}
        self.target_P2 = distinct_targets(self.rows["hist_len"], self.rows["tar_items"])
        if not len(self.target_P2):
            raise BadInput(f"val_snapshot: no row of {val.path} has both a history and a target")
        self.popularity_prior = config.popularity_prior
        self._popularity_I = recent_log_popularity(val, num_rows, config.popularity_days)

    def figures(
        self,
        user_BK: np.ndarray,
        item_IK: np.ndarray,
        repeat_bias: float | None = None,
        popularity_prior: float | None = None,
    ) -> dict[str, float]:
        """recall_at_k and ndcg_at_k of a ranking by inner product plus prior, and `users`, the number of rows averaged.

        Args:
            user_BK, item_IK: embeddings.
            repeat_bias: added to the scores of items that the history holds; None: nothing is added.
            popularity_prior: weight of log popularity; None: the config's.
        """
        held = {} if repeat_bias is None else {"held_Q2": self._held_Q2, "held_bias": repeat_bias}
        prior_I = (self.popularity_prior if popularity_prior is None else popularity_prior) * self._popularity_I
        prior_I[0] = -np.inf  # padding is no candidate
        vectors = map(torch.from_numpy, (user_BK, item_IK, prior_I))
        rank_P = target_ranks(*vectors, target_P2=self.target_P2, **held)
        users_B, row_P, count_B = np.unique(self.target_P2[:, 0], return_inverse=True, return_counts=True)
        recall, ndcg = recall_ndcg(rank_P, row_P, count_B, self.k)
        return {f"recall_at_{self.k}": recall, f"ndcg_at_{self.k}": ndcg, "users": len(users_B)}

    @cached_property
    def _held_Q2(self) -> np.ndarray:
        """(row, item) of the items that the histories hold; the same at every evaluation."""
        return held_pairs(self.rows["hist_items"])[0]


def distinct_targets(hist_len_B: np.ndarray, tar_items_BT: np.ndarray) -> np.ndarray:
    """(row, item_idx) of every distinct target of rows with a history, sorted: int64 [P, 2]."""
    rows, columns = np.nonzero((tar_items_BT > 0) & (hist_len_B > 0)[:, None])
    return np.unique(np.stack([rows, tar_items_BT[rows, columns]], axis=1).astype(np.int64), axis=0)
