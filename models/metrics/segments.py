"""Figures of one ranking over all targets and over segments of them, with bootstrap intervals.

Shapes: P (row, item) pairs of targets, S segments, F figures per segment, U users, R rows of a segment, M = S * F + S.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.metrics.auc import user_draws
from models.metrics.ranks import recall_ndcg_by_user

Figures = dict[str, Any]


@dataclass(frozen=True)
class Segments:
    """Targets and the segments (sets of targets) for which figures are computed.

    A row's figures in a segment are those of its targets in it, ranked among all candidates. A segment's figure is the
    mean over its rows. The interval is a percentile interval over resampled users, each drawn with all rows.

    Attributes:
        row_P: row of every target, sorted.
        user_P: user number of every target, from 0 on.
        is_in: by the segment's name, which targets it holds; `all` holds all of them.
        ks: lengths of the ranked lists.
        resamples, seed: of the bootstrap; the same for all rankings, so that they see the same draws.
    """

    row_P: np.ndarray
    user_P: np.ndarray
    is_in: Mapping[str, np.ndarray]
    ks: tuple[int, ...]
    resamples: int
    seed: int

    def figures(self, rank_P: np.ndarray) -> Figures:
        """`recall_at_k`, `ndcg_at_k`, `ci90` and `targets` of all targets, and the same by segment in `segments`.

        A segment without targets has only the figure `targets`.
        """
        names = [f"{figure}_at_{k}" for k in self.ks for figure in ("recall", "ndcg")]
        num_users = int(self.user_P.max()) + 1
        filled = [name for name, is_in_P in self.is_in.items() if is_in_P.any()]
        sums_USF = np.zeros((num_users, len(filled), len(names)))
        rows_US = np.zeros((num_users, len(filled)))
        for place, name in enumerate(filled):
            user_R, value_RF = self._by_row(rank_P, self.is_in[name])
            np.add.at(sums_USF[:, place], user_R, value_RF)
            rows_US[:, place] = np.bincount(user_R, minlength=num_users)
        mean_SF = sums_USF.sum(0) / rows_US.sum(0)[:, None]
        low_SF, high_SF = self._interval(sums_USF, rows_US)
        found: dict[str, Figures] = {name: {"targets": int(is_in_P.sum())} for name, is_in_P in self.is_in.items()}
        for place, name in enumerate(filled):
            found[name] |= dict(zip(names, mean_SF[place].tolist(), strict=True))
            ends = zip(low_SF[place].tolist(), high_SF[place].tolist(), strict=True)
            found[name]["ci90"] = dict(zip(names, map(list, ends), strict=True))
        return found.pop("all") | {"segments": found}

    def gains(self, rank_P: np.ndarray, base_P: np.ndarray) -> Figures:
        """The figures of all targets minus those of the ranking `base_P`, with `ci90` of the paired differences."""
        names = [f"{figure}_at_{k}" for k in self.ks for figure in ("recall", "ndcg")]
        user_R, value_RF = self._by_row(rank_P, self.is_in["all"])
        _, base_RF = self._by_row(base_P, self.is_in["all"])
        num_users = int(self.user_P.max()) + 1
        sums_USF, rows_US = np.zeros((num_users, 1, len(names))), np.zeros((num_users, 1))
        np.add.at(sums_USF[:, 0], user_R, value_RF - base_RF)
        rows_US[:, 0] = np.bincount(user_R, minlength=num_users)
        low_F, high_F = (end_SF[0].tolist() for end_SF in self._interval(sums_USF, rows_US))
        mean_F = sums_USF.sum(0)[0] / rows_US.sum()
        return dict(zip(names, mean_F.tolist(), strict=True)) | {
            "ci90": dict(zip(names, map(list, zip(low_F, high_F, strict=True)), strict=True))
        }

    def _by_row(self, rank_P: np.ndarray, is_in_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """User number and figures of every row with targets in the segment: [R], [R, F]."""
        _, first, row_p, count_R = np.unique(
            self.row_P[is_in_P], return_index=True, return_inverse=True, return_counts=True
        )
        values = [recall_ndcg_by_user(rank_P[is_in_P], row_p, count_R, k) for k in self.ks]
        return self.user_P[is_in_P][first], np.stack([value for both in values for value in both], axis=1)

    def _interval(self, sums_USF: np.ndarray, rows_US: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """5th and 95th percentiles of the means over resamples, without resamples that draw no row of a segment."""
        num_users, segments, figures = sums_USF.shape
        both_UM = np.concatenate([sums_USF.reshape(num_users, -1), rows_US], axis=1)
        draws = np.stack([times_U @ both_UM for times_U in user_draws(num_users, self.resamples, self.seed)])
        sums, rows = draws[:, : segments * figures].reshape(-1, segments, figures), draws[:, segments * figures :]
        means = np.where(rows[:, :, None] > 0, sums / np.maximum(rows, 1)[:, :, None], np.nan)
        return tuple(np.nanquantile(means, [0.05, 0.95], axis=0))
