"""At-least-once delivery: copies of an event, within a day's delivery and across deliveries, and late events.

An event that is delivered several times belongs to its earliest delivery, in whatever order the days are loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.core.days import ONE_DAY, DayRange, days_predicate
from learn_spark.core.ingest_settings import IngestSettings
from learn_spark.core.tables import Tables

DUPLICATE = "duplicate"
_IDENTITY = ("event_id", "user_id")


@dataclass(frozen=True)
class Written:
    """What became of the usable events of some deliveries.

    Attributes:
        rows: events written.
        late: event days before their delivery's, and how many events each got or lost.
    """

    rows: int
    late: dict[date, int]


def with_copies_marked(events: DataFrame) -> DataFrame:
    """Of equal events of these deliveries the first stays, the others get a reason."""
    copies = Window.partitionBy(*_IDENTITY, "reason").orderBy("load_day", "source_file", "raw")
    is_copy = F.col("reason").isNull() & (F.row_number().over(copies) > 1)
    return events.withColumn("reason", F.when(is_copy, DUPLICATE).otherwise(F.col("reason")))


def write_events(tables: Tables, events: DataFrame, days: Sequence[date], settings: IngestSettings) -> Written:
    """Replaces what the deliveries of these days hold, late events in their own `ds`.

    Args:
        tables: the lake.
        events: usable events with all columns of `interactions`.
        days: delivery days.
        settings: how late an event may be.
    """
    if not settings.by_day or not settings.late_days:
        return Written(tables.overwrite_days("interactions", events, days), {})
    reach = DayRange(min(days) - timedelta(days=settings.late_days), max(days) + ONE_DAY)
    own, near = days_predicate("load_day", days), days_predicate("ds", reach)
    stored = tables.read("interactions").where(near)
    before = _late(stored.where(own))
    elsewhere = stored.where(f"NOT ({own})").select(*_IDENTITY, "ds", F.col("load_day").alias("known_on"))
    known = _known(elsewhere, events)
    fresh = events.join(known, on=[*_IDENTITY, "ds"], how="left").where("known_on IS NULL OR known_on > load_day")
    later = fresh.where("known_on > load_day").select(*_IDENTITY, "ds", F.col("known_on").alias("load_day"))
    gone = later.localCheckpoint()
    rows = tables.overwrite_where("interactions", fresh.drop("known_on"), f"({near}) AND ({own})")
    if not gone.isEmpty():
        tables.delete_matching("interactions", gone, days_predicate("kept.ds", reach))
    after = _late(tables.read("interactions").where(near).where(own))
    return Written(rows, {day: max(before.get(day, 0), after.get(day, 0)) for day in sorted({*before, *after})})


def _known(elsewhere: DataFrame, events: DataFrame) -> DataFrame:
    """Events of other deliveries that these may repeat: one of the two came late, and late ones are few."""
    late = events.where("ds < load_day").select(*_IDENTITY, "ds").distinct()
    on_time = elsewhere.where("known_on = ds").join(late, on=[*_IDENTITY, "ds"], how="left_semi")
    return elsewhere.where("known_on > ds").unionByName(on_time)


def _late(events: DataFrame) -> dict[date, int]:
    rows = events.where("ds < load_day").groupBy("ds").count().collect()
    return {row["ds"]: row["count"] for row in rows}
