"""Feature tables of the asked days: score, write, check, and publish with one row written last."""

from collections.abc import Sequence
from datetime import date

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.core.config import Config
from learn_spark.core.days import days_predicate
from learn_spark.core.ledger import StepResult
from learn_spark.core.steps import Context
from learn_spark.embedding.matrix import matrix_path
from learn_spark.features.gates import (
    LARGEST_NORM,
    SMALLEST_NORM,
    Gate,
    VectorFigures,
    effective_rank,
    mean_cosine,
    require,
    vector_figures,
)
from learn_spark.features.health import item_sample, neighbours_in_words
from learn_spark.features.join import latest_before
from learn_spark.features.models import cvr_path, towers_path
from learn_spark.features.release import Release, plan_release, publish, visible
from learn_spark.features.scoring import score_items, score_pairs, score_users

_RANKER_STAGES = ("ranker_train", "ranker_test")
_PAIR = ("user_id", "item_id", "event_ts", "ds")


def write_features(context: Context, days: Sequence[date]) -> StepResult:
    """Scores users, items and the ranker's pairs of these days, checks them, publishes them as one release.

    Raises:
        QualityError: where a gate fails. Rows without a release row are invisible, and a rerun replaces them.
    """
    release = plan_release(context, days)
    life = item_life(context.tables.read("interactions"), context.config)
    _write_users(context, release)
    _write_items(context, release, life)
    _write_pairs(context, release)
    # Whatever must hold for a release is checked between here and `publish`.
    gates, figures = _checked(context, release)
    require(gates)
    publish(context, release, gates)
    rows = sum(figures["rows"].values())
    details = {
        "release_id": release.release_id,
        **figures.pop("rows"),
        "gates": [gate.as_json() for gate in gates],
        "neighbours": _neighbours(context, release, life),
        **figures,
    }
    return StepResult(
        rows_in=rows,
        rows_out=rows,
        details=details,
    )


def item_life(interactions: DataFrame, config: Config) -> DataFrame:
    """When an item appeared and when it stopped being cold.

    Returns:
        item_id, first_ds (day of its first event of any type), warm_ds (day on which its history events reach
        `features.cold_events`; null if never), events (history events in all).
    """
    is_history = F.col("event_type").isin(config.sequences.history_events)
    daily = interactions.groupBy("item_id", "ds").agg(F.count_if(is_history).alias("events"))
    so_far = Window.partitionBy("item_id").orderBy("ds").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    counted = daily.withColumn("total", F.sum("events").over(so_far))
    is_warm = F.col("total") >= config.features.cold_events
    return counted.groupBy("item_id").agg(
        F.min("ds").alias("first_ds"),
        F.min(F.when(is_warm, F.col("ds"))).alias("warm_ds"),
        F.max("total").alias("events"),
    )


def due_items(life: DataFrame, days: Sequence[date], first_day: date) -> DataFrame:
    """item_id, ds, is_cold: what `item_features` gets on these days.

    On the first feature day every item seen before it; on a later day the items that were first seen, or
    stopped being cold, on the day before.
    """
    known = F.when(F.col("first_ds") < F.lit(first_day), F.lit(first_day)).otherwise(F.date_add("first_ds", 1))
    warmed = F.when(F.col("warm_ds") >= F.lit(first_day), F.date_add("warm_ds", 1))
    dated = life.select(
        "item_id", "warm_ds", F.explode(F.array_distinct(F.array_compact(F.array(known, warmed)))).alias("ds")
    )
    is_cold = ~F.coalesce(F.col("warm_ds") < F.col("ds"), F.lit(False))
    return dated.where(days_predicate("ds", days)).select("item_id", "ds", is_cold.alias("is_cold"))


def _write_users(context: Context, release: Release) -> None:
    config = context.config
    histories = context.tables.read("user_history").where(days_predicate("ds", release.days))
    enough = min(config.features.cold_events, config.sequences.history_length)
    due = histories.select("user_id", "ds", "item_idx", (F.size("item_idx") < enough).alias("is_cold"))
    scored = score_users(
        due.repartition("user_id", "ds"),
        towers_path(context),
        matrix_path(context),
        config.features.batch_rows,
    )
    rows = scored.withColumn("release_id", F.lit(release.release_id))
    context.tables.overwrite_where("user_features", rows, release.rows)


