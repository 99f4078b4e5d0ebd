"""Two weights chosen on the validation rows for finished vectors: the repeat bias and the popularity prior.

An inner product cannot say how much more likely a user is to take an item that the history already holds, nor how much
popularity counts. Both can be learned in training, at a cost: the vectors change to make room for them. Fitted
afterwards they cost nothing, because the vectors stay the same. Measured in docs/decisions/0012-weights-afterwards.md.

Shapes: B rows, I items (including padding, item 0), K embedding width.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np

from models.evaluation.validation import Validation

GRIDS = {
    "repeat_bias": (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0),
    "popularity_prior": (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
}
ROUNDS = 2


@dataclass(frozen=True)
class Weights:
    """The terms added to the inner product of user and item.

    Attributes:
        repeat_bias: added if the user's history holds the item.
        popularity_prior: factor of log(1 + recent popularity).
    """

    repeat_bias: float = 0.0
    popularity_prior: float = 0.0


@dataclass(frozen=True)
class Fitted:
    """The weights that rank the validation rows best.

    Attributes:
        weights: the weights.
        before, after: the validation figures with the initial weights, and with the chosen ones.
        tried: number of pairs of weights that were measured.
    """

    weights: Weights
    before: dict[str, float]
    after: dict[str, float]
    tried: int

    def as_json(self) -> dict[str, object]:
        """The values for result.json."""
        return asdict(self.weights) | {"before": self.before, "after": self.after, "tried": self.tried}


def fit_weights(user_BK: np.ndarray, item_IK: np.ndarray, validation: Validation, first: Weights) -> Fitted:
    """Searches one weight at a time, on a grid and then halfway to its neighbours.

    Compares by `validation.metric`. Among values with equal figures, the one closest to the current value wins.

    Args:
        user_BK, item_IK: vectors of the validation rows and of all items.
        validation: rows and figures.
        first: the initial weights.
    """
    measured: dict[Weights, dict[str, float]] = {}

    def figures(weights: Weights) -> dict[str, float]:
        if weights not in measured:
            measured[weights] = validation.figures(user_BK, item_IK, weights.repeat_bias, weights.popularity_prior)
        return measured[weights]

    def best(weights: Weights, name: str, values: Iterable[float]) -> Weights:
        now = getattr(weights, name)
        nearest_first = sorted({now, *values}, key=lambda value: (abs(value - now), value))
        changed = [replace(weights, **{name: value}) for value in nearest_first]
        return max(changed, key=lambda each: figures(each)[validation.metric])

    weights = first
    for _ in range(ROUNDS):
        for name, grid in GRIDS.items():
            weights = best(weights, name, grid)
            weights = best(weights, name, _halfway(grid, getattr(weights, name)))
    return Fitted(weights, figures(first), figures(weights), len(measured))


def _halfway(grid: tuple[float, ...], value: float) -> list[float]:
    """The midpoints between a value and its neighbours on the grid."""
    below, above = [each for each in grid if each < value][-1:], [each for each in grid if each > value][:1]
    return [(value + each) / 2 for each in (*below, *above)]
