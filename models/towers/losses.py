"""Dense all-action InfoNCE.

Shapes: B users, L sequence length, S sampled positions of a sequence, N sampled anchors (history positions),
T sampled targets, K embedding width, M candidates, R occurrences of candidates as a user's target; b rows and m
candidates of a tile.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.contract.settings import LossConfig
from models.towers.repeats import Held, HeldCandidates

# Anchors x candidates of a tile of logits. On CPUs a tile is 1 MiB in fp32, which stays in the caches; on GPUs it is
# 128 MiB, so that a product takes longer than its kernel launch.
TILES = {"cpu": (256, 1024), "cuda": (8192, 4096)}
MOST_WEIGHTS = 2**25  # the largest size of a tile's weights, its rows x all candidates: 128 MiB
LINEAR_FROM = 40.0  # above this, softplus(x) equals x to the last bit; torch's default of 20 is not exact in fp64
LOWEST = -1e30  # used for log 0 where -inf would make the gradient NaN


def recency_weights(length_B: Tensor, max_len: int, alpha: float, beta: float) -> Tensor:
    """Weight log(alpha + i (beta - alpha) / (n - 1)) of position i in a sequence of length n; the newest weighs most.

    Returns:
        float [B, max_len]; 0 after the sequence's end; log(alpha) if n = 1.
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
        positions, int64 [B, S] in sequence order, S = min(num, max_len), and which of them are valid, bool [B, S]:
        a sequence of fewer than S items gives each item once.
    """
    weight_BL = recency_weights(length_B, max_len, config.alpha, config.beta)
    # Exponential race: the S smallest values of Exp(1) / weight are a weighted draw without replacement.
    noise_BL = torch.empty(weight_BL.shape, device=weight_BL.device).exponential_(generator=generator)
    race_BL = torch.where(weight_BL > 0, noise_BL / weight_BL, torch.inf)
    time_BS, position_BS = race_BL.topk(min(num, max_len), largest=False)
    is_valid_BS = time_BS.isfinite()
    position_BS, order_BS = torch.where(is_valid_BS, position_BS, max_len).sort(dim=1)
    return position_BS.clamp(max=max_len - 1), is_valid_BS.gather(1, order_BS)


@dataclass(frozen=True)
class Candidates:
    """The items in the softmax denominators, from this batch, from all ranks' batches, or from the catalogue.

    Attributes:
        vector_MK: item vectors, gradients allowed.
        bias_M: added to the logits (a learned item bias, minus log q), gradients allowed.
        item_M: their item ids.
        user_R, place_R: occurrence r is candidate place_R[r] as a target of user user_R[r]. A candidate counts once per
            occurrence, but a user's own occurrences are no negatives for that user. If None, each candidate counts once
            and is nobody's target.
    """

    vector_MK: Tensor
    bias_M: Tensor
    item_M: Tensor | None = None
    user_R: Tensor | None = None
    place_R: Tensor | None = None

    @classmethod
    def in_batch(
        cls,
        target_BTK: Tensor,
        is_target_BT: Tensor,
        user_B: Tensor,
        item_BT: Tensor | None = None,
        bias_BT: Tensor | None = None,
        merge: bool = False,
    ) -> "Candidates":
        """The sampled targets of the batch as candidates.

        Without `merge` each target is a candidate of its own. With it each distinct item is one candidate, counted as
        often as it occurs; this needs `item_BT`, and is exact if equal items have equal vectors and biases.
        """
        target_RK, user_R = target_BTK[is_target_BT], user_B[is_target_BT.nonzero()[:, 0]]
        bias_R = target_RK.new_zeros(len(target_RK)) if bias_BT is None else bias_BT[is_target_BT]
        item_R = None if item_BT is None else item_BT[is_target_BT]
        place_R = torch.arange(len(target_RK), device=target_RK.device)
        if not merge:
            return cls(target_RK, bias_R, item_R, user_R, place_R)
        assert item_R is not None, "to merge needs item_BT"
        item_M, merged_R = item_R.unique(return_inverse=True)
        one_M = torch.empty_like(item_M).index_put_((merged_R,), place_R)  # any one occurrence per item
        return cls(target_RK[one_M], bias_R[one_M], item_M, user_R, merged_R)


def all_action_info_nce(
    anchor_BNK: Tensor,
    target_BTK: Tensor,
    is_anchor_BN: Tensor,
    is_target_BT: Tensor,
    scale: Tensor | float,
    candidates: Candidates,
    user_B: Tensor,
    target_bias_BT: Tensor | None = None,
    own_item_BL: Tensor | None = None,
    more_BN: Tensor | None = None,
    held: HeldCandidates | None = None,
    weight_BT: Tensor | None = None,
) -> Tensor:
    """Mean over all (anchor, target) pairs of a user of -log softmax(target | target + negatives).

    With s the scaled inner product plus bias, l(h, t) = softplus(LSE(h) - s(h, t)), where LSE(h) is the
    log-sum-exp of anchor h over its negatives: one per anchor, not one per pair. Negatives are all candidates except
    the user's own targets. Memory grows with B, M and K, never with B x M: logits exist only in tiles, and the backward
    pass recomputes them (as in Inf-CL, arXiv 2410.17243). Computes in fp32 under autocast.

    Args:
        anchor_BNK, target_BTK: unit vectors of the sampled history positions and targets.
        is_anchor_BN, is_target_BT: which of them are real.
        scale: 1 / temperature.
        candidates: those of the whole global batch, these rows' own targets included.
        user_B: ids of the rows' users.
        target_bias_BT: bias of each target, as `candidates.bias_M`; it includes `held.bias` for targets that the row's
            history holds.
        own_item_BL: item ids that are not negatives of that row, even as other users' targets (false
            negatives); -1: none. Needs `candidates.item_M`.
        more_BN: log-sum-exp of every anchor over further negatives, which are not among the candidates.
        held: the items of each row's history, and the bias that is added to their logits. Needs `candidates.item_M`.
        weight_BT: weight of a pair in the mean, given by its target; None: all pairs weigh the same.

    Returns:
        A scalar; 0 when no pair is valid or when there is no negative.
    """
    with torch.autocast(anchor_BNK.device.type, enabled=False):
        wide = torch.promote_types(anchor_BNK.dtype, torch.float32)
        scaled_BNK, target_BTK = anchor_BNK.to(wide) * scale, target_BTK.to(wide)
        positive_BNT = scaled_BNK @ target_BTK.transpose(1, 2)
        if target_bias_BT is not None:
            positive_BNT = positive_BNT + target_bias_BT[:, None, :]
        weights = _Weights(candidates, user_B, own_item_BL, held, wide)
        held_bias = None if held is None else held.bias.to(wide)
        vector_MK, bias_M = candidates.vector_MK.to(wide), candidates.bias_M.to(wide)
        lse_BN = _NegativeLSE.apply(scaled_BNK, vector_MK, bias_M, held_bias, weights)
        if more_BN is not None:
            lse_BN = torch.logaddexp(lse_BN, more_BN.to(wide))
        loss_BNT = F.softplus(lse_BN[:, :, None] - positive_BNT, threshold=LINEAR_FROM)
        is_pair_BNT = is_anchor_BN[:, :, None] & is_target_BT[:, None, :]
        loss_BNT = loss_BNT.masked_fill(~is_pair_BNT, 0.0)
        if weight_BT is None:
            return loss_BNT.sum() / is_pair_BNT.sum().clamp(min=1)
        weight_BNT = is_pair_BNT * weight_BT[:, None, :].to(wide)
        return (loss_BNT * weight_BNT).sum() / weight_BNT.sum().clamp(min=torch.finfo(wide).tiny)


def next_item_info_nce(
    anchor_PK: Tensor,
    target_PK: Tensor,
    item_P: Tensor,
    scale: Tensor | float,
    candidates: Candidates,
    bias_P: Tensor | None = None,
    held: Held | None = None,
    weight_P: Tensor | None = None,
) -> Tensor:
    """`all_action_info_nce` for P rows with one anchor and one target each: a softmax cross-entropy.

    Args:
        anchor_PK, target_PK: vectors of the positions, and of the items that follow them.
        item_P: ids of these following items, which are not negatives of their own row.
        scale, candidates: as in `all_action_info_nce`; the candidates are drawn and are nobody's targets.
        bias_P: bias of the following items, as `candidates.bias_M`.
        held: the items of each anchor's history with logits of their own; they replace candidates that are the same
            items. None: no repeat bias.
        weight_P: weight of each row in the mean; None: all rows weigh the same.
    """
    ones_P1 = torch.ones(len(item_P), 1, dtype=torch.bool, device=item_P.device)
    bias_P1 = None if bias_P is None else bias_P[:, None]
    own_item_PL, more_P1 = item_P[:, None], None
    if held is not None:
        is_target_PH = held.item_PH == own_item_PL
        repeat_P1 = held.bias * is_target_PH.any(1, keepdim=True)
        bias_P1 = repeat_P1 if bias_P1 is None else bias_P1 + repeat_P1
        logit_PH = (held.logit_PH + held.bias).masked_fill(is_target_PH | (held.item_PH == 0), LOWEST)
        more_P1 = logit_PH.logsumexp(1, keepdim=True)
        own_item_PL = torch.cat([own_item_PL, held.item_PH], dim=1)
    return all_action_info_nce(
        anchor_PK[:, None],
        target_PK[:, None],
        ones_P1,
        ones_P1,
        scale,
        candidates,
        item_P,
        bias_P1,
        own_item_PL,
        more_P1,
        weight_BT=None if weight_P is None else weight_P[:, None],
    )


class _Weights:
    """How often each candidate counts as a negative of each row: its occurrences, except those of the row's user."""

    def __init__(
        self,
        candidates: Candidates,
        user_B: Tensor,
        own_item_BL: Tensor | None,
        held: HeldCandidates | None,
        dtype: torch.dtype,
    ) -> None:
        num, user_R, device = len(candidates.vector_MK), candidates.user_R, candidates.vector_MK.device
        self.user_B, self.own_item_BL, self.held_item_BH = user_B, own_item_BL, None if held is None else held.item_BH
        self.users = self.items = None
        if user_R is None or candidates.place_R is None:
            self.count_M = torch.ones(num, dtype=dtype, device=device)
        else:
            self.count_M = torch.bincount(candidates.place_R, minlength=num).to(dtype)
            self.users = _Sorted(user_R, candidates.place_R)
        if own_item_BL is not None or held is not None:
            assert candidates.item_M is not None, "own and held items need the candidates' item_M"
            self.items = _Sorted(candidates.item_M, torch.arange(num, device=device))

    def log(self, rows: slice) -> Tensor:
        """Log of the weights, -inf for a candidate that is not a negative: [b, M]."""
        user_b = self.user_B[rows]
        weight_bM = self.count_M.expand(len(user_b), -1).clone()
        if self.users is not None:
            row_p, place_p = self.users.equal_to(user_b)
            weight_bM.index_put_((row_p, place_p), weight_bM.new_tensor(-1.0), accumulate=True)
        if self.own_item_BL is not None:
            weight_bM[self._equal(self.own_item_BL[rows])] = 0.0
        return weight_bM.log_()

    def held(self, rows: slice) -> tuple[Tensor, Tensor]:
        """The (row, candidate) pairs whose candidate is an item of the row's history."""
        assert self.held_item_BH is not None
        return self._equal(self.held_item_BH[rows])

    def _equal(self, item_bL: Tensor) -> tuple[Tensor, Tensor]:
        assert self.items is not None
        slot_p, place_p = self.items.equal_to(item_bL.flatten())
        return slot_p // item_bL.shape[1], place_p


