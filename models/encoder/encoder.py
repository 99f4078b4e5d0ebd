"""Content Embedding Generation (LEARN, section 3.2): a frozen Hugging Face encoder turns texts into vectors.

Decoder LLMs (Baichuan2, Llama, Qwen) and encoders (BERT, MiniLM) go through the same code. Shapes: N texts, B texts of
a batch, P tokens of the prefix that all texts share, L padded tokens after it, D hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from models.contract.failures import BadInput
from models.contract.model_folder import early_stop, locate
from models.data.prefetch import prefetched
from models.encoder.batching import run_batches, shared_prefix
from models.encoder.depth import stop_after
from models.encoder.packed import pack_linears
from models.encoder.pretrained import DTYPES, is_causal, load_pretrained, longest_input
from models.encoder.tokens import Tokenizer, first_tokens

POOLINGS = ("mean", "last", "cls")
SHORTEST_PREFIX = 8  # a shorter prefix saves less than its cache costs
WINDOW_TEXTS = 8192  # texts that are sorted by length together; enough for batches with little padding


@dataclass
class Prefix:
    """The tokens that all texts of a call begin with; the model reads them once.

    Attributes:
        length: P.
        cache: the prefix's keys and values, for one text.
        sum_D: the sum of the prefix's last hidden states.
    """

    length: int
    cache: DynamicCache
    sum_D: Tensor


class Encoder:
    """A frozen model with its tokenizer.

    Attributes:
        dim: width D of a vector.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, pooling: str, max_tokens: int) -> None:
        if pooling not in POOLINGS:
            raise BadInput(f"unknown pooling {pooling!r}; there are {', '.join(POOLINGS)}")
        self._model = model.eval().requires_grad_(False)
        self._model.config.use_cache = False  # else keys and values are copied, although no token is generated
        pack_linears(self._model)
        self._tokenizer = tokenizer
        self._pooling = pooling
        self._max_tokens = min(max_tokens, longest_input(model))
        self._can_share = pooling != "cls" and is_causal(model)
        self.dim = int(model.config.hidden_size)

    @classmethod
    def load(
        cls,
        path: str | Path,
        revision: str | None,
        pooling: str,
        max_tokens: int,
        dtype: str,
        device: str,
        layer: int | None = None,
    ) -> Self:
        """Loads config, tokenizer and safetensors weights; code that comes with a model never runs.

        Args:
            path: a local folder or a hub name.
            revision: commit of a hub name.
            pooling: `mean` over the real tokens' last hidden states (the paper), or that of the `last` or `cls` token.
            max_tokens: longer texts are cut to this many tokens.
            dtype: float32, bfloat16 or float16.
            device: cpu, cuda or cuda:<n>.
            layer: the layer whose states are pooled, counted from 1; later layers are removed. None: the last one.

        Raises:
            BadInput: the folder, a setting or the device is wrong; one line.
        """
        if dtype not in DTYPES:
            raise BadInput(f"unknown dtype {dtype!r}; there are {', '.join(DTYPES)}")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BadInput(f"device {device} is asked for, but torch {torch.__version__} sees no CUDA device; use cpu")
        folder = locate(str(path), revision)
        stop = early_stop(folder, layer)
        model, tokenizer = load_pretrained(folder, DTYPES[dtype])
        if stop:
            stop_after(model, stop)
        model.to(device)  # pyright: ignore[reportArgumentType] - transformers' wrapper hides `self`
        return cls(model, tokenizer, pooling, max_tokens)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with the model's special tokens, cut to `max_tokens`, unpadded."""
        return first_tokens(self._tokenizer, texts, self._max_tokens)

    def encode(self, texts: Sequence[str], batch_tokens: int) -> tuple[np.ndarray, int]:
        """Vectors of texts, in their order, and the texts' number of real tokens; see `encode_tokens`.

        The next texts are tokenised while the model runs.
        """
        vectors_ND = np.zeros((len(texts), self.dim), dtype=np.float32)
        starts = range(0, len(texts), WINDOW_TEXTS)
        num_tokens = 0
        windows = prefetched((self.tokenize(texts[start : start + WINDOW_TEXTS]) for start in starts), depth=1)
        for start, tokens in zip(starts, windows, strict=True):
            vectors_ND[start : start + WINDOW_TEXTS] = self.encode_tokens(tokens, batch_tokens)
            num_tokens += sum(map(len, tokens))
        return vectors_ND, num_tokens

    def encode_tokens(
        self, tokens: Sequence[Sequence[int]], batch_tokens: int, too_large: list[int] | None = None
    ) -> np.ndarray:
        """Vectors of tokenised texts. Equal texts are read once, and so is a long prefix that all texts share.

        Args:
            tokens: N lists of token ids.
            batch_tokens: the most padded tokens B * L of a batch; a longer text is a batch of its own. The limit is
                lowered, for this call, when memory runs out.
            too_large: a list to which the numbers of rows are added that do not fit in memory even alone.

        Returns:
            float32 [N, D] in the order of `tokens`; zeros for a text without tokens, NaN for one that is too large.
        """
        distinct: dict[tuple[int, ...], int] = {}
        places_N = np.array([distinct.setdefault(tuple(ids), len(distinct)) for ids in tokens], dtype=np.int64)
        vectors_ND, lost = self._encode_distinct(list(distinct), batch_tokens)
        if too_large is not None:
            too_large.extend(np.flatnonzero(np.isin(places_N, lost)).tolist())
        return vectors_ND[places_N]

    def _encode_distinct(self, rows: Sequence[tuple[int, ...]], batch_tokens: int) -> tuple[np.ndarray, list[int]]:
        read = [ids for ids in rows if ids]
        shared = shared_prefix(read) if self._can_share and len(read) > 1 else 0
        prefix = self._read_prefix(read[0][:shared]) if shared >= SHORTEST_PREFIX else None
        rests = [ids[prefix.length :] for ids in rows] if prefix else rows
        vectors_ND = np.zeros((len(rows), self.dim), dtype=np.float32)

        def work(batch: np.ndarray) -> None:
            vectors_ND[batch] = self._encode_batch([rests[row] for row in batch], prefix)

        too_large = run_batches(work, [len(ids) for ids in rests], batch_tokens)
        vectors_ND[too_large] = np.nan
        return vectors_ND, too_large

    @torch.inference_mode()
    def _read_prefix(self, ids: Sequence[int]) -> Prefix:
        read = self._model(input_ids=torch.tensor([ids], device=self._model.device), use_cache=True)
        return Prefix(len(ids), read.past_key_values, read.last_hidden_state[0].float().sum(dim=0))

    @torch.inference_mode()
    def _encode_batch(self, rests: Sequence[Sequence[int]], prefix: Prefix | None) -> np.ndarray:
        ids_BL, mask_BL, lengths_B = self._on_device(rests)
        inputs: dict[str, Any] = {"input_ids": ids_BL, "attention_mask": mask_BL.long()}
        if prefix is not None:
            inputs["past_key_values"] = expanded(prefix.cache, len(rests))
            inputs["attention_mask"] = torch.nn.functional.pad(mask_BL.long(), (prefix.length, 0), value=1)
        hidden_BLD = self._model(**inputs).last_hidden_state
        return pooled(self._pooling, hidden_BLD, mask_BL, lengths_B, prefix).cpu().numpy()

    def _on_device(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, right-padded; which of them are real; the rows' lengths."""
        lengths_B = torch.tensor([len(ids) for ids in rows])
        width = int(lengths_B.max())
        pad_id = self._tokenizer.pad_id
        ids_BL = torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids in rows])
        mask_BL = torch.arange(width) < lengths_B[:, None]
        device = self._model.device
        return ids_BL.to(device), mask_BL.to(device), lengths_B.to(device)


def pooled(
    pooling: str, hidden_BLD: Tensor, mask_BL: Tensor, lengths_B: Tensor, prefix: Prefix | None = None
) -> Tensor:
    """Vectors of texts, pooled from their tokens' states: float32 [B, D]."""
    if pooling == "cls":
        return hidden_BLD[:, 0].float()
    if pooling == "last":
        return hidden_BLD[torch.arange(len(lengths_B), device=lengths_B.device), lengths_B - 1].float()
    sum_BD = hidden_BLD.float().masked_fill(~mask_BL[..., None], 0.0).sum(dim=1)
    if prefix is None:
        return sum_BD / lengths_B[:, None]
    return (sum_BD + prefix.sum_D) / (lengths_B[:, None] + prefix.length)


def expanded(cache: DynamicCache, batch: int) -> DynamicCache:
    """The cache of one text, expanded to a batch of `batch` texts without a copy of its memory."""
    expanded = DynamicCache()
    layers: list[Any] = cache.layers  # layers of full attention, which have keys and values
    for place, layer in enumerate(layers):
        expanded.update(layer.keys.expand(batch, -1, -1, -1), layer.values.expand(batch, -1, -1, -1), place)
    return expanded
