"""Deliveries come at least once: copies of an event, within one delivery and across several, and late events.

An event that is delivered several times belongs to its earliest delivery, in whatever order the days are loaded.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.config.ingest import IngestSettings
from learn_spark.ingest.parse import NO_FAULTS, delivery_day, has_day
from learn_spark.lake.days import ONE_DAY, DayRange, days_predicate
from learn_spark.lake.tables import Tables

DUPLICATE = "duplicate"
_IDENTITY = ("event_id", "user_id", "ds")


@dataclass(frozen=True)
class Written:
    """The outcome of writing the usable events of some deliveries.

    Attributes:
        rows: events written.
        late: event days before their delivery's day, and how many events each of them gained or lost.
    """

    rows: int
    late: dict[date, int]


def with_copies_marked(events: DataFrame, settings: IngestSettings) -> DataFrame:
    """Keeps the first of equal events of these deliveries; the others get a reject reason.

    Where `repeats` are kept, those of one delivery are told apart before, by their number.
    """
    # Rejected lines get a partition of their own each. Unreadable ones all have a null id, and would otherwise land in
    # one task.
    apart = F.when(F.col("reason").isNotNull(), F.monotonically_increasing_id())
    copies = Window.partitionBy(*_IDENTITY, "_apart").orderBy("load_day", "source_file", "raw")
    is_copy = F.col("reason").isNull() & (F.row_number().over(copies) > 1)
    marked = events.withColumn("_apart", apart)
    if settings.repeats == "keep":
        equal = Window.partitionBy(*_IDENTITY, "_apart", "load_day").orderBy("source_file", "raw")
        number = F.row_number().over(equal)
        own = F.when(number == 1, F.col("event_id")).otherwise(F.xxhash64("event_id", number))
        marked = marked.withColumn("event_id", own)
    return marked.withColumn("reason", F.when(is_copy, DUPLICATE).otherwise(F.col("reason"))).drop("_apart")


def with_new_undated(lines: DataFrame, tables: Tables, days: Sequence[date], settings: IngestSettings) -> DataFrame:
    """Counts rows without a usable time for the last day of this run, unless an earlier run rejected them already.

    By default they belong to `ingest.start`, a day that later nights do not load again: they would be lost, uncounted.
    """
    undated = ~has_day(settings) & ~F.coalesce(F.col("reason").isin(*NO_FAULTS), F.lit(False))
    known = tables.read("rejects").where(f"NOT ({days_predicate('ds', days)})").groupBy("reason", "raw")
    equal = Window.partitionBy("reason", "raw").orderBy("source_file")
    numbered = lines.where(undated).withColumn("_number", F.row_number().over(equal))
    numbered = numbered.join(known.agg(F.count(F.lit(1)).alias("_known")), on=["reason", "raw"], how="left")
    is_new = F.col("_number") > F.coalesce("_known", F.lit(0))
    day = F.when(is_new, F.lit(max(days))).otherwise(F.col("load_day"))
    return lines.where(~undated).unionByName(numbered.withColumn("load_day", day).drop("_number", "_known"))


def without_known(tables: Tables, events: DataFrame, days: Sequence[date], settings: IngestSettings) -> DataFrame:
    """Drops events that an earlier delivery holds; `known_on` names a later delivery that holds the event, too.

    Args:
        tables: the lake.
        events: usable events of the deliveries of `days`, with `ds`.
        days: delivery days.
        settings: say how late an event may be.
    """
    if not settings.by_day or not settings.late_days:
        return events.withColumn("known_on", F.lit(None).cast("date"))
    elsewhere = (
        tables.read("interactions").where(_near(days, settings)).where(f"NOT ({days_predicate('load_day', days)})")
    )
    known = _known(elsewhere, events, settings).select(*_IDENTITY, F.col("load_day").alias("known_on"))
    marked = events.join(known, on=[*_IDENTITY], how="left")
    return marked.where("known_on IS NULL OR known_on > load_day")


def changed_days(tables: Tables, usable: DataFrame, days: Sequence[date]) -> dict[date, int]:
    """The days whose stored events differ from the usable ones, and how many events each has or had."""
    if not days:
        return {}
    of_days = days_predicate("load_day", days)
    before, now = (_contents(events.where(of_days)) for events in (tables.read("interactions"), usable))
    changed = [day for day in days if before.get(day) != now.get(day)]
    return {day: max(before.get(day, (0,))[0], now.get(day, (0,))[0]) for day in changed}


def _contents(events: DataFrame) -> dict[date, tuple[int, int]]:
    """Per delivery: how many events it has, and a checksum that changes with any of them."""
    rows = events.groupBy("load_day").agg(F.count(F.lit(1)).alias("events"), F.bit_xor("event_id").alias("sum"))
    return {row["load_day"]: (row["events"], row["sum"]) for row in rows.collect()}


def write_events(
    tables: Tables,
    fresh: DataFrame,
    days: Sequence[date],
    settings: IngestSettings,
    touch: Callable[[Iterable[date]], None],
) -> dict[date, int]:
    """Replaces the events of these days' deliveries, and returns the event days that late ones changed.

    Args:
        tables: the lake.
        fresh: the events that `without_known` left, with all columns of `interactions`.
        days: delivery days.
        settings: say how late an event may be.
        touch: is called with the other days that will change, before they do.
    """
    if not settings.by_day:
        tables.overwrite_days("interactions", fresh, days)
        return {}
    own = days_predicate("load_day", days)  # of any event day: an earlier run may have reached farther back
    before = _late(tables.read("interactions").where(own))
    after = _late(fresh)
    late = {day: max(before.get(day, 0), after.get(day, 0)) for day in sorted({*before, *after})}
    touch(late)
    held_later = fresh.where("known_on IS NOT NULL").select(*_IDENTITY, F.col("known_on").alias("load_day"))
    gone = None if held_later.isEmpty() else held_later.localCheckpoint()
    tables.overwrite_where("interactions", fresh, own)
    if gone is not None:
        tables.delete_matching("interactions", gone, _near(days, settings, "kept.ds"))
    return late


def _near(days: Sequence[date], settings: IngestSettings, column: str = "ds") -> str:
    """SQL for the event days that deliveries of these days can hold."""
    before, after = settings.reach
    reached = DayRange(min(days) - timedelta(days=before), max(days) + timedelta(days=after) + ONE_DAY)
    return days_predicate(column, reached)


def _known(elsewhere: DataFrame, events: DataFrame, settings: IngestSettings) -> DataFrame:
    """Events of other deliveries that these may repeat. One of the two is late then, and late events are few."""
    is_late = delivery_day(F.col("event_ts"), settings) < F.col("load_day")
    late = events.where(is_late).select(*_IDENTITY).distinct()
    on_time = elsewhere.where(~is_late).join(late, on=[*_IDENTITY], how="left_semi")
    return elsewhere.where(is_late).unionByName(on_time)


def _late(events: DataFrame) -> dict[date, int]:
    rows = events.where("ds < load_day").groupBy("ds").count().collect()
    return {row["ds"]: row["count"] for row in rows}