class _Sorted:
    """An equality join with (key, value) pairs, which are sorted once."""

    def __init__(self, key_R: Tensor, value_R: Tensor) -> None:
        self.key_R, order_R = key_R.sort()
        self.value_R = value_R[order_R]

    def equal_to(self, key_Q: Tensor) -> tuple[Tensor, Tensor]:
        """All pairs (index into `key_Q`, value of an equal key)."""
        first_Q = torch.searchsorted(self.key_R, key_Q)
        num_Q = torch.searchsorted(self.key_R, key_Q, right=True) - first_Q
        asked_P = torch.repeat_interleave(num_Q)
        place_P = torch.arange(len(asked_P), device=key_Q.device) + (first_Q - num_Q.cumsum(0) + num_Q)[asked_P]
        return asked_P, self.value_R[place_P]


_Ctx: TypeAlias = Any  # torch's own type does not know the attributes that are saved in it


class _NegativeLSE(torch.autograd.Function):
    """Log-sum-exp of each anchor's weighted logits over the candidates, tile by tile. No logits are kept."""

    @staticmethod
    def forward(
        ctx: _Ctx,
        anchor_BNK: Tensor,
        candidate_MK: Tensor,
        bias_M: Tensor,
        held_bias: Tensor | None,
        weights: _Weights,
    ) -> Tensor:
        lse_BN = anchor_BNK.new_full(anchor_BNK.shape[:2], LOWEST)
        for rows, bias_bM, _ in _row_tiles(anchor_BNK, bias_M, held_bias, weights):
            for _, logit_bNm in _logit_tiles(anchor_BNK[rows], candidate_MK, bias_bM):
                top_bN = torch.maximum(lse_BN[rows], logit_bNm.amax(-1))
                total_bN = logit_bNm.sub_(top_bN[:, :, None]).exp_().sum(-1) + (lse_BN[rows] - top_bN).exp()
                lse_BN[rows] = total_bN.log() + top_bN
        ctx.save_for_backward(anchor_BNK, candidate_MK, bias_M, held_bias, lse_BN)
        ctx.weights = weights
        return lse_BN

    @staticmethod
    @once_differentiable
    def backward(ctx: _Ctx, grad_BN: Tensor) -> tuple[Tensor | None, ...]:
        anchor_BNK, candidate_MK, bias_M, held_bias, lse_BN = ctx.saved_tensors
        d_anchor_BNK, d_candidate_MK = torch.zeros_like(anchor_BNK), torch.zeros_like(candidate_MK)
        d_bias_M = torch.zeros_like(bias_M) if ctx.needs_input_grad[2] else None
        d_held = None if held_bias is None else torch.zeros_like(held_bias)
        with torch.autocast(anchor_BNK.device.type, enabled=False):
            for rows, bias_bM, held in _row_tiles(anchor_BNK, bias_M, held_bias, ctx.weights):
                d_anchor_aK, anchor_aK = d_anchor_BNK[rows].flatten(0, 1), anchor_BNK[rows].flatten(0, 1)
                lse_bN1, graded_aK = lse_BN[rows, :, None], anchor_aK * grad_BN[rows].reshape(-1, 1)
                for columns, logit_bNm in _logit_tiles(anchor_BNK[rows], candidate_MK, bias_bM):
                    share_bNm = logit_bNm.sub_(lse_bN1).exp_()
                    share_am = share_bNm.flatten(0, 1)
                    d_anchor_aK.addmm_(share_am, candidate_MK[columns])
                    d_candidate_MK[columns].addmm_(share_am.T, graded_aK)
                    if d_bias_M is not None:
                        d_bias_M[columns] += grad_BN[rows].flatten() @ share_am
                    if held is not None and d_held is not None:
                        row_p, place_p = _within(held, columns)
                        d_held += (share_bNm[row_p, :, place_p] * grad_BN[rows][row_p]).sum()
        return d_anchor_BNK.mul_(grad_BN[:, :, None]), d_candidate_MK, d_bias_M, d_held, None


