"""Whatever must hold before a release is published: its gates, from its own rows and the release before it."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.config.model_sections import FeatureSettings
from learn_spark.features.neighbours import item_sample
from learn_spark.lake.days import ONE_DAY, DayRange, days_predicate
from learn_spark.quality.drift import centroid_shift, neighbour_overlap, paired_vectors
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

ENOUGH = 64  # entities: fewer say nothing about the spread or the drift of all
RECENT_DAYS = 7
PROBE_BINS = 1000
_COLUMNS = {"user_emb": "user_features", "item_emb": "item_features", "mid_emb": "pair_features"}


@dataclass(frozen=True)
class Due:
    """What a release has to hold rows of: users (user_id, ds), items (item_id, ds), pairs."""

    users: DataFrame
    items: DataFrame
    pairs: DataFrame


def checked(
    context: Context, release: Release, base: Release | None, due: Due
) -> tuple[list[Gate], dict[str, int], dict[str, object]]:
    """Looks at the rows that were written for a release, never at those that it takes over.

    Args:
        context: with the limits.
        release: with its own rows counted.
        base: the release before by the same models, if any.
        due: what had to be written.

    Returns:
        The gates, the widths of the vectors by column, and figures for the report.
    """
    limits = context.config.features
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
    gates += _probe_gates(context, release, own["mid_emb"], limits)
    if before is not None:
        gates += _drift_gates(context, release, before, own, is_same_model=base is not None)
    norms = {name: {"mean": f.mean, "p5": f.p5, "p95": f.p95} for name, f in found.items()}
    figures = {"norms": norms, "effective_rank": rank, "mean_cosine": cosine}
    return gates, {**(base.widths if base else {}), **widths}, figures


def volume_gates(release: Release, before: Release | None, limits: FeatureSettings) -> list[Gate]:
    """Rows of days against those of the release before, whose models may be others: vectors change, who has one not.

    Of the same days, and of a new day against the mean one. A first day holds all users, so it is no measure.
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
    """One width a column, the same for users and items, and the same as before: else another model made some."""
    there = {name: figure for name, figure in found.items() if figure.rows}
    gates = [Gate(f"{name}_widths_apart", f.widest - f.narrowest, upper=0) for name, f in there.items()]
    known = {**before, **{name: figure.widest for name, figure in there.items()}}
    if {"user_emb", "item_emb"} <= known.keys():
        gates.append(Gate("user_and_item_widths_apart", abs(known["user_emb"] - known["item_emb"]), upper=0))
    changed = [abs(known[name] - width) for name, width in before.items()]
    return [*gates, Gate("widths_changed_by", max(changed), upper=0)] if changed else gates


def _row_gates(context: Context, release: Release, before: Release | None) -> list[Gate]:
    limits, first = context.config.features, context.config.windows.towers_end
    lacking = (
        sum(day not in release.parts for day in DayRange(first, max(release.parts) + ONE_DAY)) if release.parts else 0
    )
    return [
        Gate("feature_days_missing", lacking, upper=0),
        Gate("users_on_first_day", release.parts[first].users if first in release.parts else 0, lower=limits.min_users),
        Gate("items", sum(part.items for part in release.parts.values()), lower=1),
        *volume_gates(release, before, limits),
    ]


def _due_gates(release: Release, due: Due) -> list[Gate]:
    """Every active user, every item that was due and every pair has a row, and there are no others."""
    own = {day: release.parts[day] for day in release.days}
    return [
        Gate(f"{name}_covered", _rows(own, own, name) / wanted, lower=1, upper=1)
        for name in ("users", "items", "pairs")
        if (wanted := getattr(due, name).count())
    ]


def _spread(items: DataFrame, rows: int, base: Release | None) -> tuple[float, float]:
    """Effective rank and mean cosine; of a night's few new items they are those of the release before."""
    if base is not None and rows < ENOUGH:
        known = base.gate("item_effective_rank"), base.gate("item_mean_cosine")
        if None not in known:
            return known
    sample_NK = item_sample(items)
    return effective_rank(sample_NK), mean_cosine(sample_NK)


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


def _coverage_gates(found: dict[str, VectorFigures], base: Release | None, limits: FeatureSettings) -> list[Gate]:
    """A night's few items may well have no content yet; of many, most must."""
    asked = [("user", 1), ("item", 1 if base is None else ENOUGH)]
    return [
        Gate(f"{name}_content_coverage", found[f"{name}_emb"].coverage, lower=limits.min_content_coverage)
        for name, enough in asked
        if found[f"{name}_emb"].rows >= enough
    ]


def _probe_gates(context: Context, release: Release, pairs: DataFrame, limits: FeatureSettings) -> list[Gate]:
    """AUC of the conversion scores on the release's own pairs: far below what it was, models and vectors do not fit.

    Its curve has at most PROBE_BINS points, so the driver holds no more. A night without samples has no figure.
    """
    key = ["user_id", "item_id", "event_ts"]
    samples = context.tables.read("samples", release.inputs["samples"]).where(days_predicate("ds", release.days))
    labels = samples.select(*key, F.col("label").cast("double").alias("label"), F.col("weight").cast("double"))
    scored = pairs.select(*key, F.col("cvr_score").cast("double")).join(labels, on=key, how="inner")
    counts = {row["label"]: row["count"] for row in scored.groupBy("label").count().collect()}
    if len(counts) < 2 or sum(counts.values()) < ENOUGH:
        return []
    from pyspark.ml.evaluation import BinaryClassificationEvaluator  # slow to import, and for this figure alone

    columns = {"rawPredictionCol": "cvr_score", "labelCol": "label", "weightCol": "weight"}
    auc = BinaryClassificationEvaluator(**columns, metricName="areaUnderROC", numBins=PROBE_BINS).evaluate(scored)
    return [Gate("pair_auc", auc, lower=limits.min_pair_auc)]


def _drift_gates(
    context: Context, release: Release, before: Release, own: dict[str, DataFrame], is_same_model: bool
) -> list[Gate]:
    """Of users and items that the release before has too.

    By the same models: those of the same days or of its last week, a night reads no more. Other models have axes of
    their own, so of theirs only the items' neighbours can be compared, over all days.
    """
    limits, gates = context.config.features, []
    if is_same_model:
        recent = {*release.days, *sorted(before.parts)[-RECENT_DAYS:]}
        before = replace(before, parts={day: part for day, part in before.parts.items() if day in recent})
    for side in ("user", "item") if is_same_model else ("item",):
        column = f"{side}_emb"
        old = visible(context, before, f"{side}_features")
        new_NK, old_NK = paired_vectors(own[column], old, f"{side}_id", column)
        if len(new_NK) < ENOUGH:
            continue
        if is_same_model:
            shift = centroid_shift(new_NK, old_NK)
            gates.append(Gate(f"{side}_centroid_shift", shift, upper=limits.max_centroid_shift))
        if side == "item":
            lower = limits.min_neighbour_overlap if is_same_model else limits.min_model_overlap
            gates.append(Gate("item_neighbour_overlap", neighbour_overlap(new_NK, old_NK), lower=lower))
    return gates


def _rows(parts: dict[date, Part], days: Collection[date], name: str) -> int:
    return sum(getattr(parts[day], name) for day in days)
