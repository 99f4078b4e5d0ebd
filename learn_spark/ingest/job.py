"""Turns raw log files of days into interactions, items and rejects."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial, reduce

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.config.ingest import IngestSettings
from learn_spark.ingest.catalogue import Catalogue, read_catalogue
from learn_spark.ingest.coverage import require_coverage
from learn_spark.ingest.deliveries import (
    Fresh,
    changed_days,
    fresh_events,
    stored_events,
    with_copies_marked,
    with_new_undated,
    write_events,
)
from learn_spark.ingest.delivery_gates import (
    days_before,
    stop_above_limits,
    stop_above_reject_share,
    stop_below_usual,
    stop_on_empty_days,
)
from learn_spark.ingest.forgotten import without_forgotten, without_raw_of_forgotten
from learn_spark.ingest.id_types import id_types, say_changed_types
from learn_spark.ingest.items import DETAILS, catalogue_items, daily_items, number_items, with_numbers, write_items
from learn_spark.ingest.line_counts import DUPLICATE, ByDay, Lines, by_delivery, by_reason, counted, usable_events
from learn_spark.ingest.markers import marks, warn_of_marks
from learn_spark.ingest.parse import NO_BEHAVIOUR, UNWANTED, is_dated, num_lines
from learn_spark.ingest.reading import Delivery, read_delivery, unchanged
from learn_spark.ingest.rejects import rejected_lines
from learn_spark.lake.days import days_predicate
from learn_spark.lake.tombstones import Tombstones, read_tombstones
from learn_spark.runs.details import IngestDetails
from learn_spark.runs.ledger import StepResult
from learn_spark.runs.steps import INGEST_EVENTS, Context

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Read:
    """What was read for some days.

    Attributes:
        everything: a row per event or line, of all days that the files hold.
        lines: the rows of these days, and of the `earlier` days to which rows may have been added.
        tombstones: what the lake has forgotten; its lines have FORGOTTEN as their reason.
    """

    delivery: Delivery
    catalogue: Catalogue | None
    everything: DataFrame
    lines: DataFrame
    earlier: list[date]
    tombstones: Tombstones | None


def ingest_events(context: Context, days: Sequence[date]) -> StepResult:
    """Reads the days' files; every line ends in interactions, in rejects, or as a counted duplicate.

    A day without a line counts as done, with a warning. Several runs may read and check at the same time, but not
    publish.

    Raises:
        ConfigError: no day at all has a file, or a file lacks a mapped column; raised before any work.
        QualityError: one of `gates` failed; nothing is published, except rejects.
    """
    settings = context.config.ingest
    delivery = read_delivery(context, days)
    tombstones = read_tombstones(context.tables)
    catalogue = read_catalogue(context.spark, settings, days)
    everything = delivery.lines(context.spark)
    if tombstones:
        everything = without_forgotten(everything, tombstones)
        catalogue = catalogue and replace(catalogue, lines=without_forgotten(catalogue.lines, tombstones))
    earlier = _done_before(context, days)
    lines = _of_days(context, everything, [*earlier, *days], days)
    kept = [lines, catalogue.lines] if catalogue else [lines]
    for frame in kept:
        frame.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        files = [*delivery.all_good(), *(catalogue.source.all_good() if catalogue else [])]
        with unchanged(files, context.config.lake.options):
            return _ingested(context, _Read(delivery, catalogue, everything, lines, earlier, tombstones), days)
    finally:
        for frame in kept:
            frame.unpersist()


def _of_days(context: Context, everything: DataFrame, wanted: Sequence[date], days: Sequence[date]) -> DataFrame:
    """The lines of the wanted days, copies marked. New lines without a day belong to the last of `days`."""
    settings, lines = context.config.ingest, everything
    if settings.format == "delta" and settings.start not in days and _is_done(context, settings.start):
        lines = lines.transform(with_new_undated, context.tables, days, settings)
    lines = lines.where(days_predicate("load_day", wanted)).withColumn("ds", F.to_date("event_ts"))
    return with_copies_marked(lines, settings)


def _ingested(context: Context, read: _Read, days: Sequence[date]) -> StepResult:
    settings, delivery, catalogue = context.config.ingest, read.delivery, read.catalogue
    counts = counted(read.lines, F.col("ds"), is_dated(settings), *marks())
    of_catalogue = counted(catalogue.lines, F.lit(None).cast("date"), F.lit(True)) if catalogue else []
    bad_lines = delivery.unusable(context.spark)
    if catalogue:
        bad_lines += catalogue.source.unusable(context.spark, settings.start)
    bad_rows = [frame.withColumnRenamed("load_day", "ds") for frame in bad_lines]
    with context.publishing:
        changed = changed_days(context.tables, read.lines.where("reason IS NULL"), read.earlier)
        context.invalidate(INGEST_EVENTS, changed)
        days = sorted({*days, *changed})
        counts = [row for row in counts if row.load_day in days]
        events = read.lines.where(days_predicate("load_day", days))
        rejects = [rejected_lines(events), *([rejected_lines(catalogue.lines)] if catalogue else []), *bad_rows]
        rows = reduce(DataFrame.unionByName, rejects).where(days_predicate("ds", days))
        rows = without_raw_of_forgotten(rows, read.tombstones) if read.tombstones else rows
        context.tables.overwrite_days("rejects", rows, days)
        stop_above_reject_share(of_catalogue, settings.gates.max_reject_share, "the catalogue of ")
        stop_above_limits(counts, delivery.all_bad(), settings, partial(num_lines, read.everything))
        usable, empty = usable_events(counts), _empty_days(counts, days)
        looks_back = settings.by_day or empty
        stored = stored_events(context.tables, days, settings, days_before(settings)) if looks_back else {}
        loaded = by_delivery(stored)
        stop_on_empty_days(loaded, empty, settings)
        with_lines = dict.fromkeys(set(days).difference(empty), 0)
        stop_below_usual(loaded, with_lines | by_delivery(usable), settings)
        fresh = fresh_events(context.tables, events.where("reason IS NULL"), usable, stored, days, settings)
        try:
            late = _publish(context, fresh, stored, catalogue, days)
        finally:
            fresh.events.unpersist()
    earlier = _earlier_details(context)
    _warn_of_new_columns(earlier, delivery.unmapped())
    warn_of_marks(counts)
    types = id_types(source for _, source in delivery.sources)
    say_changed_types(types, [each.id_types for each in earlier])
    details = _details(counts, delivery, fresh.rows, late | changed)
    details = replace(
        details,
        empty_days=[str(day) for day in empty],
        catalogue_lines=sum(row.lines for row in of_catalogue),
        catalogue_rejects=by_reason(row for row in of_catalogue if row.is_reject),
        id_types={name: list(kinds) for name, kinds in types.items()},
    )
    return StepResult(rows_in=sum(row.lines for row in counts), rows_out=fresh.rows, details=details.as_json())


def _done_before(context: Context, days: Sequence[date]) -> list[date]:
    """The done days before these to which rows may have been added since: a table, unlike files, has no deliveries."""
    settings = context.config.ingest
    if settings.format != "delta":
        return []
    near = {day - timedelta(days=back) for day in days for back in range(1, settings.late_days + 1)}
    return sorted(day for day in near - set(days) if _is_done(context, day))


def _is_done(context: Context, day: date) -> bool:
    return (INGEST_EVENTS, day) in context.ledger.recorded()


def _empty_days(counts: Sequence[Lines], days: Sequence[date]) -> list[date]:
    with_lines = {row.load_day for row in counts if row.is_dated}
    return [day for day in days if day not in with_lines]


def _publish(
    context: Context, fresh: Fresh, stored: ByDay, catalogue: Catalogue | None, days: Sequence[date]
) -> dict[date, int]:
    """Writes item numbers, item versions and events, in this order; returns what `write_events` returns."""
    tables, settings = context.tables, context.config.ingest
    items = daily_items(fresh.events, _details_told(settings))
    if catalogue is not None:
        items = items.unionByName(catalogue_items(catalogue.lines))
    items = with_numbers(tables, items).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        if settings.items is not None and (catalogue is not None or not tables.read("items").isEmpty()):
            described = items.where("title IS NOT NULL").select("item_id")
            known = tables.read("items").select("item_id").unionByName(described)
            require_coverage(fresh.events, known, settings.gates.min_catalogue_share)
        numbers = number_items(tables, items, is_once=catalogue is None and len(days) == 1)
        write_items(tables, items, days)
        numbered = fresh.events.join(numbers, on="item_id", how="inner")
        stamped = numbered.withColumn("ingested_at", F.lit(datetime.now(UTC)))
        touch = partial(context.invalidate, INGEST_EVENTS)
        return write_events(tables, replace(fresh, events=stamped), stored, days, settings, touch)
    finally:
        items.unpersist()


def _details_told(settings: IngestSettings) -> set[str]:
    """Those DETAILS that the events may have of an item."""
    return {name for each in settings.each() for name in DETAILS if getattr(each.mapping, name)}


def _earlier_details(context: Context) -> list[IngestDetails]:
    rows = context.ledger.recorded().items()
    return [IngestDetails.from_json(row.details) for (step, _), row in rows if step == INGEST_EVENTS]


def _warn_of_new_columns(earlier: Sequence[IngestDetails], unmapped: Sequence[str]) -> None:
    """Warns of unmapped columns that no earlier run has seen; the first run has nothing to compare with."""
    known = {column for details in earlier for column in details.unmapped_columns}
    fresh = [column for column in unmapped if column not in known]
    if earlier and fresh:
        _log.warning("ingest_events: new columns, which ingest.mapping does not use: %s", ", ".join(fresh))


def _details(counts: Sequence[Lines], delivery: Delivery, written: int, late: Mapping[date, int]) -> IngestDetails:
    """The details of a run that wrote `written` events; `late` holds the late events that it changed, by event day."""
    usable = sum(row.lines for row in counts if row.reason is None)
    copies = sum(row.lines for row in counts if row.reason == DUPLICATE)
    unwanted = by_reason(row for row in counts if row.reason in UNWANTED)
    if unwanted:
        said = ", ".join(f"{lines:,} {reason}" for reason, lines in unwanted.items())
        _log.warning("ingest_events: lines that are not wanted, and no rejects: %s", said)
    files = [*delivery.all_good(), *delivery.all_bad()]
    return IngestDetails(
        files=len(files),
        bytes=sum(file.bytes for file in files),
        bad_files={file.path: file.problem for file in delivery.all_bad()},
        no_behaviour=sum(row.lines for row in counts if row.reason == NO_BEHAVIOUR),
        not_wanted=unwanted,
        rejects=by_reason(row for row in counts if row.is_reject),
        duplicates=copies + usable - written,
        late={str(day): events for day, events in late.items()},
        unmapped_columns=delivery.unmapped(),
    )
