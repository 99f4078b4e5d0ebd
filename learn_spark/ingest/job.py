"""Raw log files of days to interactions, items and rejects."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial, reduce

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from learn_spark.config.ingest import IngestSettings
from learn_spark.ingest.catalogue import read_catalogue
from learn_spark.ingest.check import LogFile, check_files
from learn_spark.ingest.deliveries import (
    DUPLICATE,
    Written,
    changed_days,
    with_copies_marked,
    with_new_undated,
    without_known,
    write_events,
)
from learn_spark.ingest.delivery_gates import stop_above_limits, stop_below_usual, stop_on_empty_days
from learn_spark.ingest.files import source_files
from learn_spark.ingest.items import catalogue_items, daily_items, number_items, write_items
from learn_spark.ingest.markers import marks, warn_of_marks
from learn_spark.ingest.parse import NO_BEHAVIOUR, with_events
from learn_spark.ingest.readers import check_headers, read_lines
from learn_spark.ingest.rejects import rejected_lines, unreadable_files
from learn_spark.lake.days import days_predicate
from learn_spark.runs.details import IngestDetails
from learn_spark.runs.ledger import StepResult
from learn_spark.runs.steps import INGEST_EVENTS, Context

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Delivery:
    """The files of some days.

    Attributes:
        sources: the settings of each kind of files.
        good, bad: of each, the files that can be read to their end, and the others.
        unmapped: columns that no mapping uses.
    """

    sources: list[IngestSettings]
    good: list[list[LogFile]]
    bad: list[list[LogFile]]
    unmapped: list[str]

    def lines(self, spark: SparkSession) -> DataFrame:
        """All events, and lines that give none."""
        several = len(self.sources) > 1
        pairs = zip(self.sources, self.good, strict=True)
        frames = (with_events(read_lines(spark, source, good), source, several) for source, good in pairs)
        return reduce(DataFrame.unionByName, frames)

    def unreadable(self, spark: SparkSession) -> DataFrame:
        """The bad files as rejects."""
        pairs = zip(self.sources, self.bad, strict=True)
        return reduce(DataFrame.unionByName, (unreadable_files(spark, each, each.start, bad) for each, bad in pairs))

    def all_bad(self) -> list[LogFile]:
        return [file for files in self.bad for file in files]


def ingest_events(context: Context, days: Sequence[date]) -> StepResult:
    """Reads the days' files; every line ends in interactions, in rejects, or as a counted duplicate.

    A day without a line is done with a warning. Reading and checking of several runs may overlap, publishing may not.

    Raises:
        ConfigError: no file on any day at all, or a file lacks a mapped column; before any work.
        QualityError: what `gates` stops; nothing is published.
    """
    settings = context.config.ingest
    delivery = _delivery(context, days)
    bad_lines = delivery.unreadable(context.spark)
    bad_lines = bad_lines.withColumnRenamed("load_day", "ds").where(days_predicate("ds", days))
    catalogue = read_catalogue(context.spark, settings, days)
    earlier = _done_before(context, days)
    lines = delivery.lines(context.spark)
    if settings.format == "delta" and settings.start not in days and _is_done(context, settings.start):
        lines = lines.transform(with_new_undated, context.tables, days, settings)
    lines = lines.where(days_predicate("load_day", [*earlier, *days])).withColumn("ds", F.to_date("event_ts"))
    lines = lines.transform(with_copies_marked).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        counts = lines.groupBy("load_day", "reason").agg(F.count(F.lit(1)).alias("count"), *marks()).collect()
        with context.publishing:
            changed = changed_days(context.tables, lines.where("reason IS NULL"), earlier)
            context.invalidate(INGEST_EVENTS, changed)
            days = sorted({*days, *changed})
            events = lines.where(days_predicate("load_day", days))
            counts = [row for row in counts if row["load_day"] in days]
            rejects = [rejected_lines(frame) for frame in (events, catalogue) if frame is not None]
            context.tables.overwrite_days("rejects", reduce(DataFrame.unionByName, [*rejects, bad_lines]), days)
            empty = _stop_at_gates(context, counts, delivery.all_bad(), days)
            written = _publish(context, events.where("reason IS NULL"), catalogue, days)
    finally:
        lines.unpersist()
    _warn_of_new_columns(context, delivery.unmapped)
    warn_of_marks(counts)
    return _result(counts, delivery, replace(written, late=written.late | changed), empty)


def _delivery(context: Context, days: Sequence[date]) -> _Delivery:
    sources = context.config.ingest.each()
    delivery = _Delivery(sources, [], [], [])
    for settings in sources:
        found = source_files(settings, days)
        paths = list(dict.fromkeys(path for day in found for path in found[day]))
        files = check_files(context.spark, settings, paths, settings.gates.max_line_bytes)
        delivery.good.append([file for file in files if not file.problem])
        delivery.bad.append([file for file in files if file.problem])
        unmapped = check_headers(delivery.good[-1], settings)
        delivery.unmapped.extend(name for name in unmapped if name not in delivery.unmapped)
    return delivery


def _done_before(context: Context, days: Sequence[date]) -> list[date]:
    """The days before these that rows may have been added to since: a table, unlike a file, has no deliveries."""
    settings = context.config.ingest
    if settings.format != "delta":
        return []
    near = {day - timedelta(days=back) for day in days for back in range(1, settings.late_days + 1)}
    return sorted(day for day in near - set(days) if _is_done(context, day))


def _is_done(context: Context, day: date) -> bool:
    return (INGEST_EVENTS, day) in context.ledger.recorded()


def _stop_at_gates(context: Context, counts: Sequence[Row], bad: Sequence[LogFile], days: Sequence[date]) -> list[date]:
    """The days without a line, where nothing stops the delivery."""
    settings = context.config.ingest
    stop_above_limits(counts, bad, settings)
    with_lines = dict.fromkeys((row["load_day"] for row in counts), 0)
    empty = [day for day in days if day not in with_lines]
    stop_on_empty_days(context.tables, empty, settings)
    usable = with_lines | {row["load_day"]: row["count"] for row in counts if row["reason"] is None}
    stop_below_usual(context.tables, usable, settings)
    return empty


def _publish(context: Context, usable: DataFrame, catalogue: DataFrame | None, days: Sequence[date]) -> Written:
    tables, settings = context.tables, context.config.ingest
    fresh = without_known(tables, usable, days, settings).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        rows = fresh.count()  # not what the write counts: Delta counts rows that it copies, too
        described = daily_items(fresh)
        if catalogue is not None:
            described = described.unionByName(catalogue_items(catalogue))
        number_items(tables, described, fresh)
        write_items(tables, described, days)
        numbered = fresh.join(tables.read("item_index"), on="item_id", how="inner")
        stamped = numbered.withColumn("ingested_at", F.lit(datetime.now(UTC)))
        late = write_events(tables, stamped, days, settings, partial(context.invalidate, INGEST_EVENTS))
        return Written(rows, late)
    finally:
        fresh.unpersist()


def _warn_of_new_columns(context: Context, unmapped: Sequence[str]) -> None:
    """Says what no earlier run has seen; the first run has nothing to compare with."""
    rows = [row for (step, _), row in context.ledger.recorded().items() if step == INGEST_EVENTS]
    known = {column for row in rows for column in IngestDetails.from_json(row.details).unmapped_columns}
    fresh = [column for column in unmapped if column not in known]
    if rows and fresh:
        _log.warning("ingest_events: new columns, which ingest.mapping does not use: %s", ", ".join(fresh))


def _result(counts: list[Row], delivery: _Delivery, written: Written, empty: Sequence[date]) -> StepResult:
    by_reason: dict[str, int] = defaultdict(int)
    for row in counts:
        by_reason[row["reason"] or "usable"] += row["count"]
    usable, copies = by_reason.pop("usable", 0), by_reason.pop(DUPLICATE, 0)
    files = [file for files in (*delivery.good, *delivery.bad) for file in files]
    details = IngestDetails(
        files=len(files),
        bytes=sum(file.bytes for file in files),
        bad_files={file.path: file.problem for file in delivery.all_bad()},
        no_behaviour=by_reason.pop(NO_BEHAVIOUR, 0),
        rejects=dict(sorted(by_reason.items(), key=lambda pair: -pair[1])),
        duplicates=copies + usable - written.rows,
        empty_days=[str(day) for day in empty],
        late={str(day): events for day, events in written.late.items()},
        unmapped_columns=delivery.unmapped,
    )
    rows_in = sum(row["count"] for row in counts)
    return StepResult(rows_in=rows_in, rows_out=written.rows, details=details.as_json())
