"""Sequences without their padding.

Shapes: B sequences, L their padded length, N real tokens of all sequences, P slots of all groups (P >= N),
D width of a token; b sequences of a group, padded to length l.
"""

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

GROUPS = 8  # groups of equally many sequences: padding is a few percent; each group costs one attention call per layer


class Packing:
    """Packs the real tokens of right-padded sequences one after another, shorter sequences first.

    Layers that treat each token independently run on the packed tokens. Attention needs rectangles: sequences of
    similar length form a group, which is padded only to its longest sequence.

    Args:
        length_B: lengths; an empty sequence keeps one (padding) token, so that every row has an output.
        device: device of the tokens; by default that of the lengths.

    Attributes:
        row_N, position_N: each token's row and position in the padded layout.
        shapes: (b, l) of every group, in the order of the slots.
    """

    def __init__(self, length_B: Tensor, device: torch.device | None = None) -> None:
        device = length_B.device if device is None else device
        length_B = length_B.cpu().long().clamp(min=1)
        order_B = length_B.argsort(stable=True)
        row_N = order_B.repeat_interleave(length_B[order_B])
        first_B = torch.empty_like(length_B)
        first_B[order_B] = length_B[order_B].cumsum(0) - length_B[order_B]
        position_N = torch.arange(len(row_N)) - first_B[row_N]
        self.shapes, slots, tokens = [], [], []
        for rows_b in order_B.chunk(GROUPS):
            columns_l = torch.arange(int(length_B[rows_b[-1]]))
            self.shapes.append((len(rows_b), len(columns_l)))
            slots.append((columns_l < length_B[rows_b, None]).flatten())
            tokens.append((first_B[rows_b, None] + columns_l).flatten())
        is_real_P = torch.cat(slots)
        self.row_N, self.position_N = row_N.to(device), position_N.to(device)
        self._first_B, self._is_real_P = first_B.to(device), is_real_P.to(device)
        self._slot_N = is_real_P.nonzero()[:, 0].to(device)
        # Padded slots hold an arbitrary token: no real position attends to them, and their gradients are set to 0.
        self._token_P = torch.where(is_real_P, torch.cat(tokens), 0).to(device)

    def packed(self, x_BL: Tensor) -> Tensor:
        """The real tokens' entries of [B, L, ...]: [N, ...]."""
        return x_BL[self.row_N, self.position_N]

    def at(self, position_BS: Tensor) -> Tensor:
        """Indices of the sequences' positions among the packed tokens: int64 of the same shape.

        Positions after a sequence's end give arbitrary tokens.
        """
        return (self._first_B[:, None] + position_BS).clamp(max=len(self.row_N) - 1)

    def groups(self, x_ND: Tensor) -> list[Tensor]:
        """The tokens as one rectangle per group: [b, l, D] each."""
        padded_PD = _Select.apply(x_ND, self._token_P, self._slot_N, None)
        parts = padded_PD.split([rows * length for rows, length in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def ungrouped(self, groups: list[Tensor]) -> Tensor:
        """The inverse of `groups`: [N, D]."""
        padded_PD = torch.cat([group.flatten(0, 1) for group in groups])
        return _Select.apply(padded_PD, self._slot_N, self._token_P, self._is_real_P)


_Ctx: TypeAlias = Any  # torch's own type does not know what is saved in it


class _Select(torch.autograd.Function):
    """Selects rows by index, each at most once. So the gradient is a selection, too: on CPUs far cheaper than sums."""

    @staticmethod
    def forward(ctx: _Ctx, x: Tensor, index: Tensor, back: Tensor, is_wanted: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, is_wanted)
        return x.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        back, is_wanted = ctx.saved_tensors
        selected = grad.index_select(0, back)
        if is_wanted is not None:
            selected.mul_(is_wanted[:, None])
        return selected, None, None, None


def last_places(length_B: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The last `most` valid places of right-padded rows: how many per row [B], and the places [B, L].

    L is the largest of these counts, at least 1. Shorter rows repeat their last place; empty rows have 0.
    """
    kept_B = np.minimum(length_B, most)
    place_BL = (length_B - kept_B)[:, None] + np.arange(max(int(kept_B.max(initial=0)), 1))
    return kept_B, np.minimum(place_BL, np.maximum(length_B - 1, 0)[:, None])
