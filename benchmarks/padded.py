"""Baselines for packed sequences and the tiled loss: every row at full length, and the all-action loss as a matrix.

Shapes: B users, L padded length, D model width, N anchors and T targets per user, K embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.export.online_programs import Rectangle


class Padded(Rectangle):
    """The interface of `models.layers.packing.Packing` over the padded layout, by views alone: no token is left out."""

    def __init__(self, length_B: Tensor, max_len: int, device: torch.device | None = None) -> None:
        super().__init__(len(length_B), max_len, device or length_B.device)

    def packed(self, x_BL: Tensor) -> Tensor:
        return x_BL.flatten(0, 1)

    def at(self, position_BS: Tensor) -> Tensor:
        rows, max_len = self.shape
        return torch.arange(rows, device=position_BS.device)[:, None] * max_len + position_BS


def naive_loss(anchor_BNK: Tensor, target_BTK: Tensor, scale: float | Tensor) -> Tensor:
    """The loss by the masked matrix of all logits and plain autograd. All targets must be real, one row per user."""
    B, T, _ = target_BTK.shape
    is_own_BM = torch.eye(B, dtype=torch.bool, device=anchor_BNK.device).repeat_interleave(T, 1)
    scaled_BNK = anchor_BNK * scale
    logit_BNM = scaled_BNK @ target_BTK.flatten(0, 1).T
    lse_BN = logit_BNM.masked_fill(is_own_BM[:, None], -torch.inf).logsumexp(-1)
    return F.softplus(lse_BN[:, :, None] - scaled_BNK @ target_BTK.transpose(1, 2)).mean()
