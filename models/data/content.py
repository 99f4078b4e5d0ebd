"""The content embeddings of all items as tensors: row = item_idx, row 0 = padding (zeros).

Shapes: C content width, U distinct items.
"""

import numpy as np
import torch
from torch import Tensor

from models.contract.content_rows import ContentRows


class ContentMatrix(ContentRows):
    """`ContentRows` that gives tensors."""

    def gather(self, idx: Tensor | np.ndarray) -> Tensor:
        """Vectors of items, float32 [*S, C]; as `vectors`."""
        rows_UC, inverse = self.unique(idx)
        return rows_UC[inverse]

    def unique(self, *idx: Tensor | np.ndarray) -> tuple[Tensor, ...]:
        """Vectors of the distinct items of several index arrays, and these rewritten; as `unique_vectors`."""
        return tuple(torch.from_numpy(part) for part in self.unique_vectors(*(np.asarray(one) for one in idx)))
