"""Conversion model over user and item embeddings; its last hidden layer is the pair's `mid_emb`.

Shapes: B pairs, K width of an embedding, E width of mid_emb, L labels: the conversion, then the other ones.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.contract.failures import BadInput
from models.contract.settings import CVRConfig


class CVRModel(nn.Module):
    """concat(user_emb, item_emb) -> MLP -> middle layer -> a logit per label.

    `mid_emb` is the middle layer, or what a linear map makes of it: its vectors in an earlier model's space. All labels
    share the layers up to it (hard parameter sharing: Caruana 1997); each has a linear output of its own.

    Args:
        config: sizes and switches.
        user_dim, item_dim: widths of the embeddings.
        mapped_dim: width that the middle layer is mapped to; 0: it is not mapped.
        other_labels: names of the labels beside the conversion, as cart.
    """

    def __init__(
        self, config: CVRConfig, user_dim: int, item_dim: int, mapped_dim: int = 0, other_labels: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.other_labels = tuple(other_labels)
        self.config, self.user_dim, self.item_dim, self.mapped_dim = config, user_dim, item_dim, mapped_dim
        width = user_dim + item_dim
        if config.fusion == "concat+product":
            if user_dim != item_dim:
                raise BadInput(f"fusion concat+product needs equal widths, not {user_dim} and {item_dim}")
            width += user_dim
        layers: list[nn.Module] = []
        for hidden in config.hidden:
            norm = [nn.BatchNorm1d(hidden)] if config.batch_norm else []
            layers += [nn.Linear(width, hidden), *norm, nn.GELU(), nn.Dropout(config.dropout)]
            width = hidden
        self.body = nn.Sequential(*layers, nn.Linear(width, config.mid_dim), nn.GELU())
        self.output = nn.Linear(config.mid_dim, 1 + len(self.other_labels))
        self.mid_map = nn.Linear(config.mid_dim, mapped_dim) if mapped_dim else nn.Identity()

    @property
    def mid_dim(self) -> int:
        """Width of mid_emb."""
        return self.mapped_dim or self.config.mid_dim

    def forward(self, user_BK: Tensor, item_BK: Tensor) -> tuple[Tensor, Tensor]:
        """mid_emb [B, E] and the logits [B, L]."""
        parts = [user_BK, item_BK]
        if self.config.fusion == "concat+product":
            parts.append(user_BK * item_BK)
        mid_BE = self.body(torch.cat(parts, dim=-1))
        return self.mid_map(mid_BE), self.output(mid_BE)

    def score(
        self, user_emb_BK: np.ndarray, item_emb_BK: np.ndarray, batch_size: int = 65536
    ) -> tuple[np.ndarray, np.ndarray]:
        """mid_emb [B, E] and the conversion probability [B] of pairs; the rest as of `score_labels`."""
        mid_BE, probability_BL = self.score_labels(user_emb_BK, item_emb_BK, batch_size)
        return mid_BE, probability_BL[:, 0]

    @torch.inference_mode()
    def score_labels(
        self, user_emb_BK: np.ndarray, item_emb_BK: np.ndarray, batch_size: int = 65536
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score pairs.

        Args:
            user_emb_BK, item_emb_BK: the embeddings of each pair.
            batch_size: rows at a time.

        Returns:
            mid_emb, float32 [B, E], and the probability of each label, float32 [B, L], that of the conversion first.

        Raises:
            BadInput: the two have different numbers of rows, or other widths than the model.
        """
        self.eval()
        user_BK, item_BK = (np.asarray(x, dtype=np.float32) for x in (user_emb_BK, item_emb_BK))
        want = ((len(user_BK), self.user_dim), (len(user_BK), self.item_dim))
        if (user_BK.shape, item_BK.shape) != want:
            raise BadInput(f"embeddings of shapes {user_BK.shape}, {item_BK.shape}; wanted {want[0]}, {want[1]}")
        mid_BE = np.empty((len(user_BK), self.mid_dim), np.float32)
        probability_BL = np.empty((len(user_BK), 1 + len(self.other_labels)), np.float32)
        device = self.output.weight.device
        for start in range(0, len(user_BK), batch_size):
            rows = slice(start, start + batch_size)
            mid, logit = self(*(torch.tensor(x[rows], device=device) for x in (user_BK, item_BK)))
            mid_BE[rows], probability_BL[rows] = mid.cpu().numpy(), logit.sigmoid().cpu().numpy()
        return mid_BE, probability_BL
