"""AUC over rows and within users, calibration, and bootstrap intervals over users.

Shapes: N scored rows, U users, R resamples; V distinct probabilities, b a bin of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


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
        """The weighted share of (positive, negative) pairs in which the positive scores higher; ties count half.

        Equal to the area under the ROC curve. `times_U` says how often each user was drawn. NaN where a class has no
        weight.
        """
        pos, neg = self.pos_weight, self.neg_weight
        if times_U is not None:
            pos, neg = pos * times_U[self.pos_user], neg * times_U[self.neg_user]
        cumulative = np.concatenate([[0.0], np.cumsum(neg)])
        pairs = pos.sum() * cumulative[-1]
        if pairs == 0:
            return float("nan")
        return float(pos @ (cumulative[self.below] + cumulative[self.upto]) / (2 * pairs))


def user_aucs(
    label_N: np.ndarray, score_N: np.ndarray, user_N: np.ndarray, weight_N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AUC within each user that has both labels, ties counting half.

    Args:
        label_N, score_N: 1 or 0, and what ranks the rows.
        weight_N: the rows' own weights, by default 1.
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


def kept_interval(
    kept: Scored, with_: Scored, without: Scored, num_users: int, resamples: int, seed: int, level: float = 0.9
) -> tuple[float, float]:
    """Bootstrap percentile interval of the share of a gain that is kept: (kept - without) / (with - without).

    Over users, as in `gain_interval`; resamples without a gain are left out.
    """
    shares = []
    for times_U in user_draws(num_users, resamples, seed):
        least = without.auc(times_U)
        gain = with_.auc(times_U) - least
        if np.isfinite(gain) and gain > 0:
            shares.append((kept.auc(times_U) - least) / gain)
    return _percentiles(shares, level)


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
