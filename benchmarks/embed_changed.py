"""The embedding job after 0, 1, 10 and 100% of the texts changed, against the same job on a lake without vectors.

Sizes are percentages of 10,000 mixed texts (8 to 256 tokens, as in `embed`; quick: 300). Both run the whole job: they
render and compare texts, encode new ones, and write the content matrix; `tokens` is the number that the model read.
Their matrices must agree with the bare encoder's vectors of the texts after the change.
"""

import shutil
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks import minilm
from benchmarks.child import Task
from benchmarks.embed_spark import job_context
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.ratios import Ratio, Target
from benchmarks.spark import start_session
from learn_spark.embedding.job import embed_items
from learn_spark.lake.artifacts import ARTIFACTS
from learn_spark.lake.schemas import CONTENT_EMBEDDINGS, INTERVALS, ITEM_INDEX, ITEM_TEXT, ITEMS
from learn_spark.runs.steps import Context

TEXTS, QUICK_TEXTS, MEDIAN_TOKENS = 10_000, 300, 40
WARMING_TEXTS = 1024  # enough for two workers
WORKERS, THREADS = 2, 1
FIRST, CHANGE = datetime(2011, 3, 1, tzinfo=UTC), timedelta(days=1)
TODAY = date(2011, 12, 1)
LEAST_COSINE = 0.9999

CHECK = "benchmarks.embed_changed:check"
BENCH = Benchmark(
    name="embed_changed",
    sizes=(0, 1, 10, 100),
    quick_sizes=(0, 1, 10, 100),
    prepare="benchmarks.embed_changed:prepare",
    contenders=(
        Contender("changed", "benchmarks.embed_changed:changed", CHECK),
        Contender("all", "benchmarks.embed_changed:everything", CHECK),
    ),
    ratios=(
        Ratio("changed", "all", Target("<=", 0.25), at=10),
        Ratio("changed", "all", Target("<=", 0.015), measure="tokens", at=1),
    ),
)


def prepare(task: Task) -> None:
    """Makes the lake before the change, by the job, and the vectors of all texts, by the encoder alone."""
    folder = _inputs(task)
    if (folder / "vectors.npy").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    context = job_context(start_session(task, events=0), folder / "lake", WORKERS, THREADS)
    texts = minilm.product_texts(2 * _count(task), MEDIAN_TOKENS)
    _add_versions(context, dict(enumerate(texts[: _count(task)])), FIRST, are_new=True)
    embed_items(context, [TODAY])
    (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    vectors, _ = minilm.load_encoder("float32").encode([f"{text}." for text in texts], minilm.BATCH_TOKENS)
    np.save(folder / "vectors.npy", vectors)


def changed(task: Task) -> None:
    """The job on a lake that has the vectors of the texts before the change."""
    _embed(task, (ITEMS.name, ITEM_INDEX.name, ITEM_TEXT.name, CONTENT_EMBEDDINGS.name, ARTIFACTS))


def everything(task: Task) -> None:
    """The job on a lake that has only items."""
    _embed(task, (ITEMS.name, ITEM_INDEX.name))


def check(task: Task) -> None:
    """Compares every item's row of the matrix with the encoder's vector of its text after the change."""
    from models.data.content import ContentMatrix

    (meta,) = (task.output / "lake").rglob("meta.json")
    matrix = ContentMatrix(meta.parent)
    if matrix.rows != _count(task) + 1:
        return minilm.verdict(task, False, f"{matrix.rows} rows")
    found = matrix.gather(np.arange(1, matrix.rows)).numpy()
    expected = np.load(_inputs(task) / "vectors.npy")
    rows = np.arange(_count(task)) + np.where(_is_changed(task), _count(task), 0)
    cosine = (minilm.unit(found) * minilm.unit(expected[rows])).sum(axis=1).min()
    minilm.verdict(task, cosine >= LEAST_COSINE, f"cosine {cosine:.5f}")


def _embed(task: Task, kept: tuple[str, ...]) -> None:
    spark = start_session(task, events=0)
    warming = job_context(spark, task.output.with_name("scratch") / "lake", WORKERS, THREADS)
    _add_versions(warming, dict(enumerate(minilm.product_texts(WARMING_TEXTS, 8))), FIRST, are_new=True)
    embed_items(warming, [TODAY])
    for name in (INTERVALS.name, *kept):
        shutil.copytree(_inputs(task) / "lake" / name, task.output / "lake" / name)
    context = job_context(spark, task.output / "lake", WORKERS, THREADS)
    later = (_inputs(task) / "texts.txt").read_text(encoding="utf-8").split("\n")[_count(task) :]
    chosen = np.flatnonzero(_is_changed(task)).tolist()
    if chosen:
        _add_versions(context, {number: later[number] for number in chosen}, FIRST + CHANGE, are_new=False)
    with task.clock():
        details = embed_items(context, [TODAY]).details
    task.figures = {name: details[name] for name in ("texts_encoded", "tokens")}


def _add_versions(context: Context, titles: dict[int, str], valid_from: datetime, are_new: bool) -> None:
    """Adds a version of each numbered item, and a row of the index if it is new."""
    rows = [
        (f"i{number}", valid_from, title, None, None, None, None, None, valid_from.date())
        for number, title in titles.items()
    ]
    context.tables.append(ITEMS.name, context.spark.createDataFrame(rows, ITEMS.columns_ddl))
    if are_new:
        index = [(f"i{number}", number + 1) for number in titles]
        context.tables.append(ITEM_INDEX.name, context.spark.createDataFrame(index, ITEM_INDEX.columns_ddl))


def _is_changed(task: Task) -> np.ndarray:
    """Which items have changed texts: `task.size` percent of them, drawn at random."""
    drawn = np.random.default_rng(7).permutation(_count(task))
    return drawn < round(_count(task) * task.size / 100)


def _count(task: Task) -> int:
    return QUICK_TEXTS if task.quick else TEXTS


def _inputs(task: Task) -> Path:
    return task.folder / "embed_changed_inputs" / str(_count(task))


if __name__ == "__main__":
    sys.exit(main(BENCH))
