"""Retrieval and ranker figures of the published features: Spark exports rows, another process computes."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from pyspark.sql import DataFrame

from learn_spark.bridge.launch import run_trainer
from learn_spark.bridge.snapshots import export, read_manifest
from learn_spark.bridge.trained import towers_path
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import ConfigError
from learn_spark.evaluation.ranking import CATEGORICAL, PAIR_KEY, base_columns, ranker_rows, tail_events
from learn_spark.evaluation.retrieval import retrieval_items, retrieval_pairs, retrieval_users
from learn_spark.releases.registry import Release
from learn_spark.releases.release import published_release, visible
from learn_spark.runs.ledger import StepResult, fingerprint
from learn_spark.runs.steps import Context

READS = (
    "samples",
    "interactions",
    "sequences",
    "items",
    "item_index",
    "user_features",
    "item_features",
    "pair_features",
)


def evaluate_features(context: Context, days: Sequence[date]) -> StepResult:
    """Measures the features of all feature days; `days` is the day on which the windows end.

    Snapshots and figures bear the versions of the tables that they were made from: a killed run finds what it
    finished, and late events lead to new figures.

    Returns:
        `details`: `retrieval` and `ranker`, with the figures of `models.evaluation.evaluate_retrieval` and
        `models.evaluation.evaluate_ranker`.
    """
    windows = context.config.windows
    release = published_release(context)
    if release is None:
        raise ConfigError("no release by these models is published: run write_features first")
    mark = fingerprint(context.mark("evaluate_features", windows.end), context.tables.versions(READS))
    retrieval, retrieval_rows = _retrieval(context, release, mark)
    ranker, ranker_rows_ = _ranker(context, release, mark)
    details = {"retrieval": retrieval, "ranker": ranker}
    return StepResult(rows_in=retrieval_rows + ranker_rows_, rows_out=0, details=details)


def _retrieval(context: Context, release: Release, mark: str) -> tuple[dict[str, object], int]:
    settings = context.config.evaluation
    users = visible(context, release, "user_features")
    items = visible(context, release, "item_features")
    snapshots = {
        "users": _export(context, retrieval_users(context, users), "users", mark, ["user_id"]),
        "items": _export(context, retrieval_items(context, items), "items", mark, ["item_idx"]),
        "pairs": _export(context, retrieval_pairs(context), "pairs", mark, ["user_id", "item_id"]),
    }
    spec = {
        **snapshots,
        "content_matrix": matrix_path(context),
        "towers": towers_path(context),
        "popularity_weight": context.config.retrieval.popularity_weight,
        "threads": settings.run.threads,
    }
    context.progress.say("evaluate-retrieval: towers, popularity, last item, mean content")
    figures = run_trainer("evaluate-retrieval", spec, context.tables.artifact("evaluation", f"retrieval-{mark}"))
    return figures, sum(_rows(path) for path in snapshots.values())


def _ranker(context: Context, release: Release, mark: str) -> tuple[dict[str, object], int]:
    settings = context.config.evaluation
    rows = _export(context, ranker_rows(context, release), "ranker", mark, PAIR_KEY)
    spec = {
        "rows": rows,
        "content_matrix": matrix_path(context),
        "base": base_columns(context.config.samples),
        "categorical": CATEGORICAL,
        "cold_events": context.config.features.cold_events,
        "tail_events": tail_events(context),
        "bootstrap": settings.bootstrap,
        "seed": settings.seed,
        "num_seeds": settings.num_seeds,
        "ranker": settings.ranker.model_dump(),
        "threads": settings.run.threads,
    }
    context.progress.say(f"evaluate-ranker: {_rows(rows):,} samples, trees with and without the embeddings")
    figures = run_trainer("evaluate-ranker", spec, context.tables.artifact("evaluation", f"ranker-{mark}"))
    return figures, _rows(rows)


def _export(context: Context, df: DataFrame, name: str, mark: str, key: Sequence[str]) -> Path:
    version = context.tables.version("interactions")
    seed = context.config.evaluation.seed
    return export(context, df, f"evaluation-{name}-{mark}", key, "interactions", version, seed)


def _rows(snapshot: Path) -> int:
    return int(read_manifest(snapshot)["rows"])
