"""Scorers rank all items for a retrieval system, by scores from its vectors or from the histories.

Shapes: B rows, H history length, I items (including padding, item 0), K width, P (row, item) pairs of targets,
Q (row, item) pairs: items in histories, or items that are no candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from models.metrics.ranks import target_ranks
from models.towers.repeats import held_pairs

BLOCK_SCORES = 1 << 22  # scores held at once


@dataclass(frozen=True)
class Scorer:
    """A score is user . item + bias, plus a bonus for the items of the user's own history.

    Attributes:
        hist_items_BH: the histories, 0 is padding.
        user_BK, item_IK: vectors; None if the score is the bias alone.
        bias_I: added to every user's score; -inf for items that are nobody's candidates.
        raised: maps the last places of the history's items [Q] to the bonus of their scores; None: no bonus.
        parameters: the number of learned parameters of the system.
    """

    hist_items_BH: np.ndarray
    bias_I: np.ndarray
    user_BK: np.ndarray | None = None
    item_IK: np.ndarray | None = None
    raised: Callable[[np.ndarray], np.ndarray] | None = None
    parameters: int = 0

    def ranks(self, target_P2: np.ndarray, hidden_Q2: np.ndarray) -> np.ndarray:
        """Rank of every target among all candidates: int64 [P].

        Args:
            target_P2: (row, item) pairs, sorted by row.
            hidden_Q2: distinct pairs that are neither candidates nor targets.
        """
        held_Q2, more_Q = hidden_Q2, np.full(len(hidden_Q2), -np.inf)
        if self.raised:
            own_Q2, place_Q = held_pairs(self.hist_items_BH)
            both_Q2 = np.concatenate([hidden_Q2, own_Q2])
            first_Q = np.unique(both_Q2 @ [len(self.bias_I), 1], return_index=True)[1]  # a hidden pair wins over a held
            held_Q2, more_Q = both_Q2[first_Q], np.concatenate([more_Q, self.raised(place_Q)])[first_Q]
        user_BK, item_IK = self._vectors
        vectors = map(torch.from_numpy, (user_BK, item_IK, self._bias_I))
        return target_ranks(*vectors, target_P2=target_P2, held_Q2=held_Q2, held_bias=more_Q)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Scores of all items for some rows: [b, I]."""
        user_BK, item_IK = self._vectors
        score_bI = user_BK[rows] @ item_IK.T + self._bias_I
        if self.raised:
            pair_q2, place_q = held_pairs(self.hist_items_BH[rows])
            score_bI[pair_q2[:, 0], pair_q2[:, 1]] += self.raised(place_q)
        return score_bI

    @property
    def _bias_I(self) -> np.ndarray:
        return self.bias_I.astype(np.float32)

    @property
    def _vectors(self) -> tuple[np.ndarray, np.ndarray]:
        if self.user_BK is None or self.item_IK is None:
            return np.zeros((len(self.hist_items_BH), 1), np.float32), np.zeros((len(self.bias_I), 1), np.float32)
        return self.user_BK, self.item_IK


@dataclass(frozen=True)
class HistoryScorer:
    """A score is a function of the history, plus bias. Computes in float64, a block of rows at a time.

    Attributes:
        of_histories: (histories [b, H], their lengths [b]) -> scores, float64 [b, I]; a new array each time.
        hist_items_BH, hist_len_B: the histories.
        bias_I: added to every row's score; -inf for items that are nobody's candidates.
        parameters: the number of learned parameters of the system.
    """

    of_histories: Callable[[np.ndarray, np.ndarray], np.ndarray]
    hist_items_BH: np.ndarray
    hist_len_B: np.ndarray
    bias_I: np.ndarray
    parameters: int = 0

    def ranks(self, target_P2: np.ndarray, hidden_Q2: np.ndarray) -> np.ndarray:
        """As `Scorer.ranks`; hidden pairs must be sorted by row. As in `target_ranks`, ties rank before the target."""
        rank_P = np.zeros(len(target_P2), np.int64)
        rows_U = np.unique(target_P2[:, 0])
        step = max(1, BLOCK_SCORES // len(self.bias_I))
        for start in range(0, len(rows_U), step):
            rows_b = rows_U[start : start + step]
            score_bI = self.scores(rows_b)
            own, hidden = (
                slice(*np.searchsorted(pair_2[:, 0], [rows_b[0], rows_b[-1] + 1])) for pair_2 in (target_P2, hidden_Q2)
            )
            hidden_q2 = hidden_Q2[hidden]
            hidden_q2 = hidden_q2[np.isin(hidden_q2[:, 0], rows_b)]
            score_bI[np.searchsorted(rows_b, hidden_q2[:, 0]), hidden_q2[:, 1]] = -np.inf
            row_p, item_p = np.searchsorted(rows_b, target_P2[own, 0]), target_P2[own, 1]
            below = [(score_bI[row] < score_bI[row, item]).sum() for row, item in zip(row_p, item_p, strict=True)]
            rank_P[own] = len(self.bias_I) - np.array(below)
        return rank_P

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Scores of all items for some rows: float64 [b, I]."""
        return self.of_histories(self.hist_items_BH[rows], self.hist_len_B[rows]) + self.bias_I
