"""Raw log files of days to interactions, items and rejects."""

import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from learn_spark.core.errors import ConfigError, QualityError
from learn_spark.core.ledger import StepResult
from learn_spark.core.settings import IngestSettings
from learn_spark.core.steps import Context
from learn_spark.core.tables import Tables
from learn_spark.ingest.files import LogFile, check_files, day_pattern, source_files
from learn_spark.ingest.items import write_items
from learn_spark.ingest.parse import CORRUPT, with_events

DUPLICATE = "duplicate"


def ingest_events(context: Context, days: Sequence[date]) -> StepResult:
    """Reads the days' files; every line ends in interactions, in rejects, or as a counted duplicate."""
    settings, tables = context.config.ingest, context.tables
    paths = {path: day for day in days for path in source_files(settings, day)}
    if not paths:
        raise ConfigError(
            f"no file matches {settings.path}/{settings.files} for {days[0]} .. {days[-1]}:"
            " check ingest.path, ingest.files and the days"
        )
    files = check_files(context.spark, settings, list(paths))
    good = [file for file in files if not file.problem]
    bad = [file for file in files if file.problem]
    new_columns = _check_headers(good, settings)
    bad_lines = _bad_file_rejects(context.spark, settings, bad)
    if not good:
        _stop_on_bad_files(tables, bad_lines, bad, settings, sorted(set(paths.values())))
    events = _read(context.spark, settings, good).transform(with_events, settings)
    events = _with_duplicates_marked(events).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        return _publish(tables, settings, events, bad_lines, bad, sorted(set(paths.values())), files, new_columns)
    finally:
        events.unpersist()


def _publish(
    tables: Tables,
    settings: IngestSettings,
    events: DataFrame,
    bad_lines: DataFrame,
    bad: list[LogFile],
    days: list[date],
    files: list[LogFile],
    new_columns: list[str],
) -> StepResult:
    counts = events.groupBy("file_day", "reason").count().collect()
    rejected = events.where(F.col("reason").isNotNull() & (F.col("reason") != DUPLICATE))
    rejects = rejected.select("reason", "raw", "source_file", F.col("file_day").alias("ds")).unionByName(bad_lines)
    tables.overwrite_days("rejects", rejects, days)
    _stop_above_limits(counts, bad, settings)
    usable = (
        events.where("reason IS NULL")
        .withColumn("ds", F.to_date("event_ts"))
        .withColumn("ingested_at", F.lit(datetime.now(UTC)))
    )
    tables.overwrite_days("interactions", usable, days)
    write_items(tables, usable, days)
    return _result(counts, files, bad, new_columns)


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


def _columns(header: str, settings: IngestSettings) -> list[str]:
    return next(csv.reader([header], delimiter=settings.delimiter), [])


def _check_headers(files: list[LogFile], settings: IngestSettings) -> list[str]:
    """Stops where a mapped column is missing; returns the columns that no mapping uses."""
    wanted = settings.mapping.source_columns()
    unmapped: dict[str, None] = {}
    for file in files:
        there = _columns(file.header, settings)
        lacking = [name for name in wanted if name not in there]
        if lacking:
            raise ConfigError(
                f"{file.path} has no column {', '.join(lacking)}, which ingest.mapping names; it has {', '.join(there)}"
            )
        unmapped.update(dict.fromkeys(name for name in there if name not in wanted))
    return list(unmapped)


def _read(spark: SparkSession, settings: IngestSettings, files: list[LogFile]) -> DataFrame:
    """All lines as strings; files with another header are read by their own column order."""
    by_header: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_header[file.header].append(file.path)
    wanted = settings.mapping.source_columns()
    frames = []
    for header, paths in by_header.items():
        schema = ", ".join(f"`{name}` string" for name in [*_columns(header, settings), CORRUPT])
        lines = spark.read.csv(
            paths,
            schema=schema,
            header=True,
            sep=settings.delimiter,
            encoding=settings.encoding,
            escape='"',
            mode="PERMISSIVE",
            columnNameOfCorruptRecord=CORRUPT,
            enforceSchema=True,
        )
        named = lines.withColumn("source_file", F.col("_metadata.file_name")).withColumn(
            "file_day", F.to_date(F.regexp_extract("_metadata.file_path", day_pattern(settings), 1))
        )
        frames.append(named.select(*(f"`{name}`" for name in wanted), CORRUPT, "source_file", "file_day"))
    lines = frames[0]
    for frame in frames[1:]:
        lines = lines.unionByName(frame)
    return lines


def _with_duplicates_marked(events: DataFrame) -> DataFrame:
    """At-least-once delivery: of equal lines of a day the first stays, the others get a reason."""
    from pyspark.sql import Window

    copies = Window.partitionBy("file_day", "event_id", "reason").orderBy("source_file")
    is_copy = F.col("reason").isNull() & (F.row_number().over(copies) > 1)
    return events.withColumn("reason", F.when(is_copy, DUPLICATE).otherwise(F.col("reason")))


def _bad_file_rejects(spark: SparkSession, settings: IngestSettings, bad: list[LogFile]) -> DataFrame:
    rows = [(file.problem.split(":")[0], file.problem, Path(file.path).name, file.path) for file in bad]
    frame = spark.createDataFrame(rows, "reason string, raw string, source_file string, path string")
    return frame.withColumn("ds", F.to_date(F.regexp_extract("path", day_pattern(settings), 1))).drop("path")


def _stop_on_bad_files(
    tables: Tables, rejects: DataFrame, bad: list[LogFile], settings: IngestSettings, days: list[date]
) -> None:
    tables.overwrite_days("rejects", rejects, days)
    raise QualityError(f"none of {len(bad)} files can be read: {bad[0].path}: {bad[0].problem}")


def _stop_above_limits(counts: list[Row], bad: list[LogFile], settings: IngestSettings) -> None:
    for file in bad:
        print(f"ingest_events: {file.path}: {file.problem}", file=sys.stderr)
    if len(bad) > settings.max_bad_files:
        named = "; ".join(f"{file.path}: {file.problem}" for file in bad[:3])
        raise QualityError(
            f"{len(bad)} unreadable files, ingest.max_bad_files allows {settings.max_bad_files}: {named}; nothing published"
        )
    lines: dict[date, int] = defaultdict(int)
    rejected: dict[date, int] = defaultdict(int)
    reasons: dict[date, dict[str, int]] = defaultdict(dict)
    for row in counts:
        lines[row["file_day"]] += row["count"]
        if row["reason"] not in (None, DUPLICATE):
            rejected[row["file_day"]] += row["count"]
            reasons[row["file_day"]][row["reason"]] = row["count"]
    above = [day for day in sorted(lines) if rejected[day] > settings.max_reject_share * lines[day]]
    if above:
        day = above[0]
        worst = max(reasons[day], key=lambda reason: reasons[day][reason])
        raise QualityError(
            f"{rejected[day]} of {lines[day]} lines of {day} are rejected, most for `{worst}`; ingest.max_reject_share"
            f" allows {settings.max_reject_share:.0%} ({len(above)} days above it): see the rejects table;"
            " nothing published"
        )
