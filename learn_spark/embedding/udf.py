"""The GPU pandas UDF: prompts in, fp16 vectors out, one model per worker process.

Shapes: N texts of a window, D encoder width.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pyspark import Accumulator, TaskContext

from learn_spark.core.errors import ConfigError
from learn_spark.embedding.encoders import model_source

if TYPE_CHECKING:
    from models.encoder import Encoder

OUTPUT_SCHEMA = "text_hash string, encoder_id string, dim int, embedding binary, norm float"
BAD_VECTOR = "bad vector: "
BAD_MODEL = "bad model: "
# A window is sorted by length as a whole: wide enough for even batches, small enough to hold its vectors.
WINDOW_BATCHES = 64
WINDOW_TEXTS = 8192
TOKENIZED_AT_ONCE = 1024
FP16_MAX = 65504.0


@dataclass(frozen=True)
class EncodeSpec:
    """What a worker needs to encode; travels with the task."""

    encoder_id: str
    model: str
    revision: str | None
    pooling: str
    max_tokens: int
    batch_tokens: int
    dtype: str
    device: str
    threads: int


@dataclass
class Window:
    """Tokenised texts that wait to be sorted and encoded; it spans Arrow batches."""

    hashes: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    num_tokens: int = 0

    def add(self, part_pdf: pd.DataFrame, tokens: list[list[int]]) -> None:
        self.hashes.extend(part_pdf["text_hash"])
        self.prompts.extend(part_pdf["prompt"])
        self.tokens.extend(tokens)
        self.num_tokens += sum(map(len, tokens))


def encode_function(
    spec: EncodeSpec, tokens_read: Accumulator[int]
) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """The function for `mapInPandas`, from (text_hash, prompt) to OUTPUT_SCHEMA.

    Args:
        spec: the encoder and how to run it.
        tokens_read: gets the number of real tokens; a task that is tried again counts again.
    """

    def encode(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for window in _windows(batches, spec):
            tokens_read.add(window.num_tokens)
            vectors_ND = _worker_encoder(spec).encode_tokens(window.tokens, spec.batch_tokens)
            yield as_rows(window, vectors_ND, spec.encoder_id)

    return encode


def as_rows(window: Window, vectors_ND: np.ndarray, encoder_id: str) -> pd.DataFrame:
    """The rows of content_embeddings for a window's texts.

    Raises:
        ValueError: where a vector is not finite or does not fit in fp16, naming a text.
    """
    norms_N = np.linalg.norm(vectors_ND, axis=1)
    largest_N = np.abs(vectors_ND).max(axis=1)
    bad = ~((norms_N < FP16_MAX) & (largest_N < FP16_MAX))  # NaN compares false
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{BAD_VECTOR}{int(bad.sum())} of {len(bad)} texts got NaN, infinity or more than fp16 holds,"
            f" such as {window.prompts[row][:80]!r} (largest {largest_N[row]}); try embedding.dtype float32"
        )
    half_ND = vectors_ND.astype("<f2")
    return pd.DataFrame(
        {
            "text_hash": window.hashes,
            "encoder_id": encoder_id,
            "dim": np.int32(half_ND.shape[1]),
            "embedding": [row_D.tobytes() for row_D in half_ND],
            "norm": norms_N,
        }
    )


def task_device(asked: str) -> str:
    """The GPU that Spark gave this task, else what the config asks for; `auto` without a GPU is cpu."""
    task = TaskContext.get()
    gpus = task.resources().get("gpu") if task is not None else None
    if gpus is not None and gpus.addresses and asked != "cpu":
        return f"cuda:{gpus.addresses[0]}"
    return "cpu" if asked == "auto" else asked


def _windows(batches: Iterable[pd.DataFrame], spec: EncodeSpec) -> Iterator[Window]:
    window = Window()
    for batch_pdf in batches:
        for start in range(0, len(batch_pdf), TOKENIZED_AT_ONCE):
            part_pdf = batch_pdf.iloc[start : start + TOKENIZED_AT_ONCE]
            window.add(part_pdf, _worker_encoder(spec).tokenize(part_pdf["prompt"].tolist()))
            is_full = window.num_tokens >= WINDOW_BATCHES * spec.batch_tokens
            if is_full or len(window.hashes) >= WINDOW_TEXTS:
                yield window
                window = Window()
    if window.hashes:
        yield window


def _worker_encoder(spec: EncodeSpec) -> "Encoder":
    return _load_once(spec, task_device(spec.device))


@lru_cache(maxsize=1)
def _load_once(spec: EncodeSpec, device: str) -> "Encoder":
    """The encoder of this worker process, which Spark keeps for the next tasks."""
    os.environ["RAYON_NUM_THREADS"] = str(spec.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = str(spec.threads > 1).lower()
    import torch

    from models.encoder import Encoder

    torch.set_num_threads(spec.threads)
    try:
        return Encoder.load(model_source(spec.model), spec.revision, spec.pooling, spec.max_tokens, spec.dtype, device)
    except (ConfigError, ValueError) as error:
        raise ValueError(f"{BAD_MODEL}{error}") from error
