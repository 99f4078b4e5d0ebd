"""A causal pre-norm transformer.

Shapes: B batch, L length, D model width, N heads, K head width (D = N * K).
"""

import torch.nn.functional as F
from torch import Tensor, nn


class CausalAttention(nn.Module):
    """Multi-head self-attention in which position i sees positions 0 .. i."""

    def __init__(self, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x_BLD: Tensor) -> Tensor:
        qkv_BLTNK = self.qkv(x_BLD).unflatten(-1, (3, self.heads, -1))
        q_BNLK, k_BNLK, v_BNLK = qkv_BLTNK.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        y_BNLK = F.scaled_dot_product_attention(q_BNLK, k_BNLK, v_BNLK, dropout_p=dropout, is_causal=True)
        return self.out(y_BNLK.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a four times wider feed-forward layer, both residual, the norm before each."""

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

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.drop(self.attention(self.attention_norm(x_BLD)))
        return x_BLD + self.drop(self.feed_forward(x_BLD))


class CausalTransformer(nn.Module):
    """Learned positions, `layers` blocks, a final norm.

    Right padding needs no mask: no position sees a later one, so what stands behind a sequence's end
    cannot reach it. Outputs at padded positions mean nothing.
    """

    def __init__(self, d_model: int, layers: int, heads: int, dropout: float, max_len: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_len, d_model)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(d_model, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)
        self.apply(_init_weights)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = self.drop(x_BLD + self.positions.weight[: x_BLD.shape[1]])
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return self.norm(x_BLD)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
