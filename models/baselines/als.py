"""Alternating least squares: factorises the matrix of which user has which item. Uses neither order nor content.

Shapes: U users, I items (including padding, item 0), R rows to solve, J rows of the other side, K factors,
B histories, H history length, b rows of a block, w the longest of them, N item numbers.
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from models.baselines.history import incidence
from models.contract.settings import ALSConfig
from models.data.content import ContentMatrix

BLOCK_NUMBERS = 1 << 21  # most numbers per block: gathered factors with their padding, or matrices of the equations


class ALS(nn.Module):
    """Hu, Koren & Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008.

    It minimises the sum over u, i of c_ui (p_ui - x_u . y_i)^2 + reg (sum of n_u |x_u|^2 + sum of n_i |y_i|^2), with
    p_ui = 1 and c_ui = 1 + alpha where u has i, else 0 and 1. With one side fixed, each row of the other is the
    solution of a small linear system, so the sides alternate. The penalty is weighted by n_u, the number of items that
    u has (n_i likewise), as in Zhou et al. 2008 and Spark's ALS; the paper has no such weight.

    Only items have stored weights. A user's factors are solved from the history when they are needed, so they are as
    fresh as the history, and users without a training row get factors, too.

    Args:
        config: sizes.
        num_items: rows of the content matrix, padding included. Items that are in no training row have zeros.
    """

    repeat_bias = None

    def __init__(self, config: ALSConfig, num_items: int) -> None:
        super().__init__()
        self.config, self.num_items = config, num_items
        self.item_table = nn.Parameter(torch.zeros(num_items, config.d_model), requires_grad=False)

    @torch.inference_mode()
    def begin(self, has_IU: sparse.csr_matrix, seed: int) -> None:
        """Sets random factors for the items that at least one user has."""
        generator = torch.Generator().manual_seed(seed)
        factors_IK = torch.randn(self.item_table.shape, generator=generator) / self.config.d_model**0.5
        is_known_I = torch.from_numpy(np.diff(has_IU.indptr) > 0)
        self.item_table.copy_(factors_IK * is_known_I[:, None])

    @torch.inference_mode()
    def iterate(self, has_UI: sparse.csr_matrix, has_IU: sparse.csr_matrix) -> None:
        """Solves all users' factors from the items', then all items' factors from the users'."""
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
        """float32 [B, K], zeros for histories without a known item. Order and repeats do not count. See `Retriever`."""
        is_there_BH = np.arange(hist_items_BH.shape[1]) < np.asarray(hist_len_B)[:, None]
        item_BH = self._known(hist_items_BH) * is_there_BH
        is_known_I = (self.item_table != 0).any(1).cpu().numpy()
        has_BI = incidence(np.arange(len(item_BH)), item_BH * is_known_I[item_BH], item_BH[:, :0], self.num_items)
        return solved(self.item_table, has_BI, self.config).float().cpu().numpy()

    def embed_items(
        self, item_idx_N: np.ndarray, content: ContentMatrix | None = None, batch_size: int = 4096
    ) -> np.ndarray:
        """float32 [N, K]; zeros for items that are newer than the training or not in it. See `Retriever`."""
        return self.item_table.detach().float().cpu().numpy()[self._known(item_idx_N)]

    def _known(self, item_idx: np.ndarray) -> np.ndarray:
        """The items as int64; items that are newer than the training become padding (0)."""
        item = np.asarray(item_idx).astype(np.int64)
        return np.where(item < self.num_items, item, 0)


def solved(other_JK: Tensor, has_RJ: sparse.csr_matrix, config: ALSConfig) -> Tensor:
    """Half an iteration: solves the factors of one side, given those of the other side.

    x_r = (Y'Y + alpha Y_r' Y_r + reg n_r 1)^-1 (1 + alpha) Y_r' 1, where Y are the factors of the other side and Y_r
    its rows that row r has. Computes in float64.

    Args:
        other_JK: factors of the other side.
        has_RJ: which row has which row of the other side; sparse, without duplicates.
        config: alpha and regularization.

    Returns:
        [R, K] of `other_JK`'s dtype; zeros for a row that has nothing.
    """
    other_JK64 = other_JK.double()
    padded_JK = torch.cat([other_JK64, other_JK64.new_zeros(1, config.d_model)])  # the last row is padding
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
    """Blocks of nonempty rows of similar length: the rows' numbers [b], and what they have [b, w].

    `nothing` is the number that pads shorter rows.
    """
    count_R = np.diff(has_RJ.indptr)
    order = np.argsort(count_R, kind="stable")
    order = order[count_R[order] > 0]
    start = 0
    while start < len(order):
        # A block ends before it would hold too many numbers. Lengths ascend, so its last row is its longest.
        size_n = np.maximum(count_R[order[start:]], width) * np.arange(1, len(order) - start + 1) * width
        row_b = order[start : start + max(1, int(np.searchsorted(size_n, BLOCK_NUMBERS, side="right")))]
        count_b = count_R[row_b]
        is_own_bw = np.arange(count_b[-1]) < count_b[:, None]
        place_bw = np.full(is_own_bw.shape, nothing, np.int64)
        place_bw[is_own_bw] = has_RJ[row_b].indices
        yield row_b, torch.from_numpy(place_bw)
        start += len(row_b)
