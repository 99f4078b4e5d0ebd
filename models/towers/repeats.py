"""Held items: those that stand in a user's history already, as candidates of what follows it.

In some logs users repeat themselves (groceries), in others they hardly do (the lines of an invoice). An inner product
cannot say which: a history's own items lie near the user's vector either way. One learned number, the repeat bias, can.

Shapes: B rows, H history length, K embedding width, P anchors, S items asked for, Q distinct (row, item) pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Learning-rate multiplier of the repeat bias. AdamW moves a weight by about the learning rate per step: too slow for
# one scalar that has to go as far as thousands of weights take the logits together, within a hundred steps.
REPEAT_SPEED = 5.0


@dataclass(frozen=True)
class Held:
    """The items of each anchor's history, as negatives beside the candidates.

    Attributes:
        item_PH: each item once, 0 at its other places.
        logit_PH: their logits, without `bias`.
        bias: added to the logits of all items that the anchor's history holds.
    """

    item_PH: Tensor
    logit_PH: Tensor
    bias: Tensor


@dataclass(frozen=True)
class HeldCandidates:
    """The items of each row's history, to find the candidates of the loss that are among them.

    Attributes:
        item_BH: each item once, 0 at its other places.
        bias: added to the logits of the candidates that the row's history holds.
    """

    item_BH: Tensor
    bias: Tensor


def once(item_BH: Tensor) -> Tensor:
    """The items of each row, each at its first place; its other places become 0."""
    length = item_BH.shape[1]
    is_before_HH = torch.ones(length, length, dtype=torch.bool, device=item_BH.device).tril(-1)
    is_again_BH = ((item_BH[:, :, None] == item_BH[:, None, :]) & is_before_HH).any(2)
    return item_BH.masked_fill(is_again_BH, 0)


def held_items(item_BH: Tensor) -> Tensor:
    """The items up to each position, that position included: int64 [B, H, H], each at its first place, else 0.

    Args:
        item_BH: item_idx, oldest first, 0 after a history's end.
    """
    length = item_BH.shape[1]
    is_held_HH = torch.ones(length, length, dtype=torch.bool, device=item_BH.device).tril()
    return once(item_BH)[:, None, :] * is_held_HH


def is_held(held_PH: Tensor, item_PS: Tensor) -> Tensor:
    """Whether each anchor's history (a row of `held_items`) holds the items asked for: bool [P, S]."""
    sorted_PH = held_PH.sort(1).values
    place_PS = torch.searchsorted(sorted_PH, item_PS).clamp(max=sorted_PH.shape[1] - 1)
    return sorted_PH.gather(1, place_PS) == item_PS


def history_logits(state_BHK: Tensor, item_BHK: Tensor) -> Tensor:
    """Inner products of each position's state with each item of its row, in fp32 under autocast: [B, H, H]."""
    with torch.autocast(state_BHK.device.type, enabled=False):
        wide = torch.promote_types(state_BHK.dtype, torch.float32)
        return state_BHK.to(wide) @ item_BHK.to(wide).transpose(1, 2)


def held_pairs(hist_items_BH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, item_idx) of each distinct item per history, sorted: int64 [Q, 2], and its last place there: [Q]."""
    row_N, place_N = np.nonzero(hist_items_BH > 0)
    pair_N2 = np.stack([row_N, hist_items_BH[row_N, place_N]], axis=1).astype(np.int64)
    pair_Q2, number_N = np.unique(pair_N2, axis=0, return_inverse=True)
    place_Q = np.zeros(len(pair_Q2), np.int64)
    np.maximum.at(place_Q, number_N, place_N)
    return pair_Q2, place_Q
