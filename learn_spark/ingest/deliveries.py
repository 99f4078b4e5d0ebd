"""Handles at-least-once deliveries: copies of an event, within one delivery and across several, and late events.

An event that is delivered several times belongs to its earliest delivery, in whatever order the days are loaded.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.config.ingest import IngestSettings
from learn_spark.ingest.line_counts import DUPLICATE, ByDay
from learn_spark.ingest.parse import NO_FAULTS, SEPARATOR, delivery_day, has_day
from learn_spark.lake.days import ONE_DAY, DayRange, days_predicate
from learn_spark.lake.tables import Tables

_IDENTITY = ("event_id", "user_id", "ds")


@dataclass(frozen=True)
class Fresh:
    """Usable events that no earlier delivery holds.

    Attributes:
        events: the events; `known_on` is a later delivery that holds the event, too, else null.
        rows: how many events there are.
        late: by event day, how many of them are from before their delivery's day.
        is_held_later: whether a later delivery holds any of them.
    """

    events: DataFrame
    rows: int
    late: Mapping[date, int]
    is_held_later: bool


def with_copies_marked(events: DataFrame, settings: IngestSettings) -> DataFrame:
    """Keeps the first of equal events of these deliveries; the others get a reject reason.

    If `repeats` is keep, equal events of one delivery first get different ids, by their running number.
    """
    # Rejected lines get a partition of their own each. Unreadable ones all have a null id, and would otherwise land in
    # one task.
    apart = F.when(F.col("reason").isNotNull(), F.monotonically_increasing_id())
    if _is_told_by_id(settings):  # saves half of what is shuffled
        may_differ = F.col("reason").isNotNull() | F.contains(F.col("raw"), F.lit(SEPARATOR))
        events = events.withColumn("raw", F.when(may_differ, F.col("raw")))
    copies = Window.partitionBy(*_IDENTITY, "_apart").orderBy("load_day", "source_file", "raw")
    is_copy = F.col("reason").isNull() & (F.row_number().over(copies) > 1)
    marked = events.withColumn("_apart", apart)
    if settings.repeats == "keep":
        equal = Window.partitionBy(*_IDENTITY, "_apart", "load_day").orderBy("source_file", "raw")
        number = F.row_number().over(equal)
        own = F.when(number == 1, F.col("event_id")).otherwise(F.xxhash64("event_id", number))
        marked = marked.withColumn("event_id", own)
    return marked.withColumn("reason", F.when(is_copy, DUPLICATE).otherwise(F.col("reason"))).drop("_apart")


def _is_told_by_id(settings: IngestSettings) -> bool:
    """Whether usable events with equal ids have equal raw texts, except texts that contain the id's separator."""
    first, *others = settings.each()
    return not others and first.format == "csv" and first.mapping.event_id is None


def with_new_undated(lines: DataFrame, tables: Tables, days: Sequence[date], settings: IngestSettings) -> DataFrame:
    """Assigns rows without a usable time to the last day of this run, unless an earlier run has rejected them already.

    By default they belong to `ingest.start`. Later nights do not load that day again, so new ones would go uncounted.
    """
    undated = ~has_day(settings) & ~F.coalesce(F.col("reason").isin(*NO_FAULTS), F.lit(False))
    known = tables.read("rejects").where(f"NOT ({days_predicate('ds', days)})").groupBy("reason", "raw")
    equal = Window.partitionBy("reason", "raw").orderBy("source_file")
    numbered = lines.where(undated).withColumn("_number", F.row_number().over(equal))
    numbered = numbered.join(known.agg(F.count(F.lit(1)).alias("_known")), on=["reason", "raw"], how="left")
    is_new = F.col("_number") > F.coalesce("_known", F.lit(0))
    day = F.when(is_new, F.lit(max(days))).otherwise(F.col("load_day"))
    return lines.where(~undated).unionByName(numbered.withColumn("load_day", day).drop("_number", "_known"))


def stored_events(tables: Tables, days: Sequence[date], settings: IngestSettings, back: int) -> ByDay:
    """How many events the lake holds, by delivery and event day, of these days' deliveries and all that may share some.

    Args:
        tables: the lake.
        days: delivery days.
        settings: say how far from its delivery an event may lie.
        back: deliveries of this many days before are counted, too.
    """
    before, after = settings.reach
    first = min(days) - timedelta(days=max(back, before + 1))
    last = max(days) + timedelta(days=max(after, 1))
    events = tables.read("interactions").where(f"load_day >= DATE'{first}' AND ds <= DATE'{last}'")
    return {(row["load_day"], row["ds"]): row["count"] for row in events.groupBy("load_day", "ds").count().collect()}


