"""Alternating least squares: matrix factorisation of who has what, without order and without content.

Shapes: U users, I items (padding, item 0, included), R rows that are solved, J others, K factors, B histories,
H history length, b rows of a block, w the longest of them, N pairs.
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from models.baselines.history import incidence
from models.contract.settings import ALSConfig
from models.data.content import ContentMatrix

BLOCK_NUMBERS = 1 << 21  # gathered factors, padding included, and numbers of equations, held at once


class ALS(nn.Module):
    """Hu, Koren & Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008.

    It minimises the sum over u, i of c_ui (p_ui - x_u . y_i)^2 + reg (sum of n_u |x_u|^2 + sum of n_i |y_i|^2), with
    p_ui = 1 and c_ui = 1 + alpha where u has i, else 0 and 1. Given the one side, each row of the other is a small
    system of equations, so the sides take turns. n_u, how many items u has, weighs the penalty as in Zhou et al. 2008
    and Spark's ALS; the paper has no such weight.

    A user's factors are solved from his or her history when they are asked for: they are as fresh as that, and users
    that no training row has get some, too. Only items have weights.

    Args:
        config: sizes.
        num_items: rows of the content matrix, padding included. Items that no training row holds have zeros.
    """

    repeat_bias = None

    def __init__(self, config: ALSConfig, num_items: int) -> None:
        super().__init__()
        self.config, self.num_items = config, num_items
        self.item_table = nn.Parameter(torch.zeros(num_items, config.d_model), requires_grad=False)

    @torch.inference_mode()
    def begin(self, has_IU: sparse.csr_matrix, seed: int) -> None:
        """Random factors for the items that somebody has."""
        generator = torch.Generator().manual_seed(seed)
        factors_IK = torch.randn(self.item_table.shape, generator=generator) / self.config.d_model**0.5
        is_known_I = torch.from_numpy(np.diff(has_IU.indptr) > 0)
        self.item_table.copy_(factors_IK * is_known_I[:, None])

    @torch.inference_mode()
    def iterate(self, has_UI: sparse.csr_matrix, has_IU: sparse.csr_matrix) -> None:
        """Solves all users by the items, then all items by the users."""
        user_UK = solved(self.item_table, has_UI, self.config)
        self.item_table.copy_(solved(user_UK, has_IU, self.config))

    @torch.inference_mode()
    def embed_users(
        self,
        hist_items_BH: np.ndarray,
        hist_len_B: np.ndarray,
        content: ContentMatrix | None = None,
        batch_size: int = 512,
        hist_ts_BH: np.ndarray | None = None,
        hist_types_BH: np.ndarray | None = None,
    ) -> np.ndarray:
        """float32 [B, K], zeros for histories without a known item; order and repeats say nothing. See `Retriever`."""
        is_there_BH = np.arange(hist_items_BH.shape[1]) < np.asarray(hist_len_B)[:, None]
        item_BH = self._known(hist_items_BH) * is_there_BH
        is_known_I = (self.item_table != 0).any(1).cpu().numpy()
        has_BI = incidence(np.arange(len(item_BH)), item_BH * is_known_I[item_BH], item_BH[:, :0], self.num_items)
        return solved(self.item_table, has_BI, self.config).float().cpu().numpy()

    def embed_items(
        self, item_idx_N: np.ndarray, content: ContentMatrix | None = None, batch_size: int = 4096
    ) -> np.ndarray:
        """float32 [N, K]; zeros for items that came after the training, or that it did not hold. See `Retriever`."""
        return self.item_table.detach().float().cpu().numpy()[self._known(item_idx_N)]

    def _known(self, item_idx: np.ndarray) -> np.ndarray:
        """int64; padding in place of items that came after the training."""
        item = np.asarray(item_idx).astype(np.int64)
        return np.where(item < self.num_items, item, 0)


def solved(other_JK: Tensor, has_RJ: sparse.csr_matrix, config: ALSConfig) -> Tensor:
    """Half an iteration: each row's factors by those of what it has: of `other_JK`'s type, [R, K]; zeros for nothing.

    x_r = (Y'Y + alpha Y_r' Y_r + reg n_r 1)^-1 (1 + alpha) Y_r' 1, with Y the others' factors and Y_r those that row r
    has; in float64.

    Args:
        other_JK: factors of the other side.
        has_RJ: which row has which, in sparse rows without duplicates.
        config: alpha and regularization.
    """
    other_JK64 = other_JK.double()
    padded_JK = torch.cat([other_JK64, other_JK64.new_zeros(1, config.d_model)])  # the last one stands for nothing
    all_KK = other_JK64.T @ other_JK64
    solved_RK = other_JK.new_zeros(len(has_RJ.indptr) - 1, config.d_model)
    for row_b, place_bw in _blocks(has_RJ, len(other_JK), config.d_model):
        own_bwK = padded_JK[place_bw.to(other_JK.device)]
        count_b = torch.from_numpy(np.diff(has_RJ.indptr)[row_b]).to(other_JK.device)
        left_bKK = torch.baddbmm(all_KK, own_bwK.mT, own_bwK, alpha=config.alpha)
        left_bKK.diagonal(dim1=1, dim2=2).add_(config.regularization * count_b[:, None])
        right_bK1 = (1 + config.alpha) * own_bwK.sum(1)[:, :, None]
        found_bK1 = torch.cholesky_solve(right_bK1, torch.linalg.cholesky(left_bKK))
        solved_RK[torch.from_numpy(row_b).to(other_JK.device)] = found_bK1[:, :, 0].to(other_JK)
    return solved_RK


def _blocks(has_RJ: sparse.csr_matrix, nothing: int, width: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Rows that have something, those of about one length together: their numbers [b], and what they have [b, w]."""
    count_R = np.diff(has_RJ.indptr)
    order = np.argsort(count_R, kind="stable")
    order = order[count_R[order] > 0]
    start = 0
    while start < len(order):
        # A block ends where it would hold too many numbers; lengths grow, so its last row is its longest.
        size_n = np.maximum(count_R[order[start:]], width) * np.arange(1, len(order) - start + 1) * width
        row_b = order[start : start + max(1, int(np.searchsorted(size_n, BLOCK_NUMBERS, side="right")))]
        count_b = count_R[row_b]
        is_own_bw = np.arange(count_b[-1]) < count_b[:, None]
        place_bw = np.full(is_own_bw.shape, nothing, np.int64)
        place_bw[is_own_bw] = has_RJ[row_b].indices
        yield row_b, torch.from_numpy(place_bw)
        start += len(row_b)
