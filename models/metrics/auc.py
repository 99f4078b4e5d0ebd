"""AUC over rows and within users, calibration, and bootstrap intervals over users.

Shapes: N scored rows, P of them positive, M negative, U users, R resamples, r a block of them; V distinct
probabilities, b a bin of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

BLOCK = 4  # resamples computed together: more of them need more memory and are not faster


@dataclass(frozen=True)
class Scored:
    """Scored rows, sorted once, so that the AUC for any weights of the users takes linear time.

    Attributes:
        pos_user, neg_user: user number of every positive and every negative; negatives are sorted by score, ascending.
        pos_weight, neg_weight: the rows' own weights.
        below, upto: for every positive, how many negatives score lower, and how many lower or equal.
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

    def auc(self) -> float:
        """The weighted share of (positive, negative) pairs in which the positive scores higher; ties count half.

        Equal to the area under the ROC curve; NaN where a class has no weight.
        """
        return float(self._areas(self.pos_weight[:, None], self.neg_weight[:, None])[0])

    def resampled(self, num_users: int, resamples: int, seed: int) -> np.ndarray:
        """The AUC of each bootstrap resample of the users: float64 [R]; NaN if a resample lacks a class.

        A user is drawn with all of his or her rows, because they depend on each other. With the same seed, other
        scorings of the same users see the same draws.
        """
        found, draws = [], user_draws(num_users, resamples, seed)
        while block := list(islice(draws, BLOCK)):
            times_Ur = np.stack(block, axis=1)
            pos_Pr = self.pos_weight[:, None] * times_Ur[self.pos_user]
            found.append(self._areas(pos_Pr, self.neg_weight[:, None] * times_Ur[self.neg_user]))
        return np.concatenate(found)

    def _areas(self, pos_Pr: np.ndarray, neg_Mr: np.ndarray) -> np.ndarray:
        """The AUC for each of r weightings of the rows."""
        cumulative = np.zeros((len(neg_Mr) + 1, neg_Mr.shape[1]))
        np.cumsum(neg_Mr, axis=0, out=cumulative[1:])
        won_r = (pos_Pr * (cumulative[self.below] + cumulative[self.upto])).sum(0)
        pairs_r = pos_Pr.sum(0) * cumulative[-1]
        return np.divide(won_r, 2 * pairs_r, out=np.full_like(won_r, np.nan), where=pairs_r > 0)


def user_aucs(
    label_N: np.ndarray, score_N: np.ndarray, user_N: np.ndarray, weight_N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AUC within each user who has both labels; ties count half.

    Args:
        label_N, score_N: labels 1 or 0, and the scores that rank the rows.
        user_N: user number of every row, any integers.
        weight_N: the rows' own weights, by default 1.

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
    """The plain mean of the AUCs within users who have both labels; NaN if there are none."""
    value_U, _ = user_aucs(label_N, score_N, user_N, weight_N)
    return user_mean(value_U, np.ones_like(value_U))


def user_mean(value_U: np.ndarray, weight_U: np.ndarray) -> float:
    """The weighted mean of users' values; NaN without users."""
    return float(np.average(value_U, weights=weight_U)) if len(value_U) else float("nan")


def calibration(
    label_N: np.ndarray, probability_N: np.ndarray, weight_N: np.ndarray | None = None, bins: int = 10
) -> tuple[list[dict[str, float]], float]:
    """Compares predicted probabilities with observed rates in bins of equal weight (deciles), lowest first.

    Args:
        label_N: 0 or 1.
        probability_N: rows of equal probability stay in one bin, the one that the middle of their weight falls into.
        weight_N: the rows' own weights, by default 1.
        bins: the largest number of bins; bins without rows are left out.

    Returns:
        For each bin `predicted` and `observed`, the weighted means of probability and label, and its `weight`; and
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
    """Bootstrap resamples of users: how often each user is drawn, float64 [U]. The same seed gives the same draws."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = generator.integers(num_users, size=num_users)
        yield np.bincount(drawn, minlength=num_users).astype(np.float64)


def gain_interval(with_R: np.ndarray, without_R: np.ndarray, level: float = 0.9) -> tuple[float, float]:
    """Bootstrap percentile interval of AUC(with) - AUC(without), from the resamples of both.

    Resamples that lack a class are left out; NaN, NaN if all of them do.
    """
    gain_R = with_R - without_R
    return _percentiles(gain_R[np.isfinite(gain_R)], level)


def kept_interval(
    kept_R: np.ndarray, with_R: np.ndarray, without_R: np.ndarray, level: float = 0.9
) -> tuple[float, float]:
    """Bootstrap percentile interval of the share of a gain that is kept: (kept - without) / (with - without).

    It is computed from resamples as in `gain_interval`; those without a gain are left out.
    """
    gain_R = with_R - without_R
    gains = np.flatnonzero(gain_R > 0)
    return _percentiles((kept_R - without_R)[gains] / gain_R[gains], level)


def mean_interval(
    value_U: np.ndarray, weight_U: np.ndarray, resamples: int, seed: int, level: float = 0.9
) -> tuple[float, float]:
    """Bootstrap percentile interval of the weighted mean of users' values; NaN, NaN without users."""
    if not len(value_U):
        return float("nan"), float("nan")
    draws = user_draws(len(value_U), resamples, seed)
    return _percentiles(np.array([np.average(value_U, weights=weight_U * times_U) for times_U in draws]), level)


def _percentiles(found: np.ndarray, level: float) -> tuple[float, float]:
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
