"""Figures of merit for ranking and retrieval.

Shapes: N scored rows, U users, R resamples, B users of a retrieval task, I candidate items,
K embedding width, P (user, target) pairs; V distinct probabilities, b a bin of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch is imported where it is needed: the ranker's process stays free of it
    from torch import Tensor

TILE = (256, 2048)  # scores of so many users and items stay in the caches


@dataclass(frozen=True)
class Scored:
    """Scored rows, sorted once, so that the AUC under any weights of the users takes linear time.

    Attributes:
        pos_user, neg_user: user number of every positive and of every negative, the latter by rising score.
        pos_weight, neg_weight: the rows' own weights.
        below, upto: for every positive, the negatives that score lower, and those that score lower or equal.
    """

    pos_user: np.ndarray
    neg_user: np.ndarray
    pos_weight: np.ndarray
    neg_weight: np.ndarray
    below: np.ndarray
    upto: np.ndarray

    @classmethod
    def of(cls, label_N: np.ndarray, score_N: np.ndarray, weight_N: np.ndarray, user_N: np.ndarray) -> "Scored":
        """Sorts the negatives and finds every positive's place among them."""
        is_positive_N = label_N > 0
        negatives = np.flatnonzero(~is_positive_N)
        negatives = negatives[np.argsort(score_N[negatives], kind="stable")]
        pos_score, neg_score = score_N[is_positive_N], score_N[negatives]
        return cls(
            user_N[is_positive_N],
            user_N[negatives],
            weight_N[is_positive_N].astype(np.float64),
            weight_N[negatives].astype(np.float64),
            np.searchsorted(neg_score, pos_score, side="left"),
            np.searchsorted(neg_score, pos_score, side="right"),
        )

    def auc(self, times_U: np.ndarray | None = None) -> float:
        """Weighted AUC; `times_U` says how often each user was drawn. NaN where a class has no weight."""
        pos, neg = self.pos_weight, self.neg_weight
        if times_U is not None:
            pos, neg = pos * times_U[self.pos_user], neg * times_U[self.neg_user]
        cumulative = np.concatenate([[0.0], np.cumsum(neg)])
        pairs = pos.sum() * cumulative[-1]
        if pairs == 0:
            return float("nan")
        return float(pos @ (cumulative[self.below] + cumulative[self.upto]) / (2 * pairs))


def auc(label_N: np.ndarray, score_N: np.ndarray, weight_N: np.ndarray | None = None) -> float:
    """The weighted share of (positive, negative) pairs in which the positive scores higher; ties count half.

    Equal to the area under the ROC curve, and to the rank-sum statistic with average ranks for ties.
    NaN where a class is missing.
    """
    weight_N = np.ones(len(label_N)) if weight_N is None else weight_N
    return Scored.of(label_N, score_N, weight_N, np.zeros(len(label_N), np.int64)).auc()