def _write_items(context: Context, release: Release, life: DataFrame) -> None:
    config = context.config
    due = due_items(life, release.days, config.windows.towers_end)
    numbered = due.join(context.tables.read("item_index"), on="item_id", how="inner")
    scored = score_items(
        numbered.repartition("item_id", "ds"),
        towers_path(context),
        matrix_path(context),
        config.features.batch_rows,
    )
    rows = scored.withColumn("release_id", F.lit(release.release_id))
    context.tables.overwrite_where("item_features", rows, release.rows)


def _write_pairs(context: Context, release: Release) -> None:
    """The ranker's samples of these days; what was unknown on a sample's day is scored as zeros."""
    is_due = F.expr(days_predicate("ds", release.days)) & F.col("stage").isin(*_RANKER_STAGES)
    samples = context.tables.read("samples").where(is_due).select(*_PAIR)
    users = visible(context, release, "user_features").select("user_id", "ds", "user_emb")
    items = visible(context, release, "item_features").select("item_id", "ds", "item_emb")
    with_user = latest_before(samples, users, "user_id").drop("feature_ds")
    pairs = latest_before(with_user, items, "item_id").drop("feature_ds")
    scored = score_pairs(pairs, cvr_path(context), context.config.features.batch_rows)
    rows = scored.withColumn("release_id", F.lit(release.release_id))
    context.tables.overwrite_where("pair_features", rows, release.rows)


def _checked(context: Context, release: Release) -> tuple[list[Gate], dict[str, object]]:
    limits, first_day = context.config.features, context.config.windows.towers_end
    users = visible(context, release, "user_features")
    items = visible(context, release, "item_features")
    is_ours = F.col("release_id") == release.release_id
    pairs = context.tables.read("pair_features").where(is_ours)
    found = vector_figures(
        {
            "user_emb": (users.where(is_ours), "user_emb"),
            "item_emb": (items, "item_emb"),
            "mid_emb": (pairs, "mid_emb"),
        }
    )
    sample_NK = item_sample(items)
    rank, cosine = effective_rank(sample_NK), mean_cosine(sample_NK)
    first_users = users.where(F.col("ds") == F.lit(first_day)).count()
    gates = [
        Gate("users_on_first_day", first_users, lower=limits.min_users),
        Gate("items", found["item_emb"].rows, lower=1),
        *(Gate(f"{name}_not_finite", figure.not_finite, upper=0) for name, figure in found.items()),
        *_norm_gates(found),
        Gate("item_effective_rank", rank, lower=limits.min_effective_rank),
        Gate("item_mean_cosine", cosine, upper=limits.max_mean_cosine),
    ]
    gates += [
        Gate(f"{name}_content_coverage", found[f"{name}_emb"].coverage, lower=limits.min_content_coverage)
        for name in ("user", "item")
        if found[f"{name}_emb"].rows
    ]
    rows = {
        "users": found["user_emb"].rows,
        "items": items.where(is_ours).count(),
        "pairs": found["mid_emb"].rows,
    }
    norms = {name: {"mean": f.mean, "p5": f.p5, "p95": f.p95} for name, f in found.items()}
    return gates, {"rows": rows, "norms": norms, "effective_rank": rank, "mean_cosine": cosine}


def _norm_gates(found: dict[str, VectorFigures]) -> list[Gate]:
    """Users and items; a conversion model's middle layer may well be near zero."""
    return [
        gate
        for name in ("user_emb", "item_emb")
        if found[name].mean is not None
        for gate in (
            Gate(f"{name}_norm_p5", found[name].p5, lower=SMALLEST_NORM),
            Gate(f"{name}_norm_p95", found[name].p95, upper=LARGEST_NORM),
        )
    ]


def _neighbours(context: Context, release: Release, life: DataFrame) -> list[dict[str, object]]:
    titles = context.tables.read("items").groupBy("item_id").agg(F.max_by("title", "valid_from").alias("title"))
    items = visible(context, release, "item_features").select("item_id", "ds", "item_emb")
    return neighbours_in_words(items, titles, life.select("item_id", "events"))
