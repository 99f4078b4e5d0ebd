"""User and item towers over frozen content embeddings.

Shapes: B users, H history length, T target length, U distinct items of a batch, C content width,
D model width, K output width.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.content import ContentMatrix
from models.settings import TowersConfig
from models.transformer import CausalTransformer

MAX_SCALE = 100.0


class Towers(nn.Module):
    """Preference comprehension (adaptor, causal transformer, projection) as user and item tower.

    Every output is a unit vector; a logit is `scale` times the inner product. Histories and targets
    come as rows of a batch's content table (`ContentMatrix.unique`), oldest first, padded on the right.
    """

    def __init__(self, config: TowersConfig, content_dim: int) -> None:
        super().__init__()
        self.config, self.content_dim = config, content_dim
        self.adaptor = nn.Linear(content_dim, config.d_model)
        self.transformer = CausalTransformer(
            config.d_model, config.layers, config.heads, config.dropout, config.max_len
        )
        self.head = nn.Linear(config.d_model, config.out_dim)
        if config.item_tower == "mlp":
            self.item_mlp = nn.Sequential(
                nn.Linear(content_dim, config.d_model), nn.GELU(), nn.Linear(config.d_model, config.out_dim)
            )
        if config.content_residual or config.item_tower == "content":
            self.residual = nn.Linear(content_dim, config.out_dim, bias=False)
            nn.init.orthogonal_(self.residual.weight)
        if config.content_residual:
            for last in [self.head] + ([self.item_mlp[-1]] if config.item_tower == "mlp" else []):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)), requires_grad=config.learned_scale)

    @property
    def scale(self) -> Tensor:
        """1 / temperature, a scalar."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def users(self, content_UC: Tensor, hist_BH: Tensor) -> Tensor:
        """The user's vector after every history position: [B, H, K], unit length, no later event seen."""
        content_UC = _normalised(content_UC)
        out_BHK = self._transform(content_UC, hist_BH)
        if self.config.pooling == "mean":
            out_BHK = _causal_mean(out_BHK)
        if self.config.content_residual:
            out_BHK = out_BHK + _causal_mean(F.embedding(hist_BH, self.residual(content_UC)))
        return F.normalize(out_BHK, dim=-1)

    def items(self, content_UC: Tensor, tar_BT: Tensor) -> Tensor:
        """Vectors of the target items as the item tower trains on them: [B, T, K], unit length."""
        if self.config.item_tower != "shared_causal":
            return F.embedding(tar_BT, self.items_alone(content_UC))
        content_UC = _normalised(content_UC)
        out_BTK = self._transform(content_UC, tar_BT)
        if self.config.content_residual:
            out_BTK = out_BTK + F.embedding(tar_BT, self.residual(content_UC))
        return F.normalize(out_BTK, dim=-1)

    def items_alone(self, content_UC: Tensor) -> Tensor:
        """Vectors of items that go in alone, as at inference: [U, K], unit length."""
        content_UC = _normalised(content_UC)
        if self.config.item_tower == "content":
            return F.normalize(self.residual(content_UC), dim=-1)
        if self.config.item_tower == "mlp":
            out_UK = self.item_mlp(content_UC)
        else:
            rows_U1 = torch.arange(len(content_UC), device=content_UC.device)[:, None]
            out_UK = self._transform(content_UC, rows_U1)[:, 0]
        if self.config.content_residual:
            out_UK = out_UK + self.residual(content_UC)
        return F.normalize(out_UK, dim=-1)

    @torch.inference_mode()
    def embed_users(
        self, hist_items_BH: np.ndarray, hist_len_B: np.ndarray, content: ContentMatrix, batch_size: int = 512
    ) -> np.ndarray:
        """User embeddings for batch scoring.

        Args:
            hist_items_BH: item_idx, oldest first, padded on the right.
            hist_len_B: number of valid items of each row.
            content: the content matrix.
            batch_size: rows at a time.

        Returns:
            float32 [B, K]: unit vectors times sqrt(scale), so that the plain inner product of user and
            item embeddings is the logit. Zeros for an empty history.

        Raises:
            ValueError: a history is longer than its row or than `max_len`.
        """
        self.eval()
        hist_items_BH, hist_len_B = np.asarray(hist_items_BH), np.asarray(hist_len_B, dtype=np.int64)
        out_BK = np.zeros((len(hist_len_B), self.config.out_dim), np.float32)
        longest = int(hist_len_B.max(initial=0))
        if longest > min(hist_items_BH.shape[1], self.config.max_len):
            width = hist_items_BH.shape[1]
            raise ValueError(f"history of {longest} items: rows hold {width}, max_len {self.config.max_len}")
        order = np.argsort(hist_len_B, kind="stable")
        order = order[hist_len_B[order] > 0]
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            hist, length = hist_items_BH[rows, : hist_len_B[rows].max()], torch.from_numpy(hist_len_B[rows])
            content_UC, hist_BH = content.unique(hist)
            last_BK = self.users(content_UC, hist_BH)[torch.arange(len(rows)), length - 1]
            out_BK[rows] = (last_BK * self.scale.sqrt()).float().numpy()
        return out_BK

    @torch.inference_mode()
    def embed_items(self, item_idx_N: np.ndarray, content: ContentMatrix, batch_size: int = 4096) -> np.ndarray:
        """Item embeddings for batch scoring, each item alone: float32 [N, K], see `embed_users`."""
        self.eval()
        item_idx_N = np.asarray(item_idx_N)
        out_NK = np.zeros((len(item_idx_N), self.config.out_dim), np.float32)
        for start in range(0, len(item_idx_N), batch_size):
            stop = start + batch_size
            alone_NK = self.items_alone(content.gather(item_idx_N[start:stop]))
            out_NK[start:stop] = (alone_NK * self.scale.sqrt()).float().numpy()
        return out_NK

    def _transform(self, content_UC: Tensor, rows_BL: Tensor) -> Tensor:
        if rows_BL.shape[1] > self.config.max_len:
            raise ValueError(f"sequences of {rows_BL.shape[1]} items, but max_len is {self.config.max_len}")
        adapted_UD = self.adaptor(content_UC)
        return self.head(self.transformer(F.embedding(rows_BL, adapted_UD)))


def _normalised(content_UC: Tensor) -> Tensor:
    # Encoders differ by orders of magnitude in norm; unit root mean square suits the adaptor's initial scale,
    # and lets the content residual lead the first steps (of unit vectors, it learned more slowly).
    return F.normalize(content_UC, dim=-1) * math.sqrt(content_UC.shape[-1])


def _causal_mean(x_BLK: Tensor) -> Tensor:
    count_L1 = torch.arange(1, x_BLK.shape[1] + 1, device=x_BLK.device, dtype=x_BLK.dtype)[:, None]
    return x_BLK.cumsum(1) / count_L1
