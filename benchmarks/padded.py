"""What packed sequences are measured against: every row computed at full length, and the all-action loss as a matrix.

Shapes: B users, L padded length, D model width, N anchors and T targets of a user, K embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.export.online_programs import Rectangle


class Padded(Rectangle):
    """All of `models.layers.packing.Packing` over the padded layout: views, no selection, nothing saved."""

    def __init__(self, length_B: Tensor, max_len: int, device: torch.device | None = None) -> None:
        super().__init__(len(length_B), max_len, device or length_B.device)

    def packed(self, x_BL: Tensor) -> Tensor:
        return x_BL.flatten(0, 1)

    def at(self, position_BS: Tensor) -> Tensor:
        rows, max_len = self.shape
        return torch.arange(rows, device=position_BS.device)[:, None] * max_len + position_BS


def naive_loss(anchor_BNK: Tensor, target_BTK: Tensor, scale: float | Tensor) -> Tensor:
    """All targets of all rows are real and every row is a user: the matrix of all logits, masked, autograd's own."""
    B, T, _ = target_BTK.shape
    is_own_BM = torch.eye(B, dtype=torch.bool, device=anchor_BNK.device).repeat_interleave(T, 1)
    scaled_BNK = anchor_BNK * scale
    logit_BNM = scaled_BNK @ target_BTK.flatten(0, 1).T
    lse_BN = logit_BNM.masked_fill(is_own_BM[:, None], -torch.inf).logsumexp(-1)
    return F.softplus(lse_BN[:, :, None] - scaled_BNK @ target_BTK.transpose(1, 2)).mean()