def fresh_events(
    tables: Tables, usable: DataFrame, counts: ByDay, stored: ByDay, days: Sequence[date], settings: IngestSettings
) -> Fresh:
    """Drops events that an earlier delivery holds.

    Args:
        tables: the lake.
        usable: usable events of the deliveries of `days`, with `ds`.
        counts: how many of them there are, by delivery and event day.
        stored: what `stored_events` returns.
        days: delivery days.
        settings: say how late an event may be.
    """
    may_repeat = settings.by_day and settings.late_days > 0
    elsewhere = {ds for load_day, ds in stored if load_day not in days}
    if not may_repeat or elsewhere.isdisjoint(ds for _, ds in counts):
        events, late = usable.withColumn("known_on", F.lit(None).cast("date")), _late(counts)
        return Fresh(events, sum(counts.values()), late if settings.by_day else {}, is_held_later=False)
    events = _without_known(tables, usable, days, settings).persist(StorageLevel.MEMORY_AND_DISK)
    sums = F.count(F.lit(1)).alias("events"), F.count("known_on").alias("later")
    rows = events.groupBy("load_day", "ds").agg(*sums).collect()
    late = _late({(row["load_day"], row["ds"]): row["events"] for row in rows})
    return Fresh(events, sum(row["events"] for row in rows), late, any(row["later"] for row in rows))


def _without_known(tables: Tables, events: DataFrame, days: Sequence[date], settings: IngestSettings) -> DataFrame:
    """The events that no earlier delivery holds; `known_on` is a later delivery that holds the event, too."""
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
    fresh: Fresh,
    stored: ByDay,
    days: Sequence[date],
    settings: IngestSettings,
    touch: Callable[[Iterable[date]], None],
) -> dict[date, int]:
    """Replaces the events of these days' deliveries, and returns the event days that late ones changed.

    Args:
        tables: the lake.
        fresh: what `fresh_events` left, with all columns of `interactions`.
        stored: what `stored_events` returned.
        days: delivery days.
        settings: say how late an event may be.
        touch: called with the event days that late events change, before they change.
    """
    if not settings.by_day:
        tables.overwrite_days("interactions", fresh.events, days)
        return {}
    before = _late({pair: number for pair, number in stored.items() if pair[0] in days})
    late = {day: max(before.get(day, 0), fresh.late.get(day, 0)) for day in sorted({*before, *fresh.late})}
    touch(late)
    gone = None
    if fresh.is_held_later:
        held_later = fresh.events.where("known_on IS NOT NULL")
        gone = held_later.select(*_IDENTITY, F.col("known_on").alias("load_day")).localCheckpoint()
    if any(load_day in days for load_day, _ in stored):
        tables.overwrite_where("interactions", fresh.events, days_predicate("load_day", days))
    else:
        tables.append("interactions", fresh.events)
    if gone is not None:
        tables.delete_matching("interactions", gone, _near(days, settings, "kept.ds"))
    return late


def _near(days: Sequence[date], settings: IngestSettings, column: str = "ds") -> str:
    """SQL for the event days that deliveries of these days can hold."""
    before, after = settings.reach
    reached = DayRange(min(days) - timedelta(days=before), max(days) + timedelta(days=after) + ONE_DAY)
    return days_predicate(column, reached)


def _known(elsewhere: DataFrame, events: DataFrame, settings: IngestSettings) -> DataFrame:
    """Stored events that these may repeat. One of two such copies is late, and late events are few."""
    is_late = delivery_day(F.col("event_ts"), settings) < F.col("load_day")
    late = events.where(is_late).select(*_IDENTITY).distinct()
    on_time = elsewhere.where(~is_late).join(late, on=[*_IDENTITY], how="left_semi")
    return elsewhere.where(is_late).unionByName(on_time)


def _late(events: ByDay) -> dict[date, int]:
    late: dict[date, int] = defaultdict(int)
    for (load_day, ds), number in events.items():
        if ds < load_day:
            late[ds] += number
    return late
