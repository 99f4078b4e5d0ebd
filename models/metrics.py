"""Figures of merit for ranking and retrieval.

Shapes: N scored rows, U users, R resamples, B users of a retrieval task, I candidate items,
K embedding width, P (user, target) pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch is imported where it is needed: the ranker's process stays free of it
    from torch import Tensor

TILE_SCORES = 1 << 24


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
    return float(value_U.mean()) if len(value_U) else float("nan")


def wuauc(label_N: np.ndarray, score_N: np.ndarray, user_N: np.ndarray, weight_N: np.ndarray | None = None) -> float:
    """As `uauc`, each user counted by the weight of his or her rows (impressions)."""
    value_U, weight_U = user_aucs(label_N, score_N, user_N, weight_N)
    return float(np.average(value_U, weights=weight_U)) if len(value_U) else float("nan")


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
    known = np.array([gain for gain in gains if np.isfinite(gain)])
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def target_ranks(
    user_BK: "Tensor",
    item_IK: "Tensor",
    bias_I: "Tensor",
    target_P2: np.ndarray,
    hidden_Q2: np.ndarray | None = None,
    tile_scores: int = TILE_SCORES,
) -> np.ndarray:
    """Rank of every target among all candidates by user . item + bias, a tile of users at a time.

    Ties count against the target: an item of equal score stands before it.

    Args:
        user_BK, item_IK: embeddings; a score is their inner product.
        bias_I: added to the score of every item.
        target_P2: (user row, item row) pairs, sorted by user row.
        hidden_Q2: pairs in the same form that are no candidates for that user (never a target of theirs).
        tile_scores: largest number of scores held at once; at least one user is scored at a time.

    Returns:
        int64 [P], the best rank is 1.
    """
    import torch

    rank_P = np.zeros(len(target_P2), np.int64)
    hidden_Q2 = np.empty((0, 2), np.int64) if hidden_Q2 is None else hidden_Q2
    step = max(1, tile_scores // max(1, len(item_IK)))
    for start in range(0, len(user_BK), step):
        own = _rows_between(target_P2, start, start + step)
        if own.start == own.stop:
            continue
        score_bI = torch.addmm(bias_I, user_BK[start : start + step], item_IK.T)
        row_p, item_p = torch.from_numpy(target_P2[own]).unbind(1)
        row_p = row_p - start
        hidden = torch.from_numpy(hidden_Q2[_rows_between(hidden_Q2, start, start + step)])
        target_p = score_bI[row_p, item_p]
        score_bI[hidden[:, 0] - start, hidden[:, 1]] = -torch.inf
        rank_P[own] = _count_at_least(score_bI, row_p, target_p).numpy()
    return rank_P


def recall_ndcg(rank_P: np.ndarray, user_P: np.ndarray, num_targets_B: np.ndarray, k: int) -> tuple[float, float]:
    """Mean recall@k and NDCG@k over users, all targets equally relevant.

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
    ndcg_B = gain_B / ideal_k[np.minimum(num_targets_B, k) - 1]
    return float((hits_B / num_targets_B).mean()), float(ndcg_B.mean())


def _rows_between(pairs_P2: np.ndarray, start: int, stop: int) -> slice:
    return slice(*np.searchsorted(pairs_P2[:, 0], [start, stop]))


def _count_at_least(score_bI: "Tensor", row_p: "Tensor", target_p: "Tensor") -> "Tensor":
    """Scores of a pair's own row that are not below the pair's score."""
    import torch

    sorted_bI = score_bI.sort(dim=1).values
    per_row_b = torch.bincount(row_p, minlength=len(score_bI))
    place_p = torch.arange(len(row_p)) - (per_row_b.cumsum(0) - per_row_b)[row_p]
    padded_bT = torch.zeros(len(score_bI), int(per_row_b.max()), dtype=score_bI.dtype)
    padded_bT[row_p, place_p] = target_p
    below_bT = torch.searchsorted(sorted_bI, padded_bT)
    return score_bI.shape[1] - below_bT[row_p, place_p]
