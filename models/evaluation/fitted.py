"""Two numbers beside finished vectors, chosen on the validation rows: the weights of held items and of popularity.

An inner product cannot say how much more likely a user is to take what the history holds already, nor how much
popularity counts. Both can be learned in training, at a cost: the vectors move to make room for them. Fitted afterwards
they cost nothing, as the vectors stay what they are. Where it was measured: docs/decisions/0012-weights-afterwards.md.

Shapes: B rows, I items (padding, item 0, included), K embedding width.
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
    """What stands beside an inner product of user and item.

    Attributes:
        repeat_bias: added where the user's history holds the item.
        popularity_prior: weight of log(1 + recent popularity).
    """

    repeat_bias: float = 0.0
    popularity_prior: float = 0.0


@dataclass(frozen=True)
class Fitted:
    """The weights that rank the validation rows best.

    Attributes:
        weights: the weights.
        before, after: the validation figures with the weights that the search began with, and with these.
        tried: how many pairs of weights were measured.
    """

    weights: Weights
    before: dict[str, float]
    after: dict[str, float]
    tried: int

    def as_json(self) -> dict[str, object]:
        """For result.json."""
        return asdict(self.weights) | {"before": self.before, "after": self.after, "tried": self.tried}


def fit_weights(user_BK: np.ndarray, item_IK: np.ndarray, validation: Validation, first: Weights) -> Fitted:
    """Searches one weight at a time, on a grid and then halfway to its neighbours; a tie keeps the smaller change.

    The validation's own figure is compared.

    Args:
        user_BK, item_IK: vectors of the validation's rows and of all items.
        validation: rows and figures.
        first: the weights to begin with.
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
    """The values between one and its neighbours on the grid."""
    below, above = [each for each in grid if each < value][-1:], [each for each in grid if each > value][:1]
    return [(value + each) / 2 for each in (*below, *above)]
