"""Content Embedding Generation (LEARN, section 3.2): a frozen Hugging Face encoder turns texts into vectors.

Decoder LLMs (Llama, Qwen, …) and encoders (BERT, MiniLM, …) go through the same code. Legend of shapes:
N texts, B texts of a batch, L padded tokens, D hidden width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from models.model_folder import locate

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
POOLINGS = ("mean", "last", "cls")


class Encoder:
    """A frozen model with its tokenizer.

    Attributes:
        dim: width D of a vector.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pooling: str, max_tokens: int
    ) -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"unknown pooling {pooling!r}; there are {', '.join(POOLINGS)}")
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._pooling = pooling
        self._max_tokens = min(max_tokens, _longest_input(model))
        self._pad_id = _padding_id(tokenizer)
        self.dim = int(model.config.hidden_size)

    @classmethod
    def load(
        cls, path: str | Path, revision: str | None, pooling: str, max_tokens: int, dtype: str, device: str
    ) -> Self:
        """Loads config, tokenizer and safetensors weights; code that comes with a model never runs.

        Args:
            path: a local folder or a hub name.
            revision: a hub name's commit.
            pooling: `mean` over the real tokens of the last hidden states (the paper), `last` or `cls` token.
            max_tokens: longer texts are cut at a token.
            dtype: float32, bfloat16 or float16.
            device: cpu, cuda or cuda:<n>.

        Raises:
            ValueError: what is wrong with the folder, the settings or the device, in one line.
        """
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}; there are {', '.join(DTYPES)}")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(
                f"device {device} is asked for, but torch {torch.__version__} sees no CUDA device; use cpu"
            )
        folder = locate(str(path), revision)
        disable_progress_bar()
        safe = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
            model, report = AutoModel.from_pretrained(
                folder, dtype=DTYPES[dtype], use_safetensors=True, output_loading_info=True, **safe
            )
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RuntimeError,
            ImportError,
            SafetensorError,
        ) as error:
            raise ValueError(f"model folder {folder} cannot be loaded: {_one_line(error)}") from error
        _check_complete(folder, report)
        return cls(model.to(device), tokenizer, pooling, max_tokens)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with the model's special tokens, cut to `max_tokens`, unpadded."""
        if not texts:
            return []
        return self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self._max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]

    def encode(self, texts: Sequence[str], batch_tokens: int) -> tuple[np.ndarray, int]:
        """Vectors of texts, in their order, and the number of real tokens that the model read."""
        tokens = self.tokenize(texts)
        return self.encode_tokens(tokens, batch_tokens), sum(map(len, tokens))

    def encode_tokens(self, tokens: Sequence[Sequence[int]], batch_tokens: int) -> np.ndarray:
        """Vectors of tokenised texts.

        Args:
            tokens: N lists of token ids.
            batch_tokens: the most padded tokens B * L of a batch; a longer text goes alone.

        Returns:
            float32 [N, D] in the order of `tokens`; zeros for a text without tokens.
        """
        vectors_ND = np.zeros((len(tokens), self.dim), dtype=np.float32)
        for rows in pack_by_length([len(ids) for ids in tokens], batch_tokens):
            vectors_ND[rows] = self._encode_batch([tokens[row] for row in rows])
        return vectors_ND

    @torch.inference_mode()
    def _encode_batch(self, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        lengths_B = torch.tensor([len(ids) for ids in tokens])
        width = int(lengths_B.max())
        ids_BL = torch.tensor([[*ids, *[self._pad_id] * (width - len(ids))] for ids in tokens])
        mask_BL = torch.arange(width) < lengths_B[:, None]
        device = self._model.device
        ids_BL, mask_BL, lengths_B = ids_BL.to(device), mask_BL.to(device), lengths_B.to(device)
        hidden_BLD = self._model(input_ids=ids_BL, attention_mask=mask_BL.long()).last_hidden_state
        return self._pool(hidden_BLD, mask_BL, lengths_B).cpu().numpy()

    def _pool(self, hidden_BLD: Tensor, mask_BL: Tensor, lengths_B: Tensor) -> Tensor:
        if self._pooling == "cls":
            return hidden_BLD[:, 0].float()
        if self._pooling == "last":
            return hidden_BLD[torch.arange(len(lengths_B), device=lengths_B.device), lengths_B - 1].float()
        sum_BD = hidden_BLD.float().masked_fill(~mask_BL[..., None], 0.0).sum(dim=1)
        return sum_BD / lengths_B[:, None]


def pack_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[np.ndarray]:
    """Row numbers by batch: longest first, at most `batch_tokens` after padding, empty rows left out."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    order = order[: np.count_nonzero(lengths)]
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // lengths[order[start]])
        yield order[start : start + rows]
        start += rows


def _padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any valid id will do, as padding is masked; decoder LLMs often define none."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id):
        if token_id is not None:
            return token_id
    return 0


def _longest_input(model: PreTrainedModel) -> int:
    """Positions that the model has; RoBERTa's first two are its padding's."""
    positions = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    return positions - 2 if "roberta" in model.config.model_type else positions


def _check_complete(folder: Path, report: dict[str, object]) -> None:
    """transformers fills missing weights with noise and only warns; just the unused pooler may be missing."""
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    wrong = [*missing, *(str(key) for key in report["mismatched_keys"])]
    if wrong:
        raise ValueError(
            f"model folder {folder} does not hold the whole model:"
            f" {len(wrong)} weights are missing or of another shape, such as {wrong[0]}"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
