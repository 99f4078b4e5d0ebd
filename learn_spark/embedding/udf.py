"""The GPU pandas UDFs: prompts in, vectors out, one model per worker process.

Shapes: N texts of a window, D encoder width.
"""

import os
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pyspark import Accumulator, TaskContext
from pyspark.errors import PySparkException
from pyspark.sql import Column, SparkSession
from pyspark.sql.functions import pandas_udf

from learn_spark.bridge.workers import keep_loaded
from learn_spark.config.load import Config
from learn_spark.embedding.encoders import encoder_id, model_source
from learn_spark.embedding.work import Span, Work
from learn_spark.errors import ConfigError
from models.contract.content_matrix import FP16_MAX
from models.contract.failures import BadInput

if TYPE_CHECKING:
    from models.encoder.encoder import Encoder

OUTPUT_SCHEMA = "text_hash string, encoder_id string, dim int, embedding binary, norm float, flag string"
BAD_MODEL = "bad model: "
EMPTY, NOT_FINITE, BEYOND_FP16, OUT_OF_MEMORY = "empty", "not finite", "beyond fp16", "out of memory"
# A whole window is sorted by length: it is large enough for even batches, small enough to hold its vectors.
WINDOW_BATCHES = 64
WINDOW_TEXTS = 8192
TOKENIZED_AT_ONCE = 1024


@dataclass(frozen=True)
class EncodeSpec:
    """What a worker needs to encode; travels with the task.

    Attributes:
        options: how the model's store is reached, if the model lies in a store.
    """

    encoder_id: str
    model: str
    revision: str | None
    pooling: str
    max_tokens: int
    batch_tokens: int
    dtype: str
    device: str
    threads: int
    layer: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, config: Config) -> "EncodeSpec":
        """The spec of a config.

        Raises:
            ConfigError: the model cannot be found or lacks a file.
        """
        settings = config.embedding
        return cls(
            encoder_id(config),
            settings.model,
            settings.revision,
            settings.pooling,
            settings.max_tokens,
            settings.run.batch_tokens,
            settings.dtype,
            settings.run.device,
            settings.run.threads,
            settings.layer,
            config.lake.options,
        )


@dataclass
class Window:
    """Tokenised texts, waiting to be sorted and encoded; a window may span several Arrow batches."""

    hashes: list[str] = field(default_factory=list)
    tokens: list[Sequence[int]] = field(default_factory=list)
    num_tokens: int = 0

    def add(self, hashes: Iterable[str], tokens: Sequence[Sequence[int]]) -> None:
        self.hashes.extend(hashes)
        self.tokens.extend(tokens)
        self.num_tokens += sum(map(len, tokens))


