"""Ranking among a few sampled candidates: for systems that are too slow to score every item for every row.

Figures on samples are not comparable with figures on all items, nor with those on other samples (Krichene and
Rendle, KDD 2020). Therefore every system of a comparison ranks the same samples.

Shapes: B rows of a split, S sampled rows, C candidates per row, the target first; H history length, I items,
D items that may be drawn.
"""

from collections.abc import Callable, Mapping

import numpy as np

from models.contract.evaluation_specs import SampledConfig
from models.contract.failures import BadInput

KS = (1, 5, 10)


class SampledCandidates:
    """Sampled rows, each with candidates: its first target, and uniformly drawn items that the row does not hold.

    Args:
        rows: the split's hist_items, hist_len, tar_items by name.
        item_D: the items that may be drawn, ascending. A row whose first target is not among them is not sampled.
        config: numbers of rows and candidates, and the seed.

    Attributes:
        row_S: numbers of the sampled rows, ascending.
        item_SC: their candidates, the target first.

    Raises:
        BadInput: there are too few items to draw for a row.
    """

    def __init__(self, rows: Mapping[str, np.ndarray], item_D: np.ndarray, config: SampledConfig) -> None:
        hist_BH, tar_BT = rows["hist_items"], rows["tar_items"]
        rng = np.random.default_rng(config.seed)
        usable = np.flatnonzero((rows["hist_len"] > 0) & np.isin(tar_BT[:, 0], item_D))
        self.row_S = np.sort(rng.permutation(usable)[: config.rows])
        self.item_SC = np.zeros((len(self.row_S), config.candidates), np.int64)
        for place, row in enumerate(self.row_S):
            own = np.union1d(hist_BH[row], tar_BT[row])
            own = own[np.isin(own, item_D)]
            if len(item_D) - len(own) < config.candidates - 1:
                raise BadInput(
                    f"{config.candidates} candidates are asked for, but of {len(item_D)} items"
                    f" row {row} holds {len(own)} itself"
                )
            self.item_SC[place] = [tar_BT[row, 0], *_drawn(rng, item_D, config.candidates - 1, own)]

    def figures(self, score_SC: np.ndarray) -> dict[str, float]:
        """recall_at_k, ndcg_at_10, mrr, and the number of rows. Equal scores and NaN rank before the target."""
        rank_S = (~(score_SC < score_SC[:, :1])).sum(1)
        found = {f"recall_at_{k}": float((rank_S <= k).mean()) for k in KS}
        gain_S = np.where(rank_S <= KS[-1], 1 / np.log2(rank_S + 1.0), 0.0)
        found |= {f"ndcg_at_{KS[-1]}": float(gain_S.mean()), "mrr": float((1 / rank_S).mean())}
        return found | {"rows": len(rank_S)}

    def of_all(self, scores: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The candidates' scores, float64 [S, C], picked from scores of all items.

        Args:
            scores: maps row numbers [s] to scores of all items [s, I].
        """
        step = max(1, (1 << 24) // max(int(self.item_SC.max(initial=1)), 1))
        parts = [
            np.take_along_axis(scores(self.row_S[start : start + step]), self.item_SC[start : start + step], 1)
            for start in range(0, len(self.row_S), step)
        ]
        return np.concatenate(parts) if parts else np.zeros(self.item_SC.shape)


def _drawn(rng: np.random.Generator, item_D: np.ndarray, count: int, own: np.ndarray) -> np.ndarray:
    """`count` distinct items that are not among `own`."""
    if 4 * (count + len(own)) > len(item_D):
        return rng.permutation(np.setdiff1d(item_D, own))[:count]
    drawn = item_D[rng.choice(len(item_D), count + len(own), replace=False, shuffle=True)]
    return drawn[~np.isin(drawn, own)][:count]
