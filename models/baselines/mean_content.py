"""Mean content: ranks items by the cosine of their text vector with the mean of the user's history. No training.

Shapes: B users, H history length, I candidate items, C content width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.data.content import ContentMatrix


@torch.inference_mode()
def user_means(hist_items_BH: Tensor, content: ContentMatrix, batch_size: int = 512) -> Tensor:
    """Mean of the history's unit content vectors, as a unit vector: [B, C]; zeros without any content.

    Args:
        hist_items_BH: item_idx, 0 is padding; an item that was bought twice counts twice.
        content: the content matrix, whose row 0 is zeros.
        batch_size: users at a time.
    """
    means = []
    for hist_bH in hist_items_BH.split(batch_size):
        unique_UC, rows_bH = content.unique(hist_bH)
        unit_UC = F.normalize(unique_UC, dim=-1)
        means.append(F.normalize(F.embedding_bag(rows_bH, unit_UC, mode="sum"), dim=-1))
    return torch.cat(means)


@torch.inference_mode()
def item_vectors(item_idx_I: Tensor, content: ContentMatrix) -> Tensor:
    """Unit content vectors of the candidates: [I, C]."""
    return F.normalize(content.gather(item_idx_I), dim=-1)
