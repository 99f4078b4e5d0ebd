"""Held items: candidates for the next event that are already in the user's history.

In some logs users often repeat items (groceries), in others they hardly do (the lines of an invoice). An inner product
cannot express this: a history's own items are close to the user's vector either way. One learned number, the repeat
bias, can.

Shapes: B rows, H history length, K embedding width, P anchors, S items per anchor, Q distinct (row, item) pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Learning-rate multiplier of the repeat bias. AdamW changes a weight by about the learning rate per step. That is too
# slow for a single scalar, which within a hundred steps must change logits as much as thousands of weights do together.
REPEAT_SPEED = 5.0


@dataclass(frozen=True)
class Held:
    """The items of each anchor's history, as further negatives besides the candidates.

    Attributes:
        item_PH: the history's items; a repeated item only once, with 0 at its other places.
        logit_PH: their logits, without `bias`.
        bias: added to the logits of all items that the anchor's history holds.
    """

    item_PH: Tensor
    logit_PH: Tensor
    bias: Tensor


@dataclass(frozen=True)
class HeldCandidates:
    """The items of each row's history, by which the loss finds the candidates that the history holds.

    Attributes:
        item_BH: the history's items; a repeated item only once, with 0 at its other places.
        bias: added to the logits of the candidates that the row's history holds.
    """

    item_BH: Tensor
    bias: Tensor


def once(item_BH: Tensor) -> Tensor:
    """The items of each row without repeats: an item stays at its first place, its other places become 0."""
    length = item_BH.shape[1]
    is_before_HH = torch.ones(length, length, dtype=torch.bool, device=item_BH.device).tril(-1)
    is_again_BH = ((item_BH[:, :, None] == item_BH[:, None, :]) & is_before_HH).any(2)
    return item_BH.masked_fill(is_again_BH, 0)


def held_items(item_BH: Tensor) -> Tensor:
    """The items up to and including each position: int64 [B, H, H], each item at its first place, 0 elsewhere.

    Args:
        item_BH: item_idx, oldest first, 0 after a history's end.
    """
    length = item_BH.shape[1]
    is_held_HH = torch.ones(length, length, dtype=torch.bool, device=item_BH.device).tril()
    return once(item_BH)[:, None, :] * is_held_HH


def is_held(held_PH: Tensor, item_PS: Tensor) -> Tensor:
    """Whether each anchor's history (a row of `held_items`) holds the items `item_PS`: bool [P, S]."""
    sorted_PH = held_PH.sort(1).values
    place_PS = torch.searchsorted(sorted_PH, item_PS).clamp(max=sorted_PH.shape[1] - 1)
    return sorted_PH.gather(1, place_PS) == item_PS


def history_logits(state_BHK: Tensor, item_BHK: Tensor) -> Tensor:
    """Inner products of each position's state with each item of its row, in fp32 under autocast: [B, H, H]."""
    with torch.autocast(state_BHK.device.type, enabled=False):
        wide = torch.promote_types(state_BHK.dtype, torch.float32)
        return state_BHK.to(wide) @ item_BHK.to(wide).transpose(1, 2)


def held_pairs(hist_items_BH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, item_idx) of each history's distinct items, sorted: int64 [Q, 2], and their last places in it: [Q]."""
    row_N, place_N = np.nonzero(hist_items_BH > 0)
    pair_N2 = np.stack([row_N, hist_items_BH[row_N, place_N]], axis=1).astype(np.int64)
    pair_Q2, number_N = np.unique(pair_N2, axis=0, return_inverse=True)
    place_Q = np.zeros(len(pair_Q2), np.int64)
    np.maximum.at(place_Q, number_N, place_N)
    return pair_Q2, place_Q
