"""Turns any text into its first token ids, safely.

Long texts are cut before they are tokenised, where this does not change their first ids. Lone surrogates become
U+FFFD. Nothing in a text counts as a control token: `</s>` in a product's title is four characters.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

# A text is cut only beyond this many characters per wanted token.
CHARACTERS_A_TOKEN = 16
_SURROGATES = re.compile("[\ud800-\udfff]")


class Tokenizer(Protocol):
    """What the encoder needs from a tokenizer. `pad_id` may be any valid id, because padding is masked."""

    pad_id: int

    def ids(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """The first `max_tokens` ids of each text, special tokens included."""
        ...


class FastTokenizer:
    """A tokenizer of the tokenizers library."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        tokenizer.split_special_tokens = True
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
        self.pad_id: int = next((token_id for token_id in known if isinstance(token_id, int)), 0)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads the folder's tokenizer; code that comes with it never runs."""
        return cls(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False))

    def ids(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """See `Tokenizer`."""
        return self._tokenizer(
            list(texts),
            truncation=True,
            max_length=max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]


class SentencePieceTokenizer:
    """SentencePiece's own ids, for models whose tokenizer class is remote code that wraps it."""

    def __init__(self, model: Path, add_bos: bool, add_eos: bool) -> None:
        from sentencepiece import SentencePieceProcessor  # only this family needs it

        self._processor = SentencePieceProcessor(model_file=str(model))
        self._first = [self._processor.bos_id()] if add_bos else []
        self._last = [self._processor.eos_id()] if add_eos else []
        self.pad_id = max(self._processor.pad_id(), 0)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads tokenizer.model, and from tokenizer_config.json whether texts begin and end with special tokens."""
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        add_bos, add_eos = (config.get("add_bos_token", True), config.get("add_eos_token", False))
        return cls(folder / "tokenizer.model", add_bos, add_eos)

    def ids(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """See `Tokenizer`."""
        room = max_tokens - len(self._first) - len(self._last)
        return [[*self._first, *ids[:room], *self._last] for ids in self._processor.encode(list(texts), num_threads=1)]


def first_tokens(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """The first `max_tokens` ids of each text. A text's length beyond these ids costs no time.

    Args:
        tokenizer: gives the ids.
        texts: any strings.
        max_tokens: special tokens included.
    """
    if not texts:
        return []
    clean = [_SURROGATES.sub("\ufffd", text) for text in texts]
    return tokenizer.ids([_head(tokenizer, text, max_tokens) for text in clean], max_tokens)


def continuation(tokenizer: Tokenizer, text: str, max_tokens: int = 1 << 20) -> list[int]:
    """The first `max_tokens` ids of a text that continues another: without the special tokens around a text."""
    around = tokenizer.ids([""], max_tokens)[0]
    ids = first_tokens(tokenizer, [text], max_tokens + len(around))[0]
    first = next((n for n, (one, other) in enumerate(zip(around, ids, strict=False)) if one != other), len(around))
    last = len(around) - first
    ids = ids[first:-last] if last and ids[-last:] == around[first:] else ids[first:]
    return ids[:max_tokens]


def _head(tokenizer: Tokenizer, text: str, max_tokens: int) -> str:
    """A prefix of the text with the same first ids, taken as found when a prefix twice as long gives the same ids.

    A fixed number of characters would be wrong: white space, or a word that BERT does not know, can have any length.
    """
    size = CHARACTERS_A_TOKEN * max_tokens
    while 2 * size < len(text):
        shorter, longer = tokenizer.ids([text[:size], text[: 2 * size]], max_tokens)
        if len(shorter) == max_tokens and shorter == longer:
            return text[:size]
        size *= 2
    return text


def padded(rows: Sequence[Sequence[int]], pad_id: int, room: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of token ids as a right-padded matrix, `room` columns wider than the longest row, and the rows' lengths."""
    length_N = torch.tensor([len(ids) for ids in rows])
    ids_NL = torch.full((len(rows), int(length_N.max()) + room), pad_id)
    for row, ids in zip(ids_NL, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
    return ids_NL, length_N
