"""SASRec: self-attentive sequential recommendation by item ids.

Shapes: B sequences, L input length, N packed items, D model width, b, l a group, h heads, K head width; M items.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.baselines.sequential import SequentialModel
from models.contract.settings import SequentialConfig
from models.layers.packing import Packing


class SASRec(SequentialModel):
    """Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018 (arXiv 1808.09781).

    E_i = M[s_i] + P[i]; each block is S = E + Dropout(SA(LayerNorm(E))) and F = S + Dropout(FFN(LayerNorm(S))), where
    SA(X) = softmax(X W^Q (X W^K)^T / sqrt(K)) X W^V, causal, without biases and without an output projection, and
    FFN(x) = W2 ReLU(W1 x + b1) + b2, of the model's width; the score of item i after position t is F_t . M_i, with the
    same table M as at the input. As in the paper, the last item is at the last position, however short the sequence.

    Differences from the paper: a LayerNorm after the last block (the authors' code has it, their equations do not);
    dropout after the ReLU and on the attention weights (the authors' code has both); with `heads` above 1 the widths
    are split and the results concatenated; weights start at N(0, 0.02) instead of Xavier's; with `bce`, negatives
    exclude only the row's own items, because the row does not hold the user's other items; and `cross_entropy` and
    `sampled` are losses that the paper does not have.
    """

    def __init__(self, config: SequentialConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.positions = nn.Embedding(config.max_len, config.d_model)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.logit_unit = math.sqrt(config.d_model)  # the length of a normed state
        self.apply(_init_weights)

    def states(self, item_BL: Tensor, ts_BL: Tensor | None, packing: Packing) -> Tensor:
        """The state after every item: [N, D]; times are not used."""
        length_B = torch.bincount(packing.row_N, minlength=len(item_BL))
        place_N = self.config.max_len - length_B[packing.row_N] + packing.position_N
        x_ND = self.drop(self.item_table(packing.packed(item_BL)) + self.positions(place_N))
        for block in self.blocks:
            x_ND = block(x_ND, packing)
        return self.norm(x_ND)

    def items(self, item_M: Tensor) -> Tensor:
        """The items' input vectors: [M, D]."""
        return self.item_table(item_M)


class _Block(nn.Module):
    def __init__(self, config: SequentialConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(width, width)
        )
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_ND: Tensor, packing: Packing) -> Tensor:
        qkv = packing.groups(self.qkv(self.attention_norm(x_ND)))
        x_ND = x_ND + self.drop(packing.ungrouped([self._attend(group) for group in qkv]))
        return x_ND + self.drop(self.feed_forward(x_ND))

    def _attend(self, qkv_bl: Tensor) -> Tensor:
        q_bhlK, k_bhlK, v_bhlK = qkv_bl.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        y_bhlK = F.scaled_dot_product_attention(q_bhlK, k_bhlK, v_bhlK, dropout_p=dropout, is_causal=True)
        return y_bhlK.transpose(1, 2).flatten(2)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
