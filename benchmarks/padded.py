"""What packed sequences are measured against: every row computed at full length, and the all-action loss as a matrix.

Shapes: B users, L padded length, D model width, N anchors and T targets of a user, K embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class Padded:
    """The interface of `models.packing.Packing` over the padded layout: views, no selection, nothing saved."""

    def __init__(self, length_B: Tensor, max_len: int, device: torch.device | None = None) -> None:
        self.rows, self.max_len = len(length_B), max_len
        self.position_N = torch.arange(max_len, device=device or length_B.device).repeat(self.rows)

    def packed(self, x_BL: Tensor) -> Tensor:
        return x_BL.flatten(0, 1)

    def at(self, position_BS: Tensor) -> Tensor:
        return torch.arange(self.rows, device=position_BS.device)[:, None] * self.max_len + position_BS

    def groups(self, x_ND: Tensor) -> list[Tensor]:
        return [x_ND.unflatten(0, (self.rows, self.max_len))]

    def ungrouped(self, groups: list[Tensor]) -> Tensor:
        return groups[0].flatten(0, 1)


def naive_loss(anchor_BNK: Tensor, target_BTK: Tensor, scale: float | Tensor) -> Tensor:
    """All targets of all rows are real and every row is a user: the matrix of all logits, masked, autograd's own."""
    B, T, _ = target_BTK.shape
    is_own_BM = torch.eye(B, dtype=torch.bool, device=anchor_BNK.device).repeat_interleave(T, 1)
    scaled_BNK = anchor_BNK * scale
    logit_BNM = scaled_BNK @ target_BTK.flatten(0, 1).T
    lse_BN = logit_BNM.masked_fill(is_own_BM[:, None], -torch.inf).logsumexp(-1)
    return F.softplus(lse_BN[:, :, None] - scaled_BNK @ target_BTK.transpose(1, 2)).mean()
