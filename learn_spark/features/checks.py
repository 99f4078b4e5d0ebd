"""The gates of a release: what its own rows must fulfil, alone and against the previous release, to be published."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.config.model_sections import FeatureGates
from learn_spark.features.neighbours import item_sample
from learn_spark.lake.days import ONE_DAY, DayRange, days_predicate
from learn_spark.quality.drift import centroid_shift, neighbour_overlap, paired_vectors, vector_cosine
from learn_spark.quality.gates import (
    LARGEST_NORM,
    SMALLEST_NORM,
    Gate,
    VectorFigures,
    effective_rank,
    mean_cosine,
    vector_figures,
)
from learn_spark.releases.registry import Part, Release, newest_release
from learn_spark.releases.release import own_rows, visible
from learn_spark.runs.steps import Context

ENOUGH = 64  # users or items; fewer are too few to measure spread or drift
RECENT_DAYS = 7
PROBE_BINS = 1000
_COLUMNS = {"user_emb": "user_features", "item_emb": "item_features", "mid_emb": "pair_features"}


def checked(
    context: Context, release: Release, base: Release | None, due: Mapping[str, int]
) -> tuple[list[Gate], dict[str, int], dict[str, Any]]:
    """Checks the rows that were written for a release, never those that it takes over.

    Args:
        context: holds the limits.
        release: its own rows are counted already.
        base: the previous release by the same models, if any.
        due: how many rows of users (one per user and day), items and pairs had to be written.

    Returns:
        The gates, the widths of the vectors by column, and figures for the report.
    """
    limits = context.config.features.gates
    own = {name: context.tables.read(table).where(own_rows(release)) for name, table in _COLUMNS.items()}
    found = vector_figures({name: (df, name) for name, df in own.items()})
    rank, cosine = _spread(own["item_emb"], found["item_emb"].rows, base)
    before = base or newest_release(context.tables, {}, other_than=release.release_id)
    gates = [
        *_row_gates(context, release, before),
        *_due_gates(release, due),
        *(Gate(f"{name}_not_finite", figure.not_finite, upper=0) for name, figure in found.items()),
        *_norm_gates(found),
        Gate("item_effective_rank", rank, lower=limits.min_effective_rank),
        Gate("item_mean_cosine", cosine, upper=limits.max_mean_cosine),
        *_coverage_gates(found, base, limits),
    ]
    widths = {name: figure.widest for name, figure in found.items() if figure.rows}
    gates += width_gates(found, base.widths if base else {})
    if due.get("pairs"):
        gates += _probe_gates(context, release, own["mid_emb"], limits)
    if before is not None:
        gates += _drift_gates(context, release, before, own, is_same_model=base is not None)
    norms = {name: {"mean": f.mean, "p5": f.p5, "p95": f.p95} for name, f in found.items()}
    figures = {"norms": norms, "effective_rank": rank, "mean_cosine": cosine}
    return gates, {**(base.widths if base else {}), **widths}, figures


def volume_gates(release: Release, before: Release | None, limits: FeatureGates) -> list[Gate]:
    """Row counts per day against the previous release.

    They must match even after a retrain: new models change the vectors, not which users and items have one. A day that
    is made again is compared with itself, a new day with the mean over the previous release's days. The first day is
    left out of the mean, since it has all users.
    """
    if before is None:
        return []
    own = {day: release.parts[day] for day in release.days}
    again = [day for day in own if day in before.parts]
    gates = [
        Gate(f"{name}_of_days_made_again", _rows(own, again, name) / rows, lower=limits.min_remade_share)
        for name in ("users", "items")
        if (rows := _rows(before.parts, again, name))
    ]
    usual = sorted(before.parts)[1:]
    new = [day for day in own if day not in before.parts and own[day].users]
    if new and (mean_rows := _rows(before.parts, usual, "users") / max(len(usual), 1)):
        gates.append(
            Gate("users_of_new_days", _rows(own, new, "users") / len(new) / mean_rows, lower=limits.min_row_share)
        )
    return gates


def width_gates(found: dict[str, VectorFigures], before: dict[str, int]) -> list[Gate]:
    """Each column has one width, users and items have the same one, and it has not changed; else models were mixed."""
    there = {name: figure for name, figure in found.items() if figure.rows}
    gates = [Gate(f"{name}_widths_apart", f.widest - f.narrowest, upper=0) for name, f in there.items()]
    known = {**before, **{name: figure.widest for name, figure in there.items()}}
    if {"user_emb", "item_emb"} <= known.keys():
        gates.append(Gate("user_and_item_widths_apart", abs(known["user_emb"] - known["item_emb"]), upper=0))
    changed = [abs(known[name] - width) for name, width in before.items()]
    return [*gates, Gate("widths_changed_by", max(changed), upper=0)] if changed else gates


def _row_gates(context: Context, release: Release, before: Release | None) -> list[Gate]:
    limits, first = context.config.features.gates, context.config.windows.towers_end
    lacking = (
        sum(day not in release.parts for day in DayRange(first, max(release.parts) + ONE_DAY)) if release.parts else 0
    )
    return [
        Gate("feature_days_missing", lacking, upper=0),
        Gate("users_on_first_day", release.parts[first].users if first in release.parts else 0, lower=limits.min_users),
        Gate("items", sum(part.items for part in release.parts.values()), lower=1),
        *volume_gates(release, before, limits),
    ]


def _due_gates(release: Release, due: Mapping[str, int]) -> list[Gate]:
    """Every active user, every due item and every pair has a row, and no other row exists."""
    own = {day: release.parts[day] for day in release.days}
    return [
        Gate(f"{name}_covered", _rows(own, own, name) / wanted, lower=1, upper=1)
        for name in ("users", "items", "pairs")
        if (wanted := due.get(name))
    ]


def _spread(items: DataFrame, rows: int, base: Release | None) -> tuple[float, float]:
    """Effective rank and mean cosine of the items. With few new items, the previous release's figures are kept."""
    if base is not None and rows < ENOUGH:
        rank, cosine = base.gate("item_effective_rank"), base.gate("item_mean_cosine")
        if rank is not None and cosine is not None:
            return rank, cosine
    sample_NK = item_sample(items)
    return effective_rank(sample_NK), mean_cosine(sample_NK)


