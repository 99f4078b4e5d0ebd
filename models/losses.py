"""Dense all-action InfoNCE.

Shapes: B users, L sequence length, S sampled positions of a sequence, N sampled anchors (history positions),
T sampled targets, K embedding width, A = B * N anchors, M = B * T candidates.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.settings import LossConfig


def recency_weights(length_B: Tensor, max_len: int, alpha: float, beta: float) -> Tensor:
    """Weight log(alpha + i (beta - alpha) / (n - 1)) of position i of a sequence of n, newest heaviest.

    Returns:
        float [B, max_len]; 0 behind the sequence's end; log(alpha) where n = 1.
    """
    i_L = torch.arange(max_len, device=length_B.device)
    slope_B1 = (beta - alpha) / (length_B - 1).clamp(min=1)[:, None]
    weight_BL = torch.log(alpha + i_L * slope_B1)
    return weight_BL.masked_fill(i_L >= length_B[:, None], 0.0)


def sample_positions(
    length_B: Tensor, max_len: int, num: int, config: LossConfig, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw positions without replacement, with probabilities in proportion to the recency weights.

    Returns:
        positions, int64 [B, S] in sequence order, S = min(num, max_len), and their validity, bool [B, S]:
        a sequence of fewer than S items gives all of them once.
    """
    weight_BL = recency_weights(length_B, max_len, config.alpha, config.beta)
    # Exponential races: the S smallest of Exp(1) / weight are a weighted draw without replacement.
    noise_BL = torch.empty(weight_BL.shape, device=weight_BL.device).exponential_(generator=generator)
    race_BL = torch.where(weight_BL > 0, noise_BL / weight_BL, torch.inf)
    time_BS, position_BS = race_BL.topk(min(num, max_len), largest=False)
    is_valid_BS = time_BS.isfinite()
    position_BS, order_BS = torch.where(is_valid_BS, position_BS, max_len).sort(dim=1)
    return position_BS.clamp(max=max_len - 1), is_valid_BS.gather(1, order_BS)


def all_action_info_nce(
    anchor_BNK: Tensor,
    target_BTK: Tensor,
    is_anchor_BN: Tensor,
    is_target_BT: Tensor,
    scale: Tensor | float,
    user_B: Tensor | None = None,
    item_BT: Tensor | None = None,
    log_q_BT: Tensor | None = None,
) -> Tensor:
    """Mean over all (anchor, target) pairs of a user of -log softmax(target | target + other users' targets).

    With s the scaled inner product, l(h, t) = softplus(LSE(h) - s(h, t)), where LSE(h) is the log-sum-exp
    of anchor h over the targets of the batch's other users: one an anchor, not one a pair. The user's own
    other targets never stand in the denominator.

    Args:
        anchor_BNK, target_BTK: unit vectors of the sampled history positions and targets.
        is_anchor_BN, is_target_BT: which of them are real.
        scale: 1 / temperature.
        user_B: ids of the rows' users; rows of the same user are not each other's negatives. By default
            every row is a user of its own.
        item_BT: targets' item ids; if given, other users' targets equal to one of the user's own sampled
            targets are left out (false negatives).
        log_q_BT: log sampling probability of the targets; if given, subtracted from their logits.

    Returns:
        A scalar; 0 when no pair is valid or when there is no negative.
    """
    B, T, _ = target_BTK.shape
    user_B = torch.arange(B, device=target_BTK.device) if user_B is None else user_B
    is_negative_BM = ((user_B[:, None] != user_B)[:, :, None] & is_target_BT).reshape(B, B * T)
    if item_BT is not None:
        own_BT = item_BT.masked_fill(~is_target_BT, -1)
        is_negative_BM &= (item_BT.reshape(1, -1, 1) != own_BT[:, None, :]).all(-1)
    scaled_BNK = anchor_BNK * scale
    logit_BNM = scaled_BNK @ target_BTK.reshape(B * T, -1).T
    positive_BNT = scaled_BNK @ target_BTK.transpose(1, 2)
    if log_q_BT is not None:
        logit_BNM = logit_BNM - log_q_BT.reshape(-1)
        positive_BNT = positive_BNT - log_q_BT[:, None, :]
    # Finite, so that the gradient of an anchor without any negative is 0 and not NaN.
    lowest = -math.sqrt(torch.finfo(logit_BNM.dtype).max)
    lse_BN = logit_BNM.masked_fill(~is_negative_BM[:, None, :], lowest).logsumexp(-1)
    loss_BNT = F.softplus(lse_BN[:, :, None] - positive_BNT)
    is_pair_BNT = is_anchor_BN[:, :, None] & is_target_BT[:, None, :]
    return loss_BNT.masked_fill(~is_pair_BNT, 0.0).sum() / is_pair_BNT.sum().clamp(min=1)
