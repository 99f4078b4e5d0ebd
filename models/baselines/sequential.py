"""What the sequential baselines share: a learned vector per item id for user and item side, and batch scoring.

Shapes: B users, H history length, L input length, N packed items of all inputs, D model width; any batch M of items.
"""

import numpy as np
import torch
from torch import Tensor, nn

from models.contract.failures import BadInput
from models.contract.settings import SequentialConfig
from models.data.content import ContentMatrix
from models.layers.packing import Packing, last_places
from models.towers.repeats import REPEAT_SPEED


class SequentialModel(nn.Module):
    """Base class with an item table. A subclass computes a state at each position of a sequence of items.

    The score of an item after a position is the plain inner product of `states` and `items`. An item that was in no
    training row keeps its random initial vector.

    Args:
        config: sizes.
        num_items: rows of the content matrix, padding (item 0) included.

    Attributes:
        needs_time: whether `states` looks at the events' times.
        logit_unit: about the largest score; the unit in which `repeat_bias` is learned (see REPEAT_SPEED).
    """

    needs_time = False
    logit_unit = 1.0

    def __init__(self, config: SequentialConfig, num_items: int) -> None:
        super().__init__()
        self.config, self.num_items = config, num_items
        self.item_table = nn.Embedding(num_items, config.d_model, padding_idx=0)
        self.repeat_weight = nn.Parameter(torch.zeros(())) if config.repeat_bias else None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.item_table.weight.device

    @property
    def repeat_bias(self) -> Tensor | None:
        """The scalar added to the scores of items that the history holds; None if none is learned."""
        return None if self.repeat_weight is None else REPEAT_SPEED * self.logit_unit * self.repeat_weight

    def states(self, item_BL: Tensor, ts_BL: Tensor | None, packing: Packing) -> Tensor:
        """The state after every item, computed from it and earlier items only: [N, D] in the packing's order.

        Args:
            item_BL: item_idx, oldest first, padded on the right, at most `max_len`.
            ts_BL: their times in seconds, int64, if `needs_time`.
            packing: made from the sequences' lengths.
        """
        raise NotImplementedError

    def items(self, item_M: Tensor) -> Tensor:
        """Vectors of items as candidates: [M, D]."""
        raise NotImplementedError

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
        """User embeddings for batch scoring: float32 [B, D], zeros for an empty history.

        Args:
            hist_items_BH: item_idx, oldest first, padded on the right; the last `max_len` count.
            hist_len_B: number of valid items of each row.
            content: not used; all retrievers share this interface.
            batch_size: rows at a time.
            hist_ts_BH: the events' times in seconds, if `needs_time`.
            hist_types_BH: not used; these models do not read event types.

        Raises:
            BadInput: the times are missing, or a history is longer than its row.
        """
        self.eval()
        hist_items_BH, hist_len_B = np.asarray(hist_items_BH), np.asarray(hist_len_B, np.int64)
        if self.needs_time and hist_ts_BH is None:
            raise BadInput(f"{self.config.kind} needs the times of the histories (hist_ts)")
        longest, width = int(hist_len_B.max(initial=0)), hist_items_BH.shape[1]
        if longest > width:
            raise BadInput(f"history of {longest} items: rows hold {width}")
        out_BD = np.zeros((len(hist_len_B), self.config.d_model), np.float32)
        order = np.argsort(hist_len_B, kind="stable")
        order = order[hist_len_B[order] > 0]
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            length_b, place_bL = last_places(hist_len_B[rows], self.config.max_len)
            item_bL = torch.from_numpy(np.take_along_axis(hist_items_BH[rows], place_bL, 1).astype(np.int64))
            ts_bL = None
            if self.needs_time:
                ts_bL = torch.from_numpy(np.take_along_axis(np.asarray(hist_ts_BH)[rows], place_bL, 1)).to(self.device)
            length_b = torch.from_numpy(length_b)
            packing = Packing(length_b, self.device)
            state_ND = self.states(item_bL.to(self.device), ts_bL, packing)
            last_b1 = packing.at(length_b[:, None].to(self.device) - 1)
            out_BD[rows] = state_ND[last_b1[:, 0]].float().cpu().numpy()
        return out_BD

    @torch.inference_mode()
    def embed_items(
        self, item_idx_N: np.ndarray, content: ContentMatrix | None = None, batch_size: int = 4096
    ) -> np.ndarray:
        """Item embeddings for batch scoring: float32 [N, D]; zeros for items that are newer than the training."""
        self.eval()
        item_idx_N = np.asarray(item_idx_N).astype(np.int64)
        out_ND = np.zeros((len(item_idx_N), self.config.d_model), np.float32)
        for start in range(0, len(item_idx_N), batch_size):
            item_n = item_idx_N[start : start + batch_size]
            item_n = torch.from_numpy(np.where(item_n < self.num_items, item_n, 0)).to(self.device)
            out_ND[start : start + batch_size] = self.items(item_n).float().cpu().numpy()
        return out_ND
