"""User and item towers over frozen content embeddings.

Shapes: B users, H history length, T target length, U distinct items of a batch, C content width,
D model width, K output width.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.contract.event_types import checked_types
from models.contract.failures import BadInput
from models.contract.settings import TowersConfig
from models.data.content import ContentMatrix
from models.layers.packing import Packing
from models.layers.transformer import CausalPooling, CausalTransformer, causal_mean
from models.towers.repeats import REPEAT_SPEED
from models.towers.typed_events import EventTypes

if TYPE_CHECKING:
    from models.encoder.language_model import LanguageTower

MAX_SCALE = 100.0


class Towers(nn.Module):
    """The paper's preference comprehension module (adaptor, causal transformer, projection) as user and item tower.

    Every output is a unit vector. A logit is `scale` times the inner product, plus the item's bias if there is
    one. Histories and targets are given as row numbers of the batch's table of distinct items
    (`ContentMatrix.unique`, `inputs`), oldest first, padded on the right.

    Args:
        config: sizes and switches.
        content_dim: width of the content embeddings.
        num_items: number of rows of the content matrix in training, for `id_residual` and `item_bias`. Newer items have
            neither.
        event_types: names of the event types in histories, in the order of their codes; empty if the user tower does
            not read event types.
    """

    def __init__(
        self, config: TowersConfig, content_dim: int, num_items: int = 0, event_types: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.config, self.content_dim, self.num_items = config, content_dim, num_items
        self.event_types = tuple(event_types)
        vector_dim = config.embedding_dim - config.item_bias  # the bias takes the embeddings' last column
        language = _language_tower(config) if config.user_tower == "llm" else None
        width = language.width if language else config.d_model
        self.adaptor = nn.Linear(content_dim, width)
        if language:
            self.sequence, self.config = language, config.model_copy(update={"llm": language.config})
        elif config.user_tower == "pooling_mlp":
            self.sequence = CausalPooling(width, config.dropout)
        else:
            self.sequence = CausalTransformer(width, config.layers, config.heads, config.dropout, config.max_len)
        self.head = nn.Linear(width, vector_dim)
        if config.item_tower == "mlp":
            self.item_mlp = nn.Sequential(nn.Linear(content_dim, width), nn.GELU(), nn.Linear(width, vector_dim))
        if config.content_residual or config.item_tower == "content":
            self.residual = nn.Linear(content_dim, vector_dim, bias=False)
            nn.init.orthogonal_(self.residual.weight)
        if config.content_residual:
            for last in self.output_layers[:-1]:
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        self.id_residual = _zero_rows(num_items, content_dim) if config.id_residual else None
        self.item_bias = _zero_rows(num_items, 1) if config.item_bias else None
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)), requires_grad=config.learned_scale)
        self.repeat_weight = nn.Parameter(torch.zeros(())) if config.repeat_bias else None
        # Created last, so that all other weights start with the same values as without types.
        self.events = EventTypes(len(self.event_types), width) if self.event_types else None

    @property
    def output_layers(self) -> list[nn.Linear]:
        """The last layers of both towers. Each vector is a sum of outputs of such layers, scaled to unit length."""
        own = [cast(nn.Linear, self.item_mlp[-1])] if self.config.item_tower == "mlp" else []
        is_projected = self.config.content_residual or self.config.item_tower == "content"
        return [self.head, *own, *([self.residual] if is_projected else [])]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.log_scale.device

    @property
    def scale(self) -> Tensor:
        """1 / temperature, a scalar."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    @property
    def repeat_bias(self) -> Tensor | None:
        """The scalar added to the logits of items that the history holds; None if none is learned."""
        return None if self.repeat_weight is None else REPEAT_SPEED * self.scale * self.repeat_weight

    @property
    def items_go_in_alone(self) -> bool:
        """Whether an item's vector in training depends on the item only, not on the targets before it."""
        return self.config.item_tower != "shared_causal" or self.config.train_input == "single"

    def inputs(self, content_UC: Tensor, item_U: Tensor) -> Tensor:
        """The towers' input per distinct item: its content at unit root mean square, plus the id residual.

        Args:
            content_UC: content embeddings.
            item_U: their item_idx.
        """
        # Encoders' norms differ by orders of magnitude. Unit root mean square suits the adaptor's initial scale, and
        # the content residual dominates the first steps (with unit vectors it learned more slowly).
        input_UC = F.normalize(content_UC, dim=-1) * math.sqrt(self.content_dim)
        if self.id_residual is not None:
            input_UC = input_UC + self.id_residual(self._known(item_U))
        return input_UC

    def bias(self, item: Tensor) -> Tensor:
        """The items' learned biases, to be added to logits; zeros without `item_bias`. Same shape as `item`."""
        if self.item_bias is None:
            return torch.zeros(item.shape, device=item.device)
        return self.item_bias(self._known(item))[..., 0]

    def users(
        self, input_UC: Tensor, hist_BH: Tensor, length_B: Tensor, at_BN: Tensor, type_BH: Tensor | None = None
    ) -> Tensor:
        """The user's vector after each history position `at_BN`, from events up to it only: [B, N, K], unit length.

        Vectors of positions after the history's end (`length_B`) have no meaning. `type_BH` are the codes of event
        types; only towers with `event_types` read them.
        """
        packing = self._packing(hist_BH, length_B)
        token_ND = self._transform(input_UC, hist_BH, packing, type_BH)
        if self.config.pooling == "mean":
            token_NK = packing.ungrouped([causal_mean(group) for group in packing.groups(self.head(token_ND))])
            out_BNK = token_NK[packing.at(at_BN)]
        else:
            out_BNK = self.head(token_ND[packing.at(at_BN)])
        if self.config.content_residual:
            content_BHK = F.embedding(hist_BH, self.residual(input_UC))
            if self.events is not None and type_BH is not None:
                content_BHK = content_BHK * self.events.weight(type_BH)[:, :, None]
            mean_BHK = causal_mean(content_BHK)
            out_BNK = out_BNK + mean_BHK.gather(1, at_BN[:, :, None].expand(-1, -1, mean_BHK.shape[2]))
        return F.normalize(out_BNK, dim=-1)

    def items(self, input_UC: Tensor, tar_BT: Tensor, length_B: Tensor, at_BS: Tensor) -> Tensor:
        """Vectors of the target items at positions `at_BS`, as used in training: [B, S, K], unit length."""
        item_BS = tar_BT.gather(1, at_BS)
        if self.items_go_in_alone:
            row_M, place_BS = item_BS.unique(return_inverse=True)
            return F.embedding(place_BS, self.items_alone(input_UC[row_M]))
        packing = self._packing(tar_BT, length_B)
        out_BSK = self.head(self._transform(input_UC, tar_BT, packing)[packing.at(at_BS)])
        if self.config.content_residual:
            out_BSK = out_BSK + F.embedding(item_BS, self.residual(input_UC))
        return F.normalize(out_BSK, dim=-1)

    def items_alone(self, input_UC: Tensor) -> Tensor:
        """Vectors of items without a sequence around them, as at inference: [U, K], unit length."""
        if self.config.item_tower == "content":
            return F.normalize(self.residual(input_UC), dim=-1)
        if self.config.item_tower == "mlp":
            out_UK = self.item_mlp(input_UC)
        else:
            rows_U1 = torch.arange(len(input_UC), device=input_UC.device)[:, None]
            packing = self._packing(rows_U1, torch.ones_like(rows_U1[:, 0]))
            out_UK = self.head(self._transform(input_UC, rows_U1, packing)[packing.at(torch.zeros_like(rows_U1))[:, 0]])
        if self.config.content_residual:
            out_UK = out_UK + self.residual(input_UC)
        return F.normalize(out_UK, dim=-1)

    def published(self, vector_BK: Tensor, last_B: Tensor) -> Tensor:
        """Embeddings as they are published: unit vectors times sqrt(scale), float32.

        With `item_bias`, `last_B` is appended as the last column.
        """
        vector_BK = vector_BK * self.scale.sqrt()
        if self.config.item_bias:
            vector_BK = torch.cat([vector_BK, last_B[:, None]], dim=1)
        return vector_BK.float()

    @torch.inference_mode()
    def embed_users(
        self,
        hist_items_BH: np.ndarray,
        hist_len_B: np.ndarray,
        content: ContentMatrix,
        batch_size: int = 512,
        hist_ts_BH: np.ndarray | None = None,
        hist_types_BH: np.ndarray | None = None,
    ) -> np.ndarray:
        """User embeddings for batch scoring.

        Args:
            hist_items_BH: item_idx, oldest first, padded on the right.
            hist_len_B: number of valid items of each row.
            content: the content matrix.
            batch_size: rows at a time.
            hist_ts_BH: not used; all retrievers share this interface.
            hist_types_BH: codes of the events' types, in the order of `event_types`; read only if the towers have any.

        Returns:
            float32 [B, embedding_dim]: unit vectors times sqrt(scale), so that the plain inner product of user and
            item embeddings is the logit. With `item_bias` the last column is 1 for users, and the bias for items.
            Zeros for an empty history.

        Raises:
            BadInput: a history is longer than its row or than `max_len`, or event types are missing or unknown.
        """
        self.eval()
        hist_items_BH, hist_len_B = np.asarray(hist_items_BH), np.asarray(hist_len_B, dtype=np.int64)
        out_BK = np.zeros((len(hist_len_B), self.config.embedding_dim), np.float32)
        longest = int(hist_len_B.max(initial=0))
        if longest > min(hist_items_BH.shape[1], self.config.max_len):
            width = hist_items_BH.shape[1]
            raise BadInput(f"history of {longest} items: rows hold {width}, max_len {self.config.max_len}")
        types_BH = None
        if self.event_types:
            types_BH = checked_types(self.event_types, hist_len_B, hist_types_BH, hist_items_BH.shape[1])
        order = np.argsort(hist_len_B, kind="stable")
        order = order[hist_len_B[order] > 0]
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            hist, length = hist_items_BH[rows, : hist_len_B[rows].max()], torch.from_numpy(hist_len_B[rows])
            content_UC, hist_BH = content.unique(hist)
            item_U = distinct(len(content_UC), (hist_BH, torch.from_numpy(hist)))
            content_UC, item_U, hist_BH, length = (x.to(self.device) for x in (content_UC, item_U, hist_BH, length))
            type_BH = None
            if types_BH is not None:
                type_BH = torch.from_numpy(types_BH[rows, : hist_BH.shape[1]]).to(self.device)
            last_BK = self.users(self.inputs(content_UC, item_U), hist_BH, length, length[:, None] - 1, type_BH)[:, 0]
            out_BK[rows] = self.published(last_BK, torch.ones_like(last_BK[:, 0])).cpu().numpy()
        return out_BK

    @torch.inference_mode()
    def embed_items(self, item_idx_N: np.ndarray, content: ContentMatrix, batch_size: int = 4096) -> np.ndarray:
        """Item embeddings for batch scoring, each item without a sequence: float32 [N, K]; see `embed_users`."""
        self.eval()
        item_idx_N = np.asarray(item_idx_N)
        out_NK = np.zeros((len(item_idx_N), self.config.embedding_dim), np.float32)
        for start in range(0, len(item_idx_N), batch_size):
            stop = start + batch_size
            item_n = torch.from_numpy(item_idx_N[start:stop].astype(np.int64))  # a copy: Arrow arrays are read-only
            content_nC, item_n = content.gather(item_n).to(self.device), item_n.to(self.device)
            alone_nK = self.items_alone(self.inputs(content_nC, item_n))
            out_NK[start:stop] = self.published(alone_nK, self.bias(item_n)).cpu().numpy()
        return out_NK

    def _packing(self, rows_BL: Tensor, length_B: Tensor) -> Packing:
        if rows_BL.shape[1] > self.config.max_len:
            raise BadInput(f"sequences of {rows_BL.shape[1]} items, but max_len is {self.config.max_len}")
        return Packing(length_B, rows_BL.device)

    def _transform(self, input_UC: Tensor, rows_BL: Tensor, packing: Packing, type_BL: Tensor | None = None) -> Tensor:
        token_ND = F.embedding(packing.packed(rows_BL), self.adaptor(input_UC))
        if self.events is not None and type_BL is not None:
            token_ND = self.events(token_ND, packing.packed(type_BL))
        return self.sequence(token_ND, packing)

    def _known(self, item: Tensor) -> Tensor:
        """The items' rows in tables by item; row 0 (zeros) for items that are newer than the training."""
        return torch.where(item < self.num_items, item, 0)


def _language_tower(config: TowersConfig) -> "LanguageTower":
    from models.encoder.language_model import LanguageTower  # imports transformers, which only this tower needs

    assert config.llm is not None, "TowersConfig asks for it"
    tower = LanguageTower(config.llm)
    if config.max_len > tower.longest:
        raise BadInput(f"max_len is {config.max_len}, but {config.llm.model} has {tower.longest} positions")
    return tower


def distinct(num: int, *pairs: tuple[Tensor, Tensor]) -> Tensor:
    """item_idx of the `num` distinct items that `ContentMatrix.unique` found: int64 [U].

    Args:
        num: U.
        pairs: for each array given to `unique`, the row numbers that it returned, and the array itself (item_idx).
    """
    item_U = torch.zeros(num, dtype=torch.long)
    for rows, item in pairs:
        item_U[rows.flatten()] = item.flatten().long()
    return item_U


def _zero_rows(num: int, width: int) -> nn.Embedding:
    if not num:
        raise BadInput("id_residual and item_bias need the number of items")
    table = nn.Embedding(num, width, padding_idx=0)
    nn.init.zeros_(table.weight)
    return table
