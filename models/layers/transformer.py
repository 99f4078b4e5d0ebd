"""A causal pre-norm transformer over packed sequences, and its plain alternative.

Shapes: N tokens of all sequences, D model width; b sequences of a group, padded to length l; h heads, K head width
(D = h * K).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.packing import Packing


class CausalAttention(nn.Module):
    """Multi-head self-attention in which position i sees positions 0 .. i of its own sequence."""

    def __init__(self, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x_ND: Tensor, packing: Packing) -> Tensor:
        return self.out(packing.ungrouped([self._attend(group) for group in packing.groups(self.qkv(x_ND))]))

    def _attend(self, qkv_bl: Tensor) -> Tensor:
        q_bhlK, k_bhlK, v_bhlK = qkv_bl.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        y_bhlK = F.scaled_dot_product_attention(q_bhlK, k_bhlK, v_bhlK, dropout_p=dropout, is_causal=True)
        return y_bhlK.transpose(1, 2).flatten(2)


class Block(nn.Module):
    """Attention and a four times wider feed-forward layer, both residual and with a norm before."""

    def __init__(self, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = CausalAttention(d_model, heads, dropout)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(d_model),
            nn.Linear(d_model, 4 * d_model),
            nn.GELU(),
            nn.Linear(4 * d_model, d_model),
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x_ND: Tensor, packing: Packing) -> Tensor:
        x_ND = x_ND + self.drop(self.attention(self.attention_norm(x_ND), packing))
        return x_ND + self.drop(self.feed_forward(x_ND))


class CausalTransformer(nn.Module):
    """Learned positions, `layers` blocks, a final norm."""

    def __init__(self, d_model: int, layers: int, heads: int, dropout: float, max_len: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_len, d_model)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(d_model, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)
        self.apply(_init_weights)

    def forward(self, x_ND: Tensor, packing: Packing) -> Tensor:
        x_ND = self.drop(x_ND + self.positions(packing.position_N))
        for block in self.blocks:
            x_ND = block(x_ND, packing)
        return self.norm(x_ND)


class CausalPooling(nn.Module):
    """The mean of a sequence's tokens up to each position, and a two-layer perceptron with a final norm."""

    def __init__(self, d_model: int, dropout: float) -> None:
        super().__init__()
        self.perceptron = nn.Sequential(
            nn.LayerNorm(d_model),
            nn.Linear(d_model, 4 * d_model),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * d_model, d_model),
            nn.LayerNorm(d_model),
        )
        self.apply(_init_weights)

    def forward(self, x_ND: Tensor, packing: Packing) -> Tensor:
        return self.perceptron(packing.ungrouped([causal_mean(group) for group in packing.groups(x_ND)]))


def causal_mean(x_BLD: Tensor) -> Tensor:
    """The mean over each position and all before it: [B, L, D]."""
    count_L1 = torch.arange(1, x_BLD.shape[1] + 1, device=x_BLD.device, dtype=x_BLD.dtype)[:, None]
    return x_BLD.cumsum(1) / count_L1


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
