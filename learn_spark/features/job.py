"""Feature tables of the asked days: score, write, check, and publish with one row written last."""

import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.bridge.programs import cvr_to_score, towers_to_score
from learn_spark.bridge.scoring import (
    TYPES,
    score_items,
    score_pairs,
    score_users,
    with_codes,
    without_nan_scores,
)
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import QualityError, ReleaseRefused
from learn_spark.features.canaries import Canaries
from learn_spark.features.checks import checked
from learn_spark.features.item_codes import ItemCodes, codebook_before, without_codes
from learn_spark.features.item_life import due_items, write_item_life
from learn_spark.features.neighbours import neighbours_in_words
from learn_spark.lake.arrow_rows import ArrowRows, gathered
from learn_spark.lake.days import days_predicate
from learn_spark.lake.frames import counted, tasks_for
from learn_spark.lake.point_in_time import latest_before
from learn_spark.quality.gates import require
from learn_spark.releases.registry import EXPIRED, FAILED, PUBLISHED, ROLLED_BACK, Release, set_status
from learn_spark.releases.release import (
    is_current,
    own_rows,
    plan_release,
    record,
    status_of,
    visible,
    with_counts,
)
from learn_spark.runs.details import FeatureDetails, newest_details
from learn_spark.runs.ledger import StepResult
from learn_spark.runs.steps import WRITE_FEATURES, Context

_RANKER_STAGES = ("ranker_train", "ranker_test")
_PAIR = ("user_id", "item_id", "event_ts", "ds")
_MOST_PER_TASK, _FEWEST_PER_TASK = 100_000, 1_000  # rows that towers score


def write_features(context: Context, days: Sequence[date]) -> StepResult:
    """Scores users, items and the ranker's pairs of these days, checks them, publishes them as one release.

    Raises:
        ReleaseRefused: a gate fails. The release's row then says `failed`, the current release stays, and the rows that
            were written are invisible to readers.
    """
    release, base = plan_release(context, days)
    codebook = codebook_before(context, release)
    life = write_item_life(context, days, _pinned(context, release, "interactions"))
    due = {
        "users": _due_users(context, release),
        "items": due_items(life, release.days, context.config.windows.towers_end),
        "pairs": _due_pairs(context, release),
    }
    rows_due = {name: rows for (name,), rows in counted(due).items()}
    numbered = due["items"].join(_pinned(context, release, "item_index"), on="item_id", how="inner")
    codes = ItemCodes.of(context, release, base, numbered, codebook)
    status = status_of(context, release)
    is_published = status == PUBLISHED  # by a run that was killed before the ledger heard of it
    if not is_published:
        if status == ROLLED_BACK:  # who reads it by its id must not find it half done
            set_status(context.tables, [release], EXPIRED)
        score = partial(score_users, event_types=context.config.sequences.event_types)
        _write_side(context, release, "user", score, due["users"], rows_due.get("users", 0))
        _write_items(context, release, numbered, codes, rows_due.get("items", 0))
        if "pairs" in rows_due:  # most nights have no samples; then nothing is read
            _write_pairs(context, release, due["pairs"])
    release = with_counts(context, release)
    gates, widths, figures = checked(context, release, base, rows_due)
    canaries = Canaries.of(context, release)
    gates += [*canaries.gates, *(codes.gates(context, release, base) if codes else ())]
    try:
        require(gates)
    except QualityError as error:
        record(context, release, gates, widths, FAILED)
        raise ReleaseRefused(f"release {release.release_id}: {error}") from None
    canaries.keep()
    release = codes.keep(context, release) if codes else release
    if not is_published or not is_current(context, release):  # another one may have been published since
        record(context, release, gates, widths, PUBLISHED)
    own = [release.parts[day] for day in release.days]
    counts = {name: sum(getattr(part, name) for part in own) for name in ("users", "items", "pairs")}
    details = FeatureDetails(
        release_id=release.release_id,
        **counts,
        gates=[gate.as_json() for gate in gates],
        neighbours=_neighbours(context, release, base, life),
    )
    rows = sum(counts.values())
    return StepResult(rows_in=rows, rows_out=rows, details=details.as_json() | figures)


