"""NoteLLM-like: a language model compresses an item's text into one vector, trained on pairs of co-occurring items.

Zhang et al., WWW 2024, arXiv 2403.01939. Differences: no second task (the paper generates hashtags and categories,
which these logs lack); pairs have no direction, because simultaneous events have no order; a user counts once per pair,
however often he or she had both; the compression token is a learned input vector, not a row of the vocabulary; adapters
are trained instead of all weights; another pair's item is no negative if it equals one of the pair's own items.

Shapes: N items, L tokens, D the language model's width, K the vectors' width, I items (padding, item 0, included),
T related items, B users, H history length.
"""

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.baselines.history import incidence
from models.contract.failures import BadInput
from models.contract.language_models import NoteLLMConfig
from models.data.content import ContentMatrix
from models.data.item_texts import ItemTexts
from models.encoder.language_model import LanguageModel
from models.encoder.tokens import continuation, first_tokens, padded

MAX_SCALE = 100.0
BLOCK_ITEMS = 1024
BATCH_ITEMS = 128


class NoteLLM(nn.Module):
    """An item's vector is the state at a compression token after its text; a user's is the mean over the history.

    Args:
        config: sizes and the language model.
        texts: the items' texts.
        num_items: I.
    """

    repeat_bias = None

    def __init__(self, config: NoteLLMConfig, texts: ItemTexts, num_items: int) -> None:
        super().__init__()
        self.language = LanguageModel(config.llm)
        self.config = config.model_copy(update={"llm": self.language.config})
        self.texts, self.num_items = texts, num_items
        tokenizer = self.language.tokenizer
        instruction = continuation(tokenizer, config.instruction)
        needed = config.max_tokens + len(instruction) + 1
        if needed > self.language.longest:
            raise BadInput(
                f"max_tokens {config.max_tokens} and the instruction need {needed} positions,"
                f" but {config.llm.model} has {self.language.longest}"
            )
        # All texts are tokenised here: two threads must not use a tokenizer at the same time.
        text_ids = first_tokens(tokenizer, texts.of(np.arange(num_items)), config.max_tokens)
        self.prompts = [[*ids, *instruction] for ids in text_ids]
        self.compression = nn.Parameter(torch.randn(self.language.width) * self._embeddings.weight.float().std())
        self.head = nn.Linear(self.language.width, config.embedding_dim)
        self.log_scale = nn.Parameter(torch.tensor(config.log_scale))
        self._vectors_IK: np.ndarray | None = None

    @property
    def scale(self) -> Tensor:
        """The factor of the similarities in the loss (1 / temperature), a scalar."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def tokens(self, item_N: np.ndarray) -> tuple[Tensor, Tensor]:
        """The items' prompts, right-padded, with room for one more token: int64 [N, L], and their lengths [N]."""
        return padded([self.prompts[item] for item in item_N], self.language.tokenizer.pad_id, room=1)

    def forward(self, ids_NL: Tensor, length_N: Tensor) -> Tensor:
        """Unit vectors of prompts: [N, K]. Padding comes after the compression token, which does not see it."""
        is_last_NL1 = (torch.arange(ids_NL.shape[1], device=ids_NL.device) == length_N[:, None])[..., None]
        input_NLD = self._embeddings(ids_NL)
        input_NLD = torch.where(is_last_NL1, self.compression.to(input_NLD.dtype), input_NLD)
        state_NLD = self.language.model(inputs_embeds=input_NLD, use_cache=False).last_hidden_state
        state_ND = state_NLD[torch.arange(len(length_N), device=ids_NL.device), length_N]
        return F.normalize(self.head(state_ND.float()), dim=-1)

    @torch.inference_mode()
    def vectors(self) -> np.ndarray:
        """Unit vectors of all items, float32 [I, K]; zeros for padding. Kept until the model trains again."""
        if self._vectors_IK is None:
            self.eval()
            vectors_IK = np.zeros((self.num_items, self.config.embedding_dim), np.float32)
            item_N = np.arange(1, self.num_items)
            for start in range(0, len(item_N), BATCH_ITEMS):
                item_n = item_N[start : start + BATCH_ITEMS]
                ids_nL, length_n = (x.to(self.head.weight.device) for x in self.tokens(item_n))
                vectors_IK[item_n] = self(ids_nL, length_n).cpu().numpy()
            self._vectors_IK = vectors_IK
        return self._vectors_IK

    def train(self, mode: bool = True) -> "NoteLLM":
        """As `nn.Module.train`; training mode also drops the vectors that `vectors` has kept."""
        if mode:
            self._vectors_IK = None
        return super().train(mode)

    def embed_users(
        self,
        hist_items_BH: np.ndarray,
        hist_len_B: np.ndarray,
        content: ContentMatrix | None = None,
        batch_size: int = 512,
        hist_ts_BH: np.ndarray | None = None,
        hist_types_BH: np.ndarray | None = None,
    ) -> np.ndarray:
        """The mean of the history's vectors, as a unit vector: float32 [B, K]; see `Retriever`."""
        vectors_IK = torch.from_numpy(self.vectors())
        hist_BH = torch.from_numpy(np.asarray(hist_items_BH)).long()  # padding is row 0, zeros
        sums = [F.embedding_bag(hist_bH, vectors_IK, mode="sum") for hist_bH in hist_BH.split(batch_size)]
        return F.normalize(torch.cat(sums), dim=-1).numpy()

    def embed_items(
        self, item_idx_N: np.ndarray, content: ContentMatrix | None = None, batch_size: int = 4096
    ) -> np.ndarray:
        """float32 [N, K]; see `Retriever`."""
        return self.vectors()[np.asarray(item_idx_N)]

    @property
    def _embeddings(self) -> nn.Embedding:
        return cast(nn.Embedding, self.language.model.get_input_embeddings())  # every supported model has an Embedding


