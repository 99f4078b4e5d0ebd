"""What could not be used: unreadable files and lines, and when there are too many of them."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from pyspark.sql import DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from learn_spark.core.errors import QualityError
from learn_spark.core.ingest_settings import IngestSettings
from learn_spark.ingest.check import LogFile
from learn_spark.ingest.files import load_day
from learn_spark.ingest.parse import NO_BEHAVIOUR

DUPLICATE = "duplicate"


def with_duplicates_marked(events: DataFrame) -> DataFrame:
    """At-least-once delivery: of equal lines of a day the first stays, the others get a reason."""
    copies = Window.partitionBy("load_day", "event_id", "reason").orderBy("source_file")
    is_copy = F.col("reason").isNull() & (F.row_number().over(copies) > 1)
    return events.withColumn("reason", F.when(is_copy, DUPLICATE).otherwise(F.col("reason")))


def unreadable_files(spark: SparkSession, settings: IngestSettings, bad: Sequence[LogFile]) -> DataFrame:
    rows = [(file.problem.split(":")[0], file.problem, Path(file.path).name, file.path) for file in bad]
    frame = spark.createDataFrame(rows, "reason string, raw string, source_file string, path string")
    day = F.coalesce(load_day(settings, F.col("path")), F.lit(settings.start))
    return frame.withColumn("ds", day).drop("path")


def stop_above_limits(counts: Sequence[Row], bad: Sequence[LogFile], settings: IngestSettings) -> None:
    for file in bad:
        print(f"ingest_events: {file.path}: {file.problem}", file=sys.stderr)
    if len(bad) > settings.max_bad_files:
        named = "; ".join(f"{file.path}: {file.problem}" for file in bad[:3])
        raise QualityError(
            f"{len(bad)} unreadable files, ingest.max_bad_files allows {settings.max_bad_files}:"
            f" {named}; nothing published"
        )
    _stop_above_reject_share(counts, settings)


def _stop_above_reject_share(counts: Sequence[Row], settings: IngestSettings) -> None:
    lines: dict[date, int] = defaultdict(int)
    rejected: dict[date, int] = defaultdict(int)
    reasons: dict[date, dict[str, int]] = defaultdict(dict)
    for row in counts:
        lines[row["load_day"]] += row["count"]
        if row["reason"] not in (None, DUPLICATE, NO_BEHAVIOUR):
            rejected[row["load_day"]] += row["count"]
            reasons[row["load_day"]][row["reason"]] = row["count"]
    above = [day for day in sorted(lines) if rejected[day] > settings.max_reject_share * lines[day]]
    if above:
        day = above[0]
        worst = max(reasons[day], key=lambda reason: reasons[day][reason])
        raise QualityError(
            f"{rejected[day]} of {lines[day]} lines of {day} are rejected, most for `{worst}`;"
            f" ingest.max_reject_share allows {settings.max_reject_share:.0%} ({len(above)} days above it):"
            " see the rejects table; nothing published"
        )