def _due_users(context: Context, release: Release) -> DataFrame:
    config = context.config
    histories = _pinned(context, release, "user_history").where(days_predicate("ds", release.days))
    enough = min(config.features.cold_events, config.sequences.history_length)
    types = [TYPES] if config.sequences.event_types else []
    return histories.select("user_id", "ds", "item_idx", *types, (F.size("item_idx") < enough).alias("is_cold"))


def _due_pairs(context: Context, release: Release) -> DataFrame:
    """The ranker's samples of these days."""
    is_due = F.expr(days_predicate("ds", release.days)) & F.col("stage").isin(*_RANKER_STAGES)
    return _pinned(context, release, "samples").where(is_due).select(*_PAIR)


def _write_items(context: Context, release: Release, due: DataFrame, codes: ItemCodes | None, count: int) -> None:
    """Scores the `count` due items; with codes each keeps its own or gets some."""
    if codes is None:
        _write_side(context, release, "item", score_items, without_codes(due), count)
    else:
        _write_side(context, release, "item", score_items, codes.kept(context, due), count, with_codes(codes.codebook))


def _write_side(
    context: Context,
    release: Release,
    side: str,
    score: Callable[..., ArrowRows],
    due: DataFrame,
    count: int,
    change: Callable[[pa.RecordBatch], pa.RecordBatch] = lambda rows: rows,
) -> None:
    """Scores the `count` due users or items, and changes the batches of their rows."""
    tasks = tasks_for(context.spark, count, _MOST_PER_TASK, _FEWEST_PER_TASK)
    scored = score(
        _of_release(due.repartition(tasks, f"{side}_id", "ds"), release),
        towers_to_score(context),
        matrix_path(context),
        context.config.features.run.batch_rows,
    )
    _write(context, release, f"{side}_features", gathered(scored.then(change), tasks, len(release.days)))


def _write_pairs(context: Context, release: Release, due: DataFrame) -> None:
    """Scores the due pairs. A user or item without a vector on the sample's day has zeros."""
    users = visible(context, release, "user_features").select("user_id", "ds", "user_emb")
    items = visible(context, release, "item_features").select("item_id", "ds", "item_emb")
    with_user = latest_before(due, users, "user_id").drop("feature_ds")
    pairs = latest_before(with_user, items, "item_id").drop("feature_ds").hint("rebalance", "ds")  # few files per day
    scored = score_pairs(_of_release(pairs, release), cvr_to_score(context), context.config.features.run.batch_rows)
    _write(context, release, "pair_features", scored.then(without_nan_scores))


def _of_release(rows: DataFrame, release: Release) -> DataFrame:
    return rows.withColumn("release_id", F.lit(release.release_id))


def _write(context: Context, release: Release, table: str, rows: DataFrame | ArrowRows) -> None:
    started = time.monotonic()
    written, seconds = context.tables.rewrite(table, rows, own_rows(release)), time.monotonic() - started
    speed = f"{written / seconds:,.0f} rows/s" if written else "none was due"
    context.progress.say(f"{table}: {written:,} rows scored and written in {seconds:.1f} s, {speed}")


def _pinned(context: Context, release: Release, table: str) -> DataFrame:
    """An input as of the version that the release's id names."""
    return context.tables.read(table, release.inputs[table])


def _neighbours(context: Context, release: Release, base: Release | None, life: DataFrame) -> list[dict[str, object]]:
    """The nearest neighbours of the most popular items, in words.

    A nightly release has too few new items to show anything, so it keeps the last full list.
    """
    if base is not None and context.config.windows.towers_end not in release.days:
        newest = newest_details(context.ledger.recorded().values(), WRITE_FEATURES)
        return FeatureDetails.from_json(newest).neighbours
    titles = context.tables.read("items").groupBy("item_id").agg(F.max_by("title", "valid_from").alias("title"))
    items = visible(context, release, "item_features").select("item_id", "ds", "item_emb")
    return neighbours_in_words(items, titles, life.select("item_id", "events"))
