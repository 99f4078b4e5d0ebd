"""Ranks of targets among all candidates, and their recall and NDCG.

Shapes: B users of a retrieval task, I candidate items, K embedding width, P (user, target) pairs, Q held pairs.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # figures of given ranks need numpy only
    from torch import Tensor

TILE = (256, 2048)  # users x items whose scores fit into the caches


def target_ranks(
    user_BK: "Tensor",
    item_IK: "Tensor",
    bias_I: "Tensor",
    target_P2: np.ndarray,
    held_Q2: np.ndarray | None = None,
    held_bias: float | np.ndarray = -np.inf,
    tile: tuple[int, int] = TILE,
) -> np.ndarray:
    """Rank of every target among all candidates by user . item + bias, counted over tiles of the score matrix.

    Ties count against the target: an item of equal score ranks before it, and so does one whose score is NaN.

    Args:
        user_BK, item_IK: embeddings; a score is their inner product.
        bias_I: added to the score of every item.
        target_P2: (user row, item row) pairs, sorted by user row.
        held_Q2: distinct pairs of the same form, whose scores get `held_bias` in addition, because the user had the
            item before.
        held_bias: one number for all held pairs, or one per pair. -inf, the default, excludes them as candidates; they
            must then not be targets.
        tile: numbers of users and items whose scores are held at once.

    Returns:
        int64 [P], the best rank is 1.
    """
    import torch

    rank_P = np.zeros(len(target_P2), np.int64)
    held_Q2 = np.empty((0, 2), np.int64) if held_Q2 is None else held_Q2
    more_Q = np.broadcast_to(held_bias, len(held_Q2))
    more_P = _found(held_Q2 @ [len(item_IK), 1], more_Q, target_P2 @ [len(item_IK), 1])
    users_U, number_P, count_U = np.unique(target_P2[:, 0], return_inverse=True, return_counts=True)
    order_U = np.argsort(-count_U, kind="stable")  # so that the users of a tile have similar numbers of targets
    first_U = np.cumsum(count_U) - count_U
    column_P = np.arange(len(target_P2)) - first_U[number_P]
    place_B = np.full(len(user_BK), -1)
    place_B[users_U[order_U]] = np.arange(len(users_U))
    place_P, place_Q = place_B[target_P2[:, 0]], place_B[held_Q2[:, 0]]
    order_P, order_Q = (np.argsort(place, kind="stable") for place in (place_P, place_Q))
    for start in range(0, len(users_U), tile[0]):
        users_b = users_U[order_U[start : start + tile[0]]]
        own, held = (
            order[slice(*np.searchsorted(place, [start, start + len(users_b)], sorter=order))]
            for place, order in ((place_P, order_P), (place_Q, order_Q))
        )
        at = place_P[own] - start, column_P[own]
        target_bT = np.full((len(users_b), column_P[own].max() + 1), -1)
        more_bT = np.zeros(target_bT.shape)
        target_bT[at], more_bT[at] = target_P2[own, 1], more_P[own]
        held = held[np.argsort(held_Q2[held, 1], kind="stable")]
        held_q2, more_q = np.stack([place_Q[held] - start, held_Q2[held, 1]], axis=1), torch.from_numpy(more_Q[held])
        targets = torch.from_numpy(target_bT), torch.from_numpy(more_bT).to(user_BK.dtype)
        user_bK = user_BK[torch.from_numpy(users_b)]
        below_bT = _count_below(user_bK, item_IK, bias_I, targets, (held_q2, more_q.to(user_BK.dtype)), tile[1])
        rank_P[own] = len(item_IK) - below_bT.numpy()[at]
    return rank_P


def recall_ndcg(rank_P: np.ndarray, user_P: np.ndarray, num_targets_B: np.ndarray, k: int) -> tuple[float, float]:
    """Mean recall@k and NDCG@k over users. The arguments are those of `recall_ndcg_by_user`."""
    recall_B, ndcg_B = recall_ndcg_by_user(rank_P, user_P, num_targets_B, k)
    return float(recall_B.mean()), float(ndcg_B.mean())


def recall_ndcg_by_user(
    rank_P: np.ndarray, user_P: np.ndarray, num_targets_B: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each user's recall@k and NDCG@k, all targets equally relevant: float64 [B] each.

    Args:
        rank_P: ranks from 1 on.
        user_P: user row of every pair.
        num_targets_B: number of targets of every user, including those without a rank; at least 1.
        k: length of the list. Recall divides by the number of all targets, even if there are more than k.
    """
    is_hit_P = rank_P <= k
    users = len(num_targets_B)
    hits_B = np.bincount(user_P[is_hit_P], minlength=users)
    gain_B = np.bincount(user_P[is_hit_P], weights=1 / np.log2(rank_P[is_hit_P] + 1.0), minlength=users)
    ideal_k = np.cumsum(1 / np.log2(np.arange(k) + 2.0))
    return hits_B / num_targets_B, gain_B / ideal_k[np.minimum(num_targets_B, k) - 1]


