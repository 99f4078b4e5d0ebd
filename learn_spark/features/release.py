"""Releases: what a release is made of, which rows belong to it, and the one row that publishes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.core.days import days_predicate
from learn_spark.core.ledger import fingerprint
from learn_spark.core.schemas import RELEASES
from learn_spark.core.steps import Context
from learn_spark.embedding.encoders import encoder_id
from learn_spark.features.gates import Gate
from learn_spark.features.models import cvr_mark, towers_mark

FEATURE_TABLES = ("user_features", "item_features", "pair_features")


@dataclass(frozen=True)
class Release:
    """A release before it is published.

    Attributes:
        release_id: the last day and a hash of what all its days are made from: the same days from the same
            models, config and input have the same id.
        days: its feature days, oldest first.
        models: fingerprints of `towers` and `cvr`.
    """

    release_id: str
    days: tuple[date, ...]
    models: dict[str, str]

    @property
    def rows(self) -> str:
        """SQL that names exactly this release's rows of a feature table: other releases stay as they are."""
        return f"({days_predicate('ds', self.days)}) AND release_id = '{self.release_id}'"


def plan_release(context: Context, days: Sequence[date]) -> Release:
    """The release of these feature days."""
    ordered = tuple(sorted(set(days)))
    marks = [context.mark("write_features", day) for day in ordered]
    models = {"towers": towers_mark(context), "cvr": cvr_mark(context)}
    return Release(f"{ordered[-1]:%Y%m%d}-{fingerprint(marks)[:8]}", ordered, models)


def visible(context: Context, release: Release, table: str) -> DataFrame:
    """Rows that go together: a day's newest release by the same models; this release's own days before all."""
    published = context.tables.read(RELEASES.name)
    for name, mark in release.models.items():
        published = published.where(F.col("model_versions")[name] == mark)
    dated = published.select("release_id", "published_at", F.explode("days").alias("ds"))
    own = context.spark.createDataFrame(
        [(release.release_id, datetime.max, day) for day in release.days],
        "release_id string, published_at timestamp, ds date",
    )
    newest = dated.unionByName(own).groupBy("ds").agg(F.max_by("release_id", "published_at").alias("release_id"))
    return context.tables.read(table).join(F.broadcast(newest), on=["ds", "release_id"], how="left_semi")


def publish(context: Context, release: Release, gates: Sequence[Gate]) -> None:
    """Writes the release's row; everything before it is invisible without it. A rerun replaces the row."""
    row = (
        release.release_id,
        {**release.models, **_registered(context)},
        context.tables.versions(FEATURE_TABLES),
        encoder_id(context.config),
        [gate.as_row() for gate in gates],
        "published",
        datetime.now(UTC),
        list(release.days),
    )
    frame = context.spark.createDataFrame([row], RELEASES.columns_ddl).coalesce(1)
    context.tables.overwrite_where(RELEASES.name, frame, f"release_id = '{release.release_id}'")


def _registered(context: Context) -> dict[str, str]:
    """MLflow's registered versions, as the ledger has them; empty where MLflow was away."""
    recorded = context.ledger.recorded()
    windows = context.config.windows
    steps = [("train_towers", windows.towers_end), ("train_cvr", windows.cvr_end)]
    details = [recorded[step].details for step in steps if step in recorded]
    return {d["registered_model"]: str(d["model_version"]) for d in details if "model_version" in d}