def _row_tiles(
    anchor_BNK: Tensor, bias_M: Tensor, held_bias: Tensor | None, weights: _Weights
) -> Iterator[tuple[slice, Tensor, tuple[Tensor, Tensor] | None]]:
    """For each tile: its rows, the term added to each logit (bias + log weight + repeat bias), and the held pairs.

    The held pairs are the (row, candidate) pairs to which the repeat bias was added; None without a repeat bias.
    """
    most = TILES[anchor_BNK.device.type][0] // max(1, anchor_BNK.shape[1])
    step = max(1, min(most, MOST_WEIGHTS // max(1, len(bias_M))))
    for start in range(0, len(anchor_BNK), step):
        rows, held = slice(start, start + step), None
        bias_bM = weights.log(rows).add_(bias_M)
        if held_bias is not None:
            held = weights.held(rows)
            bias_bM.index_put_(held, held_bias, accumulate=True)
        yield rows, bias_bM, held


def _logit_tiles(anchor_bNK: Tensor, candidate_MK: Tensor, bias_bM: Tensor) -> Iterator[tuple[slice, Tensor]]:
    step = TILES[anchor_bNK.device.type][1]
    for start in range(0, len(candidate_MK), step):
        columns = slice(start, start + step)
        logit_am = anchor_bNK.flatten(0, 1) @ candidate_MK[columns].T
        yield columns, logit_am.unflatten(0, anchor_bNK.shape[:2]).add_(bias_bM[:, None, columns])


def _within(pairs: tuple[Tensor, Tensor], columns: slice) -> tuple[Tensor, Tensor]:
    """The (row, candidate) pairs whose candidate is in `columns`, with candidates counted from `columns.start`."""
    row_p, place_p = pairs
    is_here_p = (place_p >= columns.start) & (place_p < columns.stop)
    return row_p[is_here_p], place_p[is_here_p] - columns.start