def _count_below(
    user_bK: "Tensor",
    item_IK: "Tensor",
    bias_I: "Tensor",
    targets: tuple["Tensor", "Tensor"],
    held: tuple[np.ndarray, "Tensor"],
    width: int,
) -> "Tensor":
    """How many candidates score below each target.

    Args:
        user_bK, item_IK, bias_I: as in `target_ranks`.
        targets: the targets' items (-1: no target) and the held bias in their scores: [b, T] each.
        held: held pairs [q, 2], sorted by item, and the bias of each [q].
        width: number of items whose scores are held at once.
    """
    import torch

    num_items = len(item_IK)
    width = min(width, num_items)
    (target_bT, more_bT), (held_q2, more_q) = targets, held
    score_bT = _own_scores(user_bK, item_IK, bias_I, target_bT, width) + more_bT
    below_bT = torch.zeros(target_bT.shape, dtype=torch.int64)
    score_bw, is_below_bw = (torch.empty(len(user_bK), width, dtype=user_bK.dtype) for _ in range(2))
    for first in range(0, num_items, width):
        start = min(first, num_items - width)  # all products have the same shape, so the last tile overlaps
        torch.addmm(bias_I[start : start + width], user_bK, item_IK[start : start + width].T, out=score_bw)
        near = slice(*np.searchsorted(held_q2[:, 1], [start, start + width]))
        score_bw[held_q2[near, 0], held_q2[near, 1] - start] += more_q[near]
        new = slice(first - start, None)
        for column, score_b in enumerate(score_bT.unbind(1)):
            is_last = column == score_bT.shape[1] - 1
            flag_bw = (score_bw if is_last else is_below_bw)[:, new]  # the last column may overwrite the scores
            torch.lt(score_bw[:, new], score_b[:, None], out=flag_bw)  # 0 and 1 in fp32: five times faster than bool
            below_bT[:, column] += flag_bw.sum(1).long()
    return below_bT


def _found(key_Q: np.ndarray, value_Q: np.ndarray, key_P: np.ndarray) -> np.ndarray:
    """Looks up the values of the keys `key_P`, 0 for a missing key: float64 [P]."""
    order_Q = np.argsort(key_Q)
    first_P, stop_P = (np.searchsorted(key_Q, key_P, side, sorter=order_Q) for side in ("left", "right"))
    value_P, is_there_P = np.zeros(len(key_P)), stop_P > first_P
    value_P[is_there_P] = value_Q[order_Q[first_P[is_there_P]]]
    return value_P


def _own_scores(user_bK: "Tensor", item_IK: "Tensor", bias_I: "Tensor", target_bT: "Tensor", width: int) -> "Tensor":
    """The targets' scores, from products of the tiles' shape, so that equal items get bit-equal scores and tie."""
    import torch

    score_bT = torch.full(target_bT.shape, -torch.inf, dtype=user_bK.dtype)
    row_p, column_p = (target_bT >= 0).nonzero(as_tuple=True)
    for start in range(0, len(row_p), width):
        row_w, column_w = row_p[start : start + width], column_p[start : start + width]
        item_w = torch.zeros(width, dtype=torch.int64)
        item_w[: len(row_w)] = target_bT[row_w, column_w]
        score_bw = torch.addmm(bias_I[item_w], user_bK, item_IK[item_w].T)
        score_bT[row_w, column_w] = score_bw[row_w, torch.arange(len(row_w))]
    return score_bT