def pair_loss(vector_2BK: Tensor, item_2B: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of B pairs, row i with row i + B: each of the 2B items predicts its partner.

    Args:
        vector_2BK: unit vectors.
        item_2B: their item_idx; an item that equals the anchor or its partner is no negative.
        scale: factor of the similarities.
    """
    size = len(item_2B) // 2
    partner_2B = torch.arange(2 * size, device=item_2B.device).roll(size)
    is_own = (item_2B[:, None] == item_2B) | (item_2B[partner_2B][:, None] == item_2B)
    is_own[torch.arange(2 * size), partner_2B] = False
    logits = (vector_2BK @ vector_2BK.T * scale).masked_fill(is_own, -torch.inf)
    return F.cross_entropy(logits, partner_2B)


def related_items(
    user_R: np.ndarray,
    hist_items_RH: np.ndarray,
    tar_items_RT: np.ndarray,
    num_items: int,
    most: int,
    scores: tuple[float, float],
) -> np.ndarray:
    """The items that co-occur most with each item: int64 [I, T], best first, zeros where there are fewer.

    The score s(i, j) is the sum of 1 / N_u over the users who have both items, where N_u is the number of items that
    user u has: a user who has everything says little about a pair. Among equal scores the lower item_idx comes first.

    Args:
        user_R, hist_items_RH, tar_items_RT: all training rows; a user has the items of all of his or her rows.
        num_items: I.
        most: T.
        scores: (lowest, highest) score of related pairs.
    """
    has_UI = incidence(user_R, hist_items_RH, tar_items_RT, num_items)
    count_U = np.asarray(has_UI.sum(1)).ravel()
    weighted_UI = has_UI.multiply(1 / np.maximum(count_U, 1)[:, None]).tocsr()
    has_IU = has_UI.T.tocsr()
    related_IT = np.zeros((num_items, most), np.int64)
    for start in range(0, num_items, BLOCK_ITEMS):
        score_bI = (has_IU[start : start + BLOCK_ITEMS] @ weighted_UI).tocsr()
        for place in range(score_bI.shape[0]):
            own = slice(*score_bI.indptr[place : place + 2])
            item_n, score_n = score_bI.indices[own], score_bI.data[own]
            is_related_n = (item_n != start + place) & (score_n >= scores[0]) & (score_n <= scores[1])
            item_n, score_n = item_n[is_related_n], score_n[is_related_n]
            best = item_n[np.lexsort((item_n, -score_n))][:most]
            related_IT[start + place, : len(best)] = best
    return related_IT
