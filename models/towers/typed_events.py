"""How the type of an event (view, cart, purchase, dislike) enters the user tower.

The content of an item says what an event was about, its type what kind of event it was. Two things are learned per
type: a vector that is added to the event's token, and a weight that multiplies its content, in the token and in the
content residual. The weight may become negative: a film with a low rating then pushes the user's vector away from
similar films. The initial values, zeros and 1, are neutral.

Shapes: N tokens of all histories, D model width, B rows, H history length.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from models.contract.event_types import codes_for

# Learning-rate multiplier of the weights, for the reason of REPEAT_SPEED: AdamW changes a single scalar too slowly.
WEIGHT_SPEED = 10.0


class EventTypes(nn.Module):
    """A vector and a weight per event type; code 0, padding, is neutral.

    Args:
        num: number of types.
        width: width of a token.
    """

    def __init__(self, num: int, width: int) -> None:
        super().__init__()
        self.vector, self.offset = nn.Embedding(1 + num, width, padding_idx=0), nn.Embedding(1 + num, 1, padding_idx=0)
        for table in (self.vector, self.offset):
            nn.init.zeros_(table.weight)

    def forward(self, token_ND: Tensor, type_N: Tensor) -> Tensor:
        """The tokens, weighted and shifted according to their events' types: [N, D]."""
        return token_ND * self.weight(type_N)[:, None] + self.vector(type_N)

    def weight(self, types: Tensor) -> Tensor:
        """Weight of an event's content; same shape as `types`."""
        return 1.0 + WEIGHT_SPEED * self.offset(types)[..., 0]


def model_types(model: object, names: Sequence[str], types_BH: np.ndarray | None, what: str) -> np.ndarray | None:
    """Translates codes of event types to those of a retriever: [B, H]; None if it does not read types.

    Args:
        model: a retriever; if it reads types, their names are in its attribute `event_types`.
        names: the names that the given codes stand for.
        types_BH: codes; None if the histories have none.
        what: what error messages call the model.

    Raises:
        BadInput: the model reads types, and the histories have none, or a type that it does not know.
    """
    known: tuple[str, ...] = getattr(model, "event_types", ())
    if not known:
        return None
    table = codes_for(known, names if types_BH is not None else (), what)
    return table[types_BH]
