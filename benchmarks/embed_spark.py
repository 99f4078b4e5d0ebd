"""The embedding stage on Spark against the bare Python loop, with 0, 1, 10 and 100% of the texts changed.

Sizes are percents of 20,000 short product texts (quick: 2,000), MiniLM in fp32, one thread a process. The loop reads
the changed texts from a list and writes their vectors to a file; the stage renders all prompts, finds the changed ones,
encodes, commits, checks and writes the matrix. Models are loaded before the clock starts.
"""

import json
import shutil
import sys
from datetime import date, datetime
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession

from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.process import ROOT
from benchmarks.ratios import Ratio, Target
from benchmarks.spark import start_session
from learn_spark.core.config import Config, load_config
from learn_spark.core.ledger import Ledger
from learn_spark.core.progress import Progress
from learn_spark.core.schemas import CONTENT_EMBEDDINGS, ITEM_INDEX, ITEMS
from learn_spark.core.steps import Context, Marks
from learn_spark.core.tables import Tables
from learn_spark.embedding.encoders import model_source
from learn_spark.embedding.job import embed_items
from learn_spark.embedding.udf import register_learn_embed

TEXTS, QUICK_TEXTS = 20_000, 2_000
END = date(2011, 12, 10)
WORDS = (
    "white red blue heart lantern holder mug tea lamp metal vintage wooden box paper chain lights set of small large"
)

CHECK = "benchmarks.embed_spark:check_vectors"
BENCH = Benchmark(
    name="embed_spark",
    sizes=(0, 1, 10, 100),
    quick_sizes=(0, 10, 100),
    prepare="benchmarks.embed_spark:prepare",
    contenders=(
        Contender("loop", "benchmarks.embed_spark:loop", CHECK),
        Contender("one_worker", "benchmarks.embed_spark:one_worker", CHECK),
        Contender("two_workers", "benchmarks.embed_spark:two_workers", CHECK),
    ),
    ratios=(
        Ratio("loop", "one_worker", Target(">=", 0.9), at=100),
        Ratio("one_worker", "two_workers"),
    ),
)


def prepare(task: Task) -> None:
    """The texts before and after the change, a seeded draw of words, and the lake that has those before it."""
    rng = np.random.default_rng(3)
    words = np.array(WORDS.split())
    lengths = rng.integers(2, 8, size=2 * _texts(task))
    titles = [f"{' '.join(rng.choice(words, length))} {n}" for n, length in enumerate(lengths)]
    shutil.rmtree(_folder(task), ignore_errors=True)
    _folder(task).mkdir(parents=True)
    (_folder(task) / "titles.json").write_text(json.dumps(titles), encoding="utf-8")
    spark = start_session(task, 1)
    context = _context(spark, _config(_folder(task) / "lake", workers=2))
    numbered = [(str(n), n + 1) for n in range(_texts(task))]
    context.tables.append(ITEM_INDEX.name, spark.createDataFrame(numbered, ITEM_INDEX.columns_ddl))
    _add_versions(context, titles[: _texts(task)], "2010-12-02")
    embed_items(context, [END])


def loop(task: Task) -> None:
    """Encoder and texts alone, in one process of one thread."""
    import torch

    from models.encoder import Encoder

    torch.set_num_threads(1)
    settings = _config(task.output, workers=1).embedding
    encoder = Encoder.load(model_source(settings.model), None, "mean", settings.max_tokens, "float32", "cpu")
    encoder.encode(["warm up"], settings.batch_tokens)
    prompts = [f"{title}." for title in _changed(task)]
    task.output.mkdir(parents=True)
    with task.clock():
        vectors_ND, _ = encoder.encode(prompts, settings.batch_tokens)
        vectors_ND.astype("<f2").tofile(task.output / "vectors.f16")


def one_worker(task: Task) -> None:
    """The stage with one process that encodes."""
    _stage(task, 1)


def two_workers(task: Task) -> None:
    """The stage with two."""
    _stage(task, 2)


def check_vectors(task: Task) -> None:
    """How many texts were encoded, and the mean of their vectors."""
    vectors = np.fromfile(task.output / "vectors.f16", "<f2").astype(np.float64)
    task.figures["checksum"] = f"{len(vectors)}:{vectors.mean() if len(vectors) else 0:.5f}"


def _stage(task: Task, workers: int) -> None:
    lake = task.output / "lake"
    shutil.copytree(_folder(task) / "lake", lake)
    config = _config(lake, workers)
    spark = start_session(task, 1)
    context = _context(spark, config)
    register_learn_embed(spark, config)
    spark.range(0, 2 * workers, 1, workers).selectExpr("learn_embed(string(id))").collect()
    _add_versions(context, _changed(task), "2010-12-03")
    known_df = context.tables.read(CONTENT_EMBEDDINGS.name, context.tables.version(CONTENT_EMBEDDINGS.name))
    with task.clock():
        details = embed_items(context, [END]).details
    task.figures["texts_encoded"] = details["texts_encoded"]
    new_df = context.tables.read(CONTENT_EMBEDDINGS.name).join(known_df, on="text_hash", how="left_anti")
    (task.output / "vectors.f16").write_bytes(b"".join(row.embedding for row in new_df.select("embedding").collect()))


def _add_versions(context: Context, titles: list[str], day: str) -> None:
    """A version of each of the first items, valid from a day on."""
    if titles:
        at = datetime.fromisoformat(f"{day}T00:00:00+00:00")
        rows = [(str(n), at, title, None, None, None, None, None, at.date()) for n, title in enumerate(titles)]
        context.tables.append(ITEMS.name, context.spark.createDataFrame(rows, ITEMS.columns_ddl))


def _context(spark: SparkSession, config: Config) -> Context:
    tables = Tables(spark, config.lake.root)
    return Context(config, spark, tables, Ledger(spark, tables), Marks(config, {}), Progress(spark))


def _config(lake: Path, workers: int) -> Config:
    return load_config(
        ROOT / "conf" / "base.yaml",
        [f"lake.root={lake}", f"embedding.workers={workers}", "embedding.threads=1", "embedding.device=cpu"],
    )


def _changed(task: Task) -> list[str]:
    titles = json.loads((_folder(task) / "titles.json").read_text(encoding="utf-8"))[_texts(task) :]
    return titles[: round(len(titles) * task.size / 100)]


def _folder(task: Task) -> Path:
    return task.folder / "embed_spark" / f"{_texts(task)}"


def _texts(task: Task) -> int:
    return QUICK_TEXTS if task.quick else TEXTS


if __name__ == "__main__":
    sys.exit(main(BENCH))
