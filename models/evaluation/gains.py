"""Gains in AUC, UAUC and WUAUC of one scoring of the test rows over another, with intervals.

Shapes: T test rows, S seeds, U users, R resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from models.metrics.auc import Scored, gain_interval, kept_interval, mean_interval, user_aucs, user_mean


@dataclass(frozen=True)
class TestRows:
    """The scored rows, and the settings of their figures.

    Attributes:
        label_T, weight_T, user_T: each row's label 0 or 1, weight, and user number below num_users.
        num_users: number of users that resamples draw from.
        segments: by segment name, which rows belong to it, bool [T].
        resamples, seed: of the bootstrap intervals.
    """

    __test__ = False  # else pytest would take the class for tests because of its name

    label_T: np.ndarray
    weight_T: np.ndarray
    user_T: np.ndarray
    num_users: int
    segments: Mapping[str, np.ndarray]
    resamples: int
    seed: int


@dataclass(frozen=True)
class Segment:
    """Scores of the rows of a segment. What several gains need is computed once."""

    rows: TestRows
    score_T: np.ndarray
    chosen: np.ndarray | slice

    @cached_property
    def auc(self) -> float:
        """AUC of the segment; NaN if a label is missing."""
        return self._scored.auc()

    @cached_property
    def auc_R(self) -> np.ndarray:
        """AUC of each bootstrap resample of the users."""
        return self._scored.resampled(self.rows.num_users, self.rows.resamples, self.rows.seed)

    @cached_property
    def user_aucs(self) -> tuple[np.ndarray, np.ndarray]:
        """AUC within each user, and the users' weights."""
        rows, chosen = self.rows, self.chosen
        return user_aucs(rows.label_T[chosen], self.score_T[chosen], rows.user_T[chosen], rows.weight_T[chosen])

    @cached_property
    def _scored(self) -> Scored:
        rows, chosen = self.rows, self.chosen
        return Scored.of(rows.label_T[chosen], self.score_T[chosen], rows.weight_T[chosen], rows.user_T[chosen])


@dataclass(frozen=True)
class Scoring:
    """The test rows' scores by trees of several seeds. Figures are of the mean score over the seeds.

    Attributes:
        rows: the test rows.
        score_ST: their scores by seed.
    """

    rows: TestRows
    score_ST: np.ndarray
    _parts: dict[str, Segment] = field(default_factory=dict)

    def of(self, segment: str = "") -> Segment:
        """The mean scores of a segment's rows; without a name, of all rows."""
        if segment not in self._parts:
            chosen = self.rows.segments[segment] if segment else slice(None)
            self._parts[segment] = Segment(self.rows, self.score_ST.mean(0), chosen)
        return self._parts[segment]

    def first(self, seeds: int) -> "Scoring":
        """The scoring by the first `seeds` seeds only."""
        return self if seeds >= len(self.score_ST) else Scoring(self.rows, self.score_ST[:seeds])

    def auc_by_seed(self) -> list[float]:
        """AUC of each seed's trees, over all rows."""
        return [Segment(self.rows, score_T, slice(None)).auc for score_T in self.score_ST]


def gain(with_: Scoring, without: Scoring, segment: str = "") -> dict[str, object]:
    """AUC, UAUC and WUAUC of both scorings, the gains, and the gains' 90% bootstrap intervals over users.

    They are of a segment, or by default of all rows. The keys are auc_without, auc_with, auc_gain, auc_gain_ci90, and
    the same for uauc and wuauc.
    """
    more, less = with_.of(segment), without.of(segment)
    figures = _figures("auc", less.auc, more.auc, gain_interval(more.auc_R, less.auc_R))
    (before_U, weight_U), (after_U, _) = less.user_aucs, more.user_aucs
    for name, counted_U in (("uauc", np.ones_like(weight_U)), ("wuauc", weight_U)):
        before, after = user_mean(before_U, counted_U), user_mean(after_U, counted_U)
        interval = mean_interval(after_U - before_U, counted_U, with_.rows.resamples, with_.rows.seed)
        figures |= _figures(name, before, after, interval)
    return figures


def gains(with_: Scoring, without: Scoring) -> dict[str, Any]:
    """As `gain`, with the same for each segment under `segments`."""
    by_segment = {name: gain(with_, without, name) for name in with_.rows.segments}
    return {**gain(with_, without), "segments": by_segment}


def share_kept(kept: Scoring, with_: Scoring, without: Scoring) -> dict[str, object]:
    """How much of the AUC gain of `with_` over `without` the scoring `kept` keeps.

    Returns:
        auc_gain_earlier, the gain of `with_`; auc_gain_kept, that of `kept`; share and share_ci90 of the second in the
        first.
    """
    now, before, base = kept.of(), with_.of(), without.of()
    whole, left = before.auc - base.auc, now.auc - base.auc
    return {
        "auc_gain_earlier": whole,
        "auc_gain_kept": left,
        "share": left / whole if whole > 0 else float("nan"),
        "share_ci90": list(kept_interval(now.auc_R, before.auc_R, base.auc_R)),
    }


def _figures(name: str, without: float, with_: float, interval: tuple[float, float]) -> dict[str, object]:
    figures = {f"{name}_without": without, f"{name}_with": with_, f"{name}_gain": with_ - without}
    return {**figures, f"{name}_gain_ci90": list(interval)}
