"""Raw log files of days to interactions, items and rejects."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from learn_spark.core.errors import ConfigError, QualityError
from learn_spark.core.ledger import StepResult
from learn_spark.core.steps import Context
from learn_spark.ingest.check import LogFile, check_files
from learn_spark.ingest.files import source_files
from learn_spark.ingest.items import write_items
from learn_spark.ingest.parse import NO_BEHAVIOUR, with_events
from learn_spark.ingest.readers import check_headers, read_lines
from learn_spark.ingest.rejects import DUPLICATE, stop_above_limits, unreadable_files, with_duplicates_marked


def ingest_events(context: Context, days: Sequence[date]) -> StepResult:
    """Reads the days' files; every line ends in interactions, in rejects, or as a counted duplicate.

    Days without a file are left as they are.

    Raises:
        ConfigError: no file, or a file lacks a mapped column; before any work.
        QualityError: too many unreadable files or rejected lines; nothing is published.
    """
    settings = context.config.ingest
    paths = {path: day for day in days for path in source_files(settings, day)}
    if not paths:
        raise ConfigError(
            f"no file matches {settings.path}/{settings.files} for {days[0]} .. {days[-1]}:"
            " check ingest.path, ingest.files and the days"
        )
    files = check_files(context.spark, settings, list(paths))
    good = [file for file in files if not file.problem]
    bad = [file for file in files if file.problem]
    unmapped = check_headers(good, settings)
    bad_lines = unreadable_files(context.spark, settings, bad)
    with_files = sorted(set(paths.values()))
    if not good:
        context.tables.overwrite_days("rejects", bad_lines, with_files)
        raise QualityError(f"none of {len(bad)} files can be read: {bad[0].path}: {bad[0].problem}")
    events = read_lines(context.spark, settings, good).transform(with_events, settings)
    events = events.transform(with_duplicates_marked).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        counts = events.groupBy("load_day", "reason").count().collect()
        _write_rejects(context, events, bad_lines, with_files)
        stop_above_limits(counts, bad, settings)
        _write_events(context, events, with_files)
    finally:
        events.unpersist()
    return _result(counts, files, bad, unmapped)


def _write_rejects(context: Context, events: DataFrame, bad_lines: DataFrame, days: Sequence[date]) -> None:
    rejected = events.where(F.col("reason").isNotNull() & ~F.col("reason").isin(DUPLICATE, NO_BEHAVIOUR))
    lines = rejected.select("reason", "raw", "source_file", F.col("load_day").alias("ds"))
    context.tables.overwrite_days("rejects", lines.unionByName(bad_lines), days)


def _write_events(context: Context, events: DataFrame, days: Sequence[date]) -> None:
    usable = events.where("reason IS NULL").withColumn("ds", F.to_date("event_ts"))
    stamped = usable.withColumn("ingested_at", F.lit(datetime.now(UTC)))
    context.tables.overwrite_days("interactions", stamped, days)
    write_items(context.tables, usable, days)


def _result(counts: list[Row], files: list[LogFile], bad: list[LogFile], new_columns: list[str]) -> StepResult:
    by_reason: dict[str, int] = defaultdict(int)
    for row in counts:
        by_reason[row["reason"] or "usable"] += row["count"]
    rows_out, duplicates = by_reason.pop("usable", 0), by_reason.pop(DUPLICATE, 0)
    return StepResult(
        rows_in=sum(row["count"] for row in counts),
        rows_out=rows_out,
        writes=("interactions", "items", "item_index", "rejects"),
        details={
            "files": len(files),
            "bytes": sum(file.bytes for file in files),
            "bad_files": {file.path: file.problem for file in bad},
            "rejects": dict(sorted(by_reason.items(), key=lambda pair: -pair[1])),
            "duplicates": duplicates,
            "unmapped_columns": new_columns,
        },
    )
