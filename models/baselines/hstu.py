"""HSTU: hierarchical sequential transduction units by item ids and times.

Shapes: B sequences, L input length, N packed items, D model width, b, l, m a group (l queries, m keys), h heads,
K head width (D = h * K); M items.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.baselines.sequential import SequentialModel
from models.contract.settings import SequentialConfig
from models.layers.packing import Packing

EPSILON = 1e-6
BUCKET_WIDTH = 0.301  # of ln(seconds), as in the public experiments: one bucket per factor of 1.35


class HSTU(SequentialModel):
    """Zhai et al., "Actions Speak Louder than Words", ICML 2024 (arXiv 2402.17152).

    X_i = sqrt(D) M[s_i] + P[i]; each layer, with parameter-free norms, is
    U, V, Q, K = split(SiLU(f1(Norm(X)))), A = SiLU(Q K^T + rab) / n, Y = X + f2(Dropout(Norm(A V) * U)), where rab is a
    learned number for each relative position i - j plus one for each bucket floor(ln(max(1, |dt|)) / 0.301) of the time
    between the items (each layer has its own, shared by the heads), A is causal, and n = `max_len` as in the public
    experiments (so that padding changes nothing). User states and item vectors have unit length; a score is their
    inner product / temperature (0.05), trained by sampled softmax.

    Differences from the paper and its public experiments (github.com/meta-recsys/generative-recommenders, `research`):
    the tokens are items only, without actions, ratings or other features; rab's time is that from key to query (the
    public code takes the time from the key to the item after the query, which is unknown in batch scoring); negatives
    are drawn from the training snapshot's items; no stochastic length, no fused kernel; Q, K, V, U have D / heads each;
    normal initialisations are not truncated.
    """

    needs_time = True

    def __init__(self, config: SequentialConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.positions = nn.Embedding(config.max_len, config.d_model)
        self.drop = nn.Dropout(config.dropout)
        self.logit_unit = 1 / config.temperature
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        nn.init.normal_(self.item_table.weight[1:], std=0.02)
        nn.init.normal_(self.positions.weight, std=math.sqrt(1 / config.d_model))

    def states(self, item_BL: Tensor, ts_BL: Tensor | None, packing: Packing) -> Tensor:
        """The state after every item, of length 1 / temperature: [N, D]."""
        assert ts_BL is not None, "needs_time"
        x_ND = self.item_table(packing.packed(item_BL)) * math.sqrt(self.config.d_model)
        x_ND = self.drop(x_ND + self.positions(packing.position_N))
        buckets = [self._buckets(group[:, :, 0]) for group in packing.groups(packing.packed(ts_BL)[:, None])]
        for layer in self.layers:
            x_ND = layer(x_ND, packing, buckets)
        return F.normalize(x_ND, dim=-1, eps=EPSILON) / self.config.temperature

    def items(self, item_M: Tensor) -> Tensor:
        """Unit vectors: [M, D]."""
        return F.normalize(self.item_table(item_M), dim=-1, eps=EPSILON)

    def _buckets(self, ts_bl: Tensor) -> Tensor:
        seconds_blm = (ts_bl[:, :, None] - ts_bl[:, None, :]).abs().clamp(min=1)
        return (seconds_blm.double().log() / BUCKET_WIDTH).long().clamp(max=self.config.time_buckets)


class _Layer(nn.Module):
    def __init__(self, config: SequentialConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads, self.max_len = config.heads, config.max_len
        self.uvqk = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(config.dropout)
        self.position_bias = nn.Parameter(torch.empty(config.max_len).normal_(std=0.02))  # by i - j
        self.time_bias = nn.Parameter(torch.empty(config.time_buckets + 1).normal_(std=0.02))
        nn.init.normal_(self.uvqk.weight, std=0.02)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(self, x_ND: Tensor, packing: Packing, buckets: list[Tensor]) -> Tensor:
        width = x_ND.shape[1]
        uvqk_N = F.silu(self.uvqk(F.layer_norm(x_ND, (width,), eps=EPSILON)))
        u_ND, vqk_N = uvqk_N.split([width, 3 * width], dim=1)
        groups = zip(packing.groups(vqk_N), buckets, strict=True)
        attended_ND = packing.ungrouped([self._attend(*group) for group in groups])
        gated_ND = F.layer_norm(attended_ND, (width,), eps=EPSILON) * u_ND
        return x_ND + self.out(self.drop(gated_ND))

    def _attend(self, vqk_bl: Tensor, bucket_blm: Tensor) -> Tensor:
        v_bhlK, q_bhlK, k_bhlK = vqk_bl.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        place_l = torch.arange(vqk_bl.shape[1], device=vqk_bl.device)
        distance_lm = place_l[:, None] - place_l
        bias_blm = self.position_bias[distance_lm.clamp(min=0)] + self.time_bias[bucket_blm]
        weight_bhlm = F.silu(q_bhlK @ k_bhlK.transpose(2, 3) + bias_blm[:, None]) / self.max_len
        y_bhlK = weight_bhlm.masked_fill(distance_lm < 0, 0.0) @ v_bhlK
        return y_bhlK.transpose(1, 2).flatten(2)
