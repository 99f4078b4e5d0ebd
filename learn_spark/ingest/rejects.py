"""What could not be used: unreadable files and lines, and when there are too many of them."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from learn_spark.core.errors import QualityError
from learn_spark.core.ingest_settings import IngestSettings, SourceSettings
from learn_spark.ingest.check import LogFile
from learn_spark.ingest.deliveries import DUPLICATE
from learn_spark.ingest.files import load_day
from learn_spark.ingest.parse import NO_BEHAVIOUR


def rejected_lines(lines: DataFrame) -> DataFrame:
    """Lines that could not be used, as rows of `rejects`; copies and lines without an event are only counted."""
    rejected = lines.where(F.col("reason").isNotNull() & ~F.col("reason").isin(DUPLICATE, NO_BEHAVIOUR))
    return rejected.select("reason", "raw", "source_file", F.col("load_day").alias("ds"))


def unreadable_files(spark: SparkSession, source: SourceSettings, start: date, bad: Sequence[LogFile]) -> DataFrame:
    """A row a file: reason, raw, source_file, load_day (`start` where file names hold none)."""
    rows = [(file.problem.split(":")[0], file.problem, Path(file.path).name, file.path) for file in bad]
    frame = spark.createDataFrame(rows, "reason string, raw string, source_file string, path string")
    day = F.coalesce(load_day(source, F.col("path")), F.lit(start))
    return frame.withColumn("load_day", day).drop("path")


def in_words(bad: Sequence[LogFile]) -> str:
    """The first few of them, each with its problem."""
    return "; ".join(f"{file.path}: {file.problem}" for file in bad[:3])


def stop_above_limits(counts: Sequence[Row], bad: Sequence[LogFile], settings: IngestSettings) -> None:
    for file in bad:
        print(f"ingest_events: {file.path}: {file.problem}", file=sys.stderr)
    if len(bad) > settings.max_bad_files:
        raise QualityError(
            f"{len(bad)} unreadable files, ingest.max_bad_files allows {settings.max_bad_files}:"
            f" {in_words(bad)}; nothing published"
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