def encode_function(
    spec: EncodeSpec, work: Accumulator[Work]
) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """The function for `mapInPandas`, from (text_hash, prompt) to OUTPUT_SCHEMA.

    Args:
        spec: the encoder and how to run it.
        work: counts what the model read; a task that is repeated after the loss of an executor counts again.
    """

    def encode(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        from models.data.prefetch import prefetched

        started = time.time()
        encoder = worker_encoder(spec)  # here, since torch sets its number of threads per thread
        for window in prefetched(_windows(batches, spec), depth=1):
            too_large: list[int] = []
            vectors_ND = encoder.encode_tokens(window.tokens, spec.batch_tokens, too_large)
            work.add(Work(texts=sum(map(bool, window.tokens)), tokens=window.num_tokens))
            yield as_rows(window, vectors_ND, too_large, spec.encoder_id)
        work.add(Work(spans=(Span(_gpu_address() or spec.device, started, time.time()),)))

    return encode


def as_rows(window: Window, vectors_ND: np.ndarray, too_large: Sequence[int], encoder_id: str) -> pd.DataFrame:
    """The rows of content_embeddings for a window's texts; a flagged text has zeros."""
    largest_N = np.abs(vectors_ND).max(axis=1, initial=0.0)
    norms_N = np.linalg.norm(vectors_ND, axis=1)
    flags_N = np.full(len(vectors_ND), None, dtype=object)
    flags_N[~((norms_N < FP16_MAX) & (largest_N < FP16_MAX))] = BEYOND_FP16
    flags_N[~np.isfinite(vectors_ND).all(axis=1)] = NOT_FINITE
    flags_N[list(too_large)] = OUT_OF_MEMORY
    flags_N[[not ids for ids in window.tokens]] = EMPTY
    is_flagged_N = flags_N != None  # noqa: E711 (element by element)
    half_ND = np.where(is_flagged_N[:, None], 0, vectors_ND).astype("<f2")
    return pd.DataFrame(
        {
            "text_hash": window.hashes,
            "encoder_id": encoder_id,
            "dim": np.int32(half_ND.shape[1]),
            "embedding": [row_D.tobytes() for row_D in half_ND],
            "norm": np.where(is_flagged_N, 0, norms_N),
            "flag": flags_N,
        }
    )


def embed_function(config: Config) -> Callable[..., Column]:
    """The pandas UDF from a text to its vector as array<float>.

    The text is used unchanged, so a prompt from item_text gives the vector that the stage stores for it, in float32;
    null stays null, an empty text gives zeros. A worker keeps its model from query to query.

    Raises:
        ConfigError: the model cannot be found or lacks a file.
    """
    spec = EncodeSpec.of(config)

    def learn_embed(texts: Iterator[pd.Series]) -> Iterator[pd.Series]:
        for text_N in texts:
            encoder = worker_encoder(spec)
            vectors_ND = encoder.encode_tokens(_tokenized(encoder, text_N.fillna("").tolist()), spec.batch_tokens)
            yield pd.Series([None if text is None else row_D for text, row_D in zip(text_N, vectors_ND, strict=True)])

    # pyspark's overloads know no function of iterators
    return pandas_udf(learn_embed, "array<float>")  # pyright: ignore[reportCallIssue, reportArgumentType]


def register_learn_embed(spark: SparkSession, config: Config, name: str = "learn_embed") -> None:
    """Registers the SQL function `learn_embed(text)`: see `embed_function`."""
    spark.udf.register(name, embed_function(config))


def task_device(asked: str) -> str:
    """The GPU that Spark assigned to this task; without one, or if cpu is asked for, `asked`, with `auto` as cpu."""
    address = _gpu_address()
    if address is not None and asked != "cpu":
        return f"cuda:{address}"
    return "cpu" if asked == "auto" else asked


def _gpu_address() -> str | None:
    task = TaskContext.get()
    gpus = task.resources().get("gpu") if task is not None else None
    return gpus.addresses[0] if gpus is not None and gpus.addresses else None


def _windows(batches: Iterable[pd.DataFrame], spec: EncodeSpec) -> Generator[Window, None, None]:
    window = Window()
    for batch_pdf in batches:
        for start in range(0, len(batch_pdf), TOKENIZED_AT_ONCE):
            part_pdf = batch_pdf.iloc[start : start + TOKENIZED_AT_ONCE]
            window.add(part_pdf["text_hash"], _tokenized(worker_encoder(spec), part_pdf["prompt"].tolist()))
            is_full = window.num_tokens >= WINDOW_BATCHES * spec.batch_tokens
            if is_full or len(window.hashes) >= WINDOW_TEXTS:
                yield window
                window = Window()
    if window.hashes:
        yield window


def _tokenized(encoder: "Encoder", texts: list[str]) -> list[Sequence[int]]:
    """Token ids; none for an empty text, which the model then never reads."""
    rest = iter(encoder.tokenize([text for text in texts if text]))
    return [next(rest) if text else [] for text in texts]


def count_function(spec: EncodeSpec) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """The function for `mapInPandas` from (prompt) to (tokens), how many the encoder would read; needs no weights."""

    def count(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        from models.contract.model_folder import locate
        from models.encoder.pretrained import load_tokenizer
        from models.encoder.tokens import first_tokens

        with _named_bad():
            tokenizer = load_tokenizer(locate(model_source(spec.model, spec.options), spec.revision))
        for batch_pdf in batches:
            tokens = first_tokens(tokenizer, batch_pdf["prompt"].tolist(), spec.max_tokens)
            yield pd.DataFrame({"tokens": [len(ids) for ids in tokens]})

    return count


@contextmanager
def bad_models_named() -> Iterator[None]:
    """Wraps Spark actions that run these functions: turns a worker's error about the model into one line.

    Raises:
        ConfigError: says what is wrong with the model; other errors pass unchanged.
    """
    try:
        yield
    except PySparkException as error:
        found = re.search(re.escape(BAD_MODEL) + ".*", str(error))
        if found:
            raise ConfigError(f"embed_items: {found.group().removeprefix(BAD_MODEL)}") from None
        raise


def worker_encoder(spec: EncodeSpec) -> "Encoder":
    """The encoder of this worker process, on the device of this task."""
    return _load_once(spec, task_device(spec.device))


@lru_cache(maxsize=1)
def _load_once(spec: EncodeSpec, device: str) -> "Encoder":
    """The encoder of this worker process, which Spark keeps for the next tasks."""
    os.environ["RAYON_NUM_THREADS"] = str(spec.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = str(spec.threads > 1).lower()
    import torch

    from models.encoder.encoder import Encoder

    torch.set_num_threads(spec.threads)
    with _named_bad():
        source = model_source(spec.model, spec.options)
        asked = (source, spec.revision, spec.pooling, spec.max_tokens, spec.dtype, device, spec.layer)
        encoder = Encoder.load(*asked)
    keep_loaded()
    return encoder


@contextmanager
def _named_bad() -> Iterator[None]:
    """Wraps the loading of a model in a worker: marks its errors for `bad_models_named`."""
    try:
        yield
    except (ConfigError, BadInput) as error:
        raise ValueError(f"{BAD_MODEL}{error}") from error
