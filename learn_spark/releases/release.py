"""Makes a release: says what its rows are made from, and writes the one row that publishes it."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import date
from functools import lru_cache

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.embedding.encoders import encoder_id
from learn_spark.lake.clock import time_after
from learn_spark.lake.days import days_predicate
from learn_spark.lake.frames import counted, frame_of, only_row
from learn_spark.lake.schemas import RELEASES
from learn_spark.lake.tables import Tables
from learn_spark.quality.gates import Gate
from learn_spark.releases.codebooks import codes_before
from learn_spark.releases.registry import (
    ROLLED_BACK,
    Part,
    Release,
    newest_release,
    rows_of,
    set_status,
    to_withdraw,
)
from learn_spark.releases.spaces import models_of
from learn_spark.runs.details import TrainingDetails
from learn_spark.runs.ledger import fingerprint_of
from learn_spark.runs.steps import WRITE_FEATURES, Context, cvr_day, towers_day

FEATURE_TABLES = ("user_features", "item_features", "pair_features")
INPUTS = ("interactions", "item_index", "user_history", "samples")


def plan_release(context: Context, days: Sequence[date]) -> tuple[Release, Release | None]:
    """Plans the release of these feature days, on top of its base: the newest release by the same models.

    The id is made from the days' fingerprints, the versions of the tables that they are made from, and the release
    whose item codes they keep. So releases with equal ids have equal rows, and days that are made again from other
    events get another id, and rows of their own.

    Returns:
        The release, not published yet, and its base, if there is one.
    """
    ordered = tuple(sorted(set(days)))
    models = models_of(context)
    inputs = context.tables.versions(INPUTS)
    fingerprints = [context.fingerprint(WRITE_FEATURES, day) for day in ordered]
    coded = codes_before(context.tables, models)
    made_from = (fingerprints, models, inputs, *([coded.release_id] if coded else ()))
    release_id = f"{ordered[-1]:%Y%m%d}-{fingerprint_of(*made_from)[:8]}"
    base = newest_release(context.tables, models, other_than=release_id)
    taken_over = base.parts if base else {}
    parts = {**taken_over, **dict.fromkeys(ordered, Part(release_id))}
    return Release(release_id, ordered, models, inputs, dict(sorted(parts.items()))), base


def own_rows(release: Release) -> str:
    """SQL that selects exactly the rows that are written for a release, so that other releases stay as they are."""
    return f"({days_predicate('ds', release.days)}) AND release_id = '{release.release_id}'"


def visible(context: Context, release: Release, table: str) -> DataFrame:
    """The rows of a feature table that the release shows."""
    return rows_of(context.tables, release, table)


def published_release(context: Context) -> Release | None:
    """The newest release by the models of this config."""
    return newest_release(context.tables, models_of(context))


def unshown_days(context: Context, days: Collection[date]) -> Collection[date]:
    """Those of these feature days that the newest published release by this config's models does not show.

    A rollback, or a loss of rows, has withdrawn them, whatever the ledger says.
    """
    version = context.tables.version(RELEASES.name)
    return set(days) - _shown(context.tables, version, tuple(models_of(context).items()))


@lru_cache(maxsize=8)
def _shown(tables: Tables, version: int, models: tuple[tuple[str, str], ...]) -> frozenset[date]:
    """The days of the newest release by some models, as of a version of the registry."""
    release = newest_release(tables, dict(models))
    return frozenset(release.parts if release else ())


def status_of(context: Context, release: Release) -> str | None:
    """The status that an earlier run gave to the very same release; None if there was none."""
    row = context.tables.read(RELEASES.name).where(F.col("release_id") == release.release_id).first()
    return row.status if row else None


def is_current(context: Context, release: Release) -> bool:
    """Whether readers of `current` get this release."""
    newest = newest_release(context.tables, {})
    return newest is not None and newest.release_id == release.release_id


def roll_back(context: Context, to: str | None = None) -> list[Release]:
    """Withdraws the current release, or all that were published after `to`, which then is current.

    The withdrawn days become stale first, so that the next run, after the cause is mended, makes them again.

    Returns:
        The withdrawn releases, newest first; raises what `to_withdraw` raises.
    """
    withdrawn = to_withdraw(context.tables, to)
    days = sorted({day for release in withdrawn for day in release.days})
    context.invalidate(WRITE_FEATURES, days, scope="own")
    set_status(context.tables, withdrawn, ROLLED_BACK)
    return withdrawn


def with_counts(context: Context, release: Release) -> Release:
    """The release with the rows of its own days counted."""
    names = {f"{table.removesuffix('_features')}s": table for table in FEATURE_TABLES}
    rows = counted({name: context.tables.read(table).where(own_rows(release)) for name, table in names.items()}, "ds")
    own = {day: Part(release.release_id, **{name: rows.get((name, day), 0) for name in names}) for day in release.days}
    return replace(release, parts={**release.parts, **own})


def record(context: Context, release: Release, gates: Sequence[Gate], widths: dict[str, int], status: str) -> None:
    """Writes the release's row, without which all that was written before is invisible. A rerun replaces the row."""
    row = (
        release.release_id,
        {**release.models, **_registered(context)},
        release.inputs,
        context.tables.versions(FEATURE_TABLES),
        encoder_id(context.config),
        [gate.as_row() for gate in gates],
        widths,
        status,
        time_after([only_row(context.tables.read(RELEASES.name).agg(F.max("published_at")))[0]]),
        list(release.days),
        [(day, part.release_id, part.users, part.items, part.pairs) for day, part in release.parts.items()],
    )
    frame = frame_of(context.spark, [row], RELEASES.columns_ddl).coalesce(1)
    context.tables.overwrite_where(RELEASES.name, frame, f"release_id = '{release.release_id}'")


def _registered(context: Context) -> dict[str, str]:
    """MLflow's registered versions, as the ledger has them; empty if MLflow could not be used."""
    recorded = context.ledger.recorded()
    days = [day for day in (towers_day(context.config), cvr_day(context.config)) if day in recorded]
    trainings = [TrainingDetails.from_json(recorded[day].details) for day in days]
    registered = [(one.registered_model, one.model_version) for one in trainings]
    return {model: str(version) for model, version in registered if model and version is not None}
