"""MiniLM on product texts inside Spark against the same encoder in a bare Python loop, two threads in all.

Texts and sizes (median tokens per text) are those of `embed`. `one` and `two` are the embedding job's own path, from
item_text in Delta to committed rows of content_embeddings: one worker process with two threads, and two with one thread
each, as jobs run by default. `loop` is the encoder alone; its clock stops after the last vector, before anything is
written. Start-up is not measured: before the clock starts, every worker process has loaded its model and has encoded
and committed a few other texts.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks import minilm
from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.process import ROOT
from benchmarks.ratios import Ratio, Target
from benchmarks.spark import start_session
from learn_spark.config.load import load_config
from learn_spark.embedding.encoders import encoder_id
from learn_spark.embedding.prompts import template, text_hash
from learn_spark.embedding.store import encode_new_texts
from learn_spark.lake.schemas import ITEM_TEXT
from learn_spark.lake.tables import Tables
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.runs.ledger import Ledger
from learn_spark.runs.progress import Progress
from learn_spark.runs.steps import Context

TEMPLATE = template("title")
WARMING_TEXTS = 1024  # enough for two workers
LEAST_COSINE = 0.9999  # to sentence-transformers' vectors, through fp16

CHECK = "benchmarks.embed_spark:check"
BENCH = Benchmark(
    name="embed_spark",
    sizes=tuple(minilm.RANGES),
    quick_sizes=tuple(minilm.RANGES),
    prepare="benchmarks.minilm:prepare",
    contenders=(
        Contender("loop", "benchmarks.embed_spark:loop", CHECK),
        Contender("one", "benchmarks.embed_spark:one_worker", CHECK),
        Contender("two", "benchmarks.embed_spark:two_workers", CHECK),
    ),
    ratios=(
        Ratio("loop", "one", Target(">=", 0.9)),
        Ratio("loop", "two", Target(">=", 0.9)),
        Ratio("one", "two"),
    ),
)


def loop(task: Task) -> None:
    """The encoder over all texts at once, as `embed` measures it."""
    encoder, texts = minilm.load_encoder("float32"), minilm.texts_of(task)
    encoder.encode(texts[:WARMING_TEXTS], minilm.BATCH_TOKENS)
    with task.clock():
        vectors, tokens = encoder.encode(texts, minilm.BATCH_TOKENS)
    task.figures = {"texts": len(texts), "tokens": tokens}
    rows = {"text_hash": _hashes(texts), "embedding": [row.tobytes() for row in vectors.astype("<f2")]}
    (task.output / "content_embeddings").mkdir(parents=True)
    pq.write_table(pa.table(rows), task.output / "content_embeddings" / "part.parquet")


def one_worker(task: Task) -> None:
    """One task at a time, on two threads."""
    _encode(task, workers=1, threads=2)


def two_workers(task: Task) -> None:
    """Two tasks at a time, on one thread each."""
    _encode(task, workers=2, threads=1)


def check(task: Task) -> None:
    """Checks that every text is there once, under its own key, with sentence-transformers' vector."""
    rows = ds.dataset(task.output / "content_embeddings").to_table(["text_hash", "embedding"]).to_pydict()
    found = dict(zip(rows["text_hash"], rows["embedding"], strict=True))
    keys = _hashes(minilm.texts_of(task))
    if len(rows["text_hash"]) != len(keys) or found.keys() != set(keys):
        return minilm.verdict(task, False, f"{len(rows['text_hash'])} rows, {len(found)} texts of {len(keys)}")
    vectors = np.stack([np.frombuffer(found[key], "<f2") for key in keys]).astype(np.float32)
    cosine = (minilm.unit(vectors) * minilm.unit(minilm.vectors_of(task))).sum(axis=1).min()
    minilm.verdict(task, cosine >= LEAST_COSINE, f"cosine {cosine:.5f}")


def job_context(spark: SparkSession, lake: Path, workers: int, threads: int) -> Context:
    """The context of the embedding job on a lake of its own.

    Args:
        spark: the session.
        lake: the tables' folder; missing tables are created.
        workers: number of tasks that encode at once.
        threads: CPU threads per task.
    """
    settings = {"max_tokens": minilm.MAX_TOKENS, "run.batch_tokens": minilm.BATCH_TOKENS}
    settings |= {"run.workers": workers, "run.threads": threads}
    asked = [f"lake.root={lake}", *(f"embedding.{name}={value}" for name, value in settings.items())]
    config, tables = load_config(ROOT / "conf" / "base.yaml", asked), Tables(spark, lake)
    tables.create_all()
    return Context(config, spark, tables, Ledger(spark, tables), Fingerprints(config, {}), Progress(spark))


def _encode(task: Task, workers: int, threads: int) -> None:
    spark = start_session(task, events=0)
    warming = job_context(spark, task.output.with_name("scratch") / "lake", workers, threads)
    _add_texts(warming, [f"warming up {number}" for number in range(WARMING_TEXTS)])
    encode_new_texts(warming, TEMPLATE, encoder_id(warming.config))
    context = job_context(spark, task.output, workers, threads)
    _add_texts(context, minilm.texts_of(task))
    with task.clock():
        encoded = encode_new_texts(context, TEMPLATE, encoder_id(context.config))
    task.figures = {"texts": encoded.work.texts, "tokens": encoded.work.tokens}
    task.figures["device_seconds"] = round(encoded.work.device_seconds, 3)


def _add_texts(context: Context, texts: list[str]) -> None:
    rows = [(f"i{number}", text, TEMPLATE.version) for number, text in enumerate(texts)]
    texts_df = context.spark.createDataFrame(rows, "item_id string, prompt string, template_version string")
    keyed_df = texts_df.withColumn("text_hash", text_hash(TEMPLATE.version, F.col("prompt")))
    context.tables.append(ITEM_TEXT.name, keyed_df)


def _hashes(texts: list[str]) -> list[str]:
    """The keys as the documentation defines them."""
    return [hashlib.sha256(f"{TEMPLATE.version}\n{text}".encode()).hexdigest() for text in texts]


if __name__ == "__main__":
    sys.exit(main(BENCH))
