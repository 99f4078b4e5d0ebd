"""What the type of an event (view, cart, purchase, dislike) does to it on its way into the user tower.

The content of an item says what an event was about, its type what kind of event it was. Two things are learned of each
type: a vector that is added to the event's token, and a weight that its content counts with, in the token and in the
content residual. The weight may become negative: a film that was rated low then pushes the user's vector away from
films like it. Both begin as if there were no types, at zeros and at 1.

Shapes: N tokens of all histories, D model width, B rows, H history length.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from models.contract.event_types import codes_for

# Learning-rate multiplier of the weights: as REPEAT_SPEED, AdamW moves a lone scalar too slowly.
WEIGHT_SPEED = 10.0


class EventTypes(nn.Module):
    """A vector and a weight per event type; code 0, padding, is neutral.

    Args:
        num: of types.
        width: of a token.
    """

    def __init__(self, num: int, width: int) -> None:
        super().__init__()
        self.vector, self.offset = nn.Embedding(1 + num, width, padding_idx=0), nn.Embedding(1 + num, 1, padding_idx=0)
        for table in (self.vector, self.offset):
            nn.init.zeros_(table.weight)

    def forward(self, token_ND: Tensor, type_N: Tensor) -> Tensor:
        """The tokens as events of these types: [N, D]."""
        return token_ND * self.weight(type_N)[:, None] + self.vector(type_N)

    def weight(self, types: Tensor) -> Tensor:
        """How much an event's content counts; shaped like `types`."""
        return 1.0 + WEIGHT_SPEED * self.offset(types)[..., 0]


def model_types(model: object, names: Sequence[str], types_BH: np.ndarray | None, what: str) -> np.ndarray | None:
    """Codes of event types as a retriever reads them: [B, H]; None for one that reads none.

    Args:
        model: a retriever; one that reads types has their names in `event_types`.
        names: what the given codes stand for.
        types_BH: codes; None where the histories have none.
        what: names the model in the error.

    Raises:
        BadInput: the model reads types, and the histories have none, or one that it does not know.
    """
    known: tuple[str, ...] = getattr(model, "event_types", ())
    if not known:
        return None
    table = codes_for(known, names if types_BH is not None else (), what)
    return table[types_BH]