def _norm_gates(found: dict[str, VectorFigures]) -> list[Gate]:
    """Norms of users and items. The norms of `mid_emb` have no limit: a middle layer may well be near zero."""
    return [
        gate
        for name in ("user_emb", "item_emb")
        for p5, p95 in ((found[name].p5, found[name].p95),)
        if p5 is not None and p95 is not None
        for gate in (
            Gate(f"{name}_norm_p5", p5, lower=SMALLEST_NORM),
            Gate(f"{name}_norm_p95", p95, upper=LARGEST_NORM),
        )
    ]


def _coverage_gates(found: dict[str, VectorFigures], base: Release | None, limits: FeatureGates) -> list[Gate]:
    """Content coverage. A night's few new items may have no content yet, so items count only if there are many."""
    asked = [("user", 1), ("item", 1 if base is None else ENOUGH)]
    return [
        Gate(f"{name}_content_coverage", found[f"{name}_emb"].coverage or 0.0, lower=limits.min_content_coverage)
        for name, enough in asked
        if found[f"{name}_emb"].rows >= enough
    ]


def _probe_gates(context: Context, release: Release, pairs: DataFrame, limits: FeatureGates) -> list[Gate]:
    """AUC of the conversion scores on the release's own pairs. If it is low, models and vectors do not fit together.

    Its curve has at most PROBE_BINS points, which bounds the driver's memory. A night without samples has no such gate.
    """
    key = ["user_id", "item_id", "event_ts"]
    samples = context.tables.read("samples", release.inputs["samples"]).where(days_predicate("ds", release.days))
    labels = samples.select(*key, F.col("label").cast("double").alias("label"), F.col("weight").cast("double"))
    scored = pairs.select(*key, F.col("cvr_score").cast("double")).join(labels, on=key, how="inner")
    counts = {row["label"]: row["count"] for row in scored.groupBy("label").count().collect()}
    if len(counts) < 2 or sum(counts.values()) < ENOUGH:
        return []
    from pyspark.ml.evaluation import BinaryClassificationEvaluator  # slow to import, only used here

    columns = {"rawPredictionCol": "cvr_score", "labelCol": "label", "weightCol": "weight"}
    auc = BinaryClassificationEvaluator(**columns, metricName="areaUnderROC", numBins=PROBE_BINS).evaluate(scored)
    return [Gate("pair_auc", auc, lower=limits.min_pair_auc)]


def _drift_gates(
    context: Context, release: Release, before: Release, own: dict[str, DataFrame], is_same_model: bool
) -> list[Gate]:
    """How far the users and items have moved that the previous release also has.

    If both releases have the same models, only rows of the same days and of the previous release's last week are
    compared, so that a night reads no more. Other models have other axes: then only the items' neighbours are compared,
    over all days, and the vectors themselves if they were mapped into the same space.
    """
    is_same_space = not is_same_model and release.space[0] == before.space[0]
    limits, gates = context.config.features.gates, []
    if is_same_model:
        recent = {*release.days, *sorted(before.parts)[-RECENT_DAYS:]}
        before = replace(before, parts={day: part for day, part in before.parts.items() if day in recent})
    for side in ("user", "item") if is_same_model or is_same_space else ("item",):
        column = f"{side}_emb"
        old = visible(context, before, f"{side}_features")
        new_NK, old_NK = paired_vectors(own[column], old, f"{side}_id", column, ENOUGH)
        if not len(new_NK):
            continue
        if is_same_model:
            shift = centroid_shift(new_NK, old_NK)
            gates.append(Gate(f"{side}_centroid_shift", shift, upper=limits.max_centroid_shift))
        if is_same_space:
            cosine = vector_cosine(new_NK, old_NK)
            gates.append(Gate(f"{side}_cosine_after_retrain", cosine, lower=limits.min_cosine_after_retrain))
        if side == "item":
            lower = limits.min_neighbour_overlap if is_same_model else limits.min_model_overlap
            gates.append(Gate("item_neighbour_overlap", neighbour_overlap(new_NK, old_NK), lower=lower))
    return gates


def _rows(parts: dict[date, Part], days: Collection[date], name: str) -> int:
    return sum(getattr(parts[day], name) for day in days)
