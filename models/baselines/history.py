"""Baselines without weights that score every item from the history itself: the last items, and co-occurrence.

Shapes: R training rows, b scored rows, H history length, T target length, I items (including padding, item 0),
U training users, Q (row, item) pairs that histories hold, P scored pairs, p a chunk of them.
"""

from typing import Any

import numpy as np
from scipy import sparse

CHUNK_ROWS = 1 << 16
CHUNK_PAIRS = 1 << 13
DECIMALS = 10


def last_item_shares(popularity_I: np.ndarray) -> np.ndarray:
    """The base score of every item in "last item": its popularity scaled to below 1, float32 [I]."""
    return (popularity_I / (popularity_I.max() + 1)).astype(np.float32)


def last_item_bias(place_Q: np.ndarray) -> np.ndarray:
    """What "last item" adds to the score of a history's items: they rank above all others, the latest one first.

    Args:
        place_Q: last place of each item in its history, counted from 0 (`held_pairs`).
    """
    return 1.0 + place_Q


class Cooccurrence:
    """Scores items by how often other users had them together with the history's items (cosine similarity).

    With n_i the training users who have item i and n_ij those who have both, sim(i, j) = n_ij / sqrt(n_i n_j),
    0 for i = j (item-based collaborative filtering; Sarwar et al., WWW 2001; Linden et al., 2003). The score of j is
    the sum over the history's events of decay^age * sim(i, j), where the last event has age 0; repeats count again.
    Scores are rounded to 10 decimals, so that equal scores are ties. The sum is computed as
    (weights / sqrt(n)) X^T X / sqrt(n), from left to right, with the sparse users x items incidence X, so that no
    items x items matrix is made.

    Args:
        user_R, hist_items_RH, tar_items_RT: all training rows; a user has the items of all of his or her rows.
        num_items: I.
        decay: weight of an event relative to the one after it.
    """

    def __init__(
        self, user_R: np.ndarray, hist_items_RH: np.ndarray, tar_items_RT: np.ndarray, num_items: int, decay: float
    ) -> None:
        self.has_UI = incidence(user_R, hist_items_RH, tar_items_RT, num_items)
        self.has_IU = self.has_UI.T.tocsr()
        count_I = np.asarray(self.has_UI.sum(0)).ravel()
        self.factor_I = np.where(count_I > 0, 1 / np.sqrt(np.maximum(count_I, 1)), 0.0)
        self.num_items, self.decay = num_items, decay

    def __call__(self, hist_items_bH: np.ndarray, hist_len_b: np.ndarray) -> np.ndarray:
        """Scores of all items: float64 [b, I]."""
        weight_bI, by_user_bU = self._by_user(hist_items_bH, hist_len_b)
        score_bI = (by_user_bU @ self.has_UI).toarray() * self.factor_I
        own = weight_bI.tocoo()
        score_bI[own.row, own.col] -= own.data  # an item's similarity to itself is 1
        return score_bI.round(DECIMALS)

    def of_pairs(
        self, hist_items_BH: np.ndarray, hist_len_B: np.ndarray, row_P: np.ndarray, item_P: np.ndarray
    ) -> np.ndarray:
        """The same scores for single (row, item) pairs, without scoring all items: float64 [P]."""
        score_P, order = np.zeros(len(row_P)), np.argsort(row_P, kind="stable")
        for start in range(0, len(order), CHUNK_PAIRS):
            pairs = order[start : start + CHUNK_PAIRS]
            rows_b, row_p = np.unique(row_P[pairs], return_inverse=True)
            weight_bI, by_user_bU = self._by_user(hist_items_BH[rows_b], hist_len_B[rows_b])
            item_p = item_P[pairs]
            shared_p = np.asarray(by_user_bU[row_p].multiply(self.has_IU[item_p]).sum(1)).ravel()
            score_P[pairs] = shared_p * self.factor_I[item_p] - np.asarray(weight_bI[row_p, item_p]).ravel()
        return score_P.round(DECIMALS)

    def _by_user(self, hist_items_bH: np.ndarray, hist_len_b: np.ndarray) -> tuple[sparse.csr_matrix, Any]:
        """Each history's summed event weights per item that training knows, [b, I], and per training user, [b, U]."""
        row_n, place_n = np.nonzero(np.arange(hist_items_bH.shape[1]) < hist_len_b[:, None])
        item_n = hist_items_bH[row_n, place_n]
        weight_n = self.decay ** (hist_len_b[row_n] - 1.0 - place_n) * (self.factor_I[item_n] > 0)
        weight_bI = sparse.csr_matrix((weight_n, (row_n, item_n)), shape=(len(hist_len_b), self.num_items))
        return weight_bI, weight_bI.multiply(self.factor_I).tocsr() @ self.has_IU


def incidence(
    user_R: np.ndarray, hist_items_RH: np.ndarray, tar_items_RT: np.ndarray, num_items: int
) -> sparse.csr_matrix:
    """Which user has which item in any row: a sparse float64 matrix of ones, [U, I]."""
    user_R = np.unique(user_R, return_inverse=True)[1].astype(np.int64)
    keys = [np.empty(0, np.int64)]
    for start in range(0, len(user_R), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        item_rJ = np.concatenate([hist_items_RH[rows], tar_items_RT[rows]], axis=1)
        keys.append(np.unique((user_R[rows, None] * num_items + item_rJ)[item_rJ > 0]))
    user_N, item_N = np.divmod(np.unique(np.concatenate(keys)), num_items)
    shape = (int(user_R.max(initial=-1)) + 1, num_items)
    return sparse.csr_matrix((np.ones(len(user_N)), (user_N, item_N)), shape=shape)