def user_aucs(
    label_N: np.ndarray, score_N: np.ndarray, user_N: np.ndarray, weight_N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AUC within each user that has both labels, ties counting half.

    Args:
        label_N, score_N, weight_N: as for `auc`.
        user_N: user number of every row, any integers.

    Returns:
        The users' AUCs and the summed weights of their rows; users with one label only are left out.
    """
    weight_N = np.ones(len(label_N)) if weight_N is None else weight_N.astype(np.float64)
    order = np.lexsort((score_N, user_N))
    user, score = user_N[order], score_N[order]
    pos = weight_N[order] * (label_N[order] > 0)
    neg = weight_N[order] - pos
    if not len(order):
        return np.empty(0), np.empty(0)
    is_new_user = np.append(True, user[1:] != user[:-1])
    ties = np.flatnonzero(is_new_user | np.append(True, score[1:] != score[:-1]))
    pos_tie, neg_tie = np.add.reduceat(pos, ties), np.add.reduceat(neg, ties)
    users = np.flatnonzero(is_new_user[ties])
    before = np.cumsum(neg_tie) - neg_tie
    before -= np.repeat(before[users], np.diff(np.append(users, len(ties))))
    won = np.add.reduceat(pos_tie * (before + neg_tie / 2), users)
    total_pos, total_neg = np.add.reduceat(pos_tie, users), np.add.reduceat(neg_tie, users)
    has_both = (total_pos > 0) & (total_neg > 0)
    return won[has_both] / (total_pos * total_neg)[has_both], (total_pos + total_neg)[has_both]


def uauc(label_N: np.ndarray, score_N: np.ndarray, user_N: np.ndarray, weight_N: np.ndarray | None = None) -> float:
    """The plain mean of the AUCs within users that have both labels; NaN if there is none."""
    value_U, _ = user_aucs(label_N, score_N, user_N, weight_N)
    return user_mean(value_U, np.ones_like(value_U))


def user_mean(value_U: np.ndarray, weight_U: np.ndarray) -> float:
    """The weighted mean of users' values; NaN without users."""
    return float(np.average(value_U, weights=weight_U)) if len(value_U) else float("nan")


def calibration(
    label_N: np.ndarray, probability_N: np.ndarray, weight_N: np.ndarray | None = None, bins: int = 10
) -> tuple[list[dict[str, float]], float]:
    """How often what was given a probability came true, by bins of equal weight (deciles), the lowest first.

    Args:
        label_N: 0 or 1.
        probability_N: equal ones stay in one bin, that of the middle of their weight.
        weight_N: the rows' own weights, by default 1.
        bins: at most so many; one that no row falls into is left out.

    Returns:
        Of each bin `predicted` and `observed`, the weighted means of probability and label, and its `weight`; and
        the expected calibration error, the weighted mean over the bins of |predicted - observed|.
    """
    weight_N = np.ones(len(label_N)) if weight_N is None else weight_N.astype(np.float64)
    value_V, place_N = np.unique(probability_N.astype(np.float64), return_inverse=True)
    weight_V = np.bincount(place_N, weight_N)
    middle_V = (np.cumsum(weight_V) - weight_V / 2) / weight_V.sum()
    bin_V = np.minimum((middle_V * bins).astype(int), bins - 1)
    weight_b = np.bincount(bin_V, weight_V, bins)
    sums = (np.bincount(bin_V, weight_V * value_V, bins), np.bincount(bin_V[place_N], weight_N * label_N, bins))
    there = np.flatnonzero(weight_b)
    predicted_b, observed_b = (total[there] / weight_b[there] for total in sums)
    columns = {"predicted": predicted_b, "observed": observed_b, "weight": weight_b[there]}
    rows = [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    return rows, float(np.average(np.abs(predicted_b - observed_b), weights=weight_b[there]))


def user_draws(num_users: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Bootstrap resamples of users: how often every user was drawn, float64 [U]; same seed, same draws."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = generator.integers(num_users, size=num_users)
        yield np.bincount(drawn, minlength=num_users).astype(np.float64)


def gain_interval(
    with_: Scored, without: Scored, num_users: int, resamples: int, seed: int, level: float = 0.9
) -> tuple[float, float]:
    """Bootstrap percentile interval of AUC(with) - AUC(without) over users.

    A user is drawn with all rows, as rows of one user depend on each other; both scorings see the same draws.
    Resamples that lack a class are left out; NaN, NaN if all do.
    """
    gains = [with_.auc(times_U) - without.auc(times_U) for times_U in user_draws(num_users, resamples, seed)]
    return _percentiles([gain for gain in gains if np.isfinite(gain)], level)


def mean_interval(
    value_U: np.ndarray, weight_U: np.ndarray, resamples: int, seed: int, level: float = 0.9
) -> tuple[float, float]:
    """Bootstrap percentile interval of the weighted mean of users' values; NaN, NaN without users."""
    if not len(value_U):
        return float("nan"), float("nan")
    draws = user_draws(len(value_U), resamples, seed)
    return _percentiles([np.average(value_U, weights=weight_U * times_U) for times_U in draws], level)


def _percentiles(found: list[float], level: float) -> tuple[float, float]:
    if not found:
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def target_ranks(
    user_BK: "Tensor",
    item_IK: "Tensor",
    bias_I: "Tensor",
    target_P2: np.ndarray,
    held_Q2: np.ndarray | None = None,
    held_bias: float | np.ndarray = -np.inf,
    tile: tuple[int, int] = TILE,
) -> np.ndarray:
    """Rank of every target among all candidates by user . item + bias, counted tile by tile of their product.

    Ties count against the target: an item of equal score stands before it, and so does one without a score (NaN).

    Args:
        user_BK, item_IK: embeddings; a score is their inner product.
        bias_I: added to the score of every item.
        target_P2: (user row, item row) pairs, sorted by user row.
        held_Q2: distinct pairs in the same form whose score gets `held_bias` as well, as the user had the item before;
            -inf, the default, says that they are no candidates (and never a target).
        held_bias: one for all, or one a pair.
        tile: users and items of which scores are held at once.

    Returns:
        int64 [P], the best rank is 1.
    """
    import torch

    rank_P = np.zeros(len(target_P2), np.int64)
    held_Q2 = np.empty((0, 2), np.int64) if held_Q2 is None else held_Q2
    more_Q = np.broadcast_to(held_bias, len(held_Q2))
    more_P = _found(held_Q2 @ [len(item_IK), 1], more_Q, target_P2 @ [len(item_IK), 1])
    users_U, number_P, count_U = np.unique(target_P2[:, 0], return_inverse=True, return_counts=True)
    order_U = np.argsort(-count_U, kind="stable")  # users of a tile have about as many targets
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
    """Mean recall@k and NDCG@k over users: of `recall_ndcg_by_user`, whose arguments these are."""
    recall_B, ndcg_B = recall_ndcg_by_user(rank_P, user_P, num_targets_B, k)
    return float(recall_B.mean()), float(ndcg_B.mean())


def recall_ndcg_by_user(
    rank_P: np.ndarray, user_P: np.ndarray, num_targets_B: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each user's recall@k and NDCG@k, all targets equally relevant: float64 [B] each.

    Args:
        rank_P: ranks from 1 on.
        user_P: user row of every pair.
        num_targets_B: targets of every user, those included that have no rank; at least 1.
        k: length of the list. Recall divides by all targets, also where they are more than k.
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
        user_bK, item_IK, bias_I: as `target_ranks`.
        targets: items (-1: none there) and what is added to their scores: [b, T] each.
        held: pairs [q, 2], sorted by item, and what is added to their scores [q].
        width: items of which scores are held at once.
    """
    import torch

    num_items = len(item_IK)
    width = min(width, num_items)
    (target_bT, more_bT), (held_q2, more_q) = targets, held
    score_bT = _own_scores(user_bK, item_IK, bias_I, target_bT, width) + more_bT
    below_bT = torch.zeros(target_bT.shape, dtype=torch.int64)
    score_bw, is_below_bw = (torch.empty(len(user_bK), width, dtype=user_bK.dtype) for _ in range(2))
    for first in range(0, num_items, width):
        start = min(first, num_items - width)  # all products have one shape, the last tile overlaps
        torch.addmm(bias_I[start : start + width], user_bK, item_IK[start : start + width].T, out=score_bw)
        near = slice(*np.searchsorted(held_q2[:, 1], [start, start + width]))
        score_bw[held_q2[near, 0], held_q2[near, 1] - start] += more_q[near]
        new = slice(first - start, None)
        for column, score_b in enumerate(score_bT.unbind(1)):
            is_last = column == score_bT.shape[1] - 1
            flag_bw = (score_bw if is_last else is_below_bw)[:, new]  # in place, once the scores are not needed
            torch.lt(score_bw[:, new], score_b[:, None], out=flag_bw)  # 0 and 1 in fp32: five times faster than bool
            below_bT[:, column] += flag_bw.sum(1).long()
    return below_bT


def _found(key_Q: np.ndarray, value_Q: np.ndarray, key_P: np.ndarray) -> np.ndarray:
    """The values of the keys asked for, 0 where there is none: float64 [P]."""
    order_Q = np.argsort(key_Q)
    first_P, stop_P = (np.searchsorted(key_Q, key_P, side, sorter=order_Q) for side in ("left", "right"))
    value_P, is_there_P = np.zeros(len(key_P)), stop_P > first_P
    value_P[is_there_P] = value_Q[order_Q[first_P[is_there_P]]]
    return value_P


def _own_scores(user_bK: "Tensor", item_IK: "Tensor", bias_I: "Tensor", target_bT: "Tensor", width: int) -> "Tensor":
    """Scores of the targets out of products of the tiles' shape: equal items get bit-equal scores, so ties are ties."""
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
