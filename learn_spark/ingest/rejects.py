"""What could not be used: unreadable files and lines."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from learn_spark.config.formats import FilesSettings
from learn_spark.ingest.check import LogFile
from learn_spark.ingest.files import load_day
from learn_spark.ingest.line_counts import DUPLICATE
from learn_spark.ingest.parse import NO_FAULTS
from learn_spark.lake.frames import frame_of


def rejected_lines(lines: DataFrame) -> DataFrame:
    """Lines that could not be used, as rows of `rejects`; copies and unwanted lines are only counted elsewhere."""
    rejected = lines.where(F.col("reason").isNotNull() & ~F.col("reason").isin(DUPLICATE, *NO_FAULTS))
    return rejected.select("reason", "raw", "source_file", F.col("load_day").alias("ds"))


def unreadable_files(spark: SparkSession, source: FilesSettings, start: date, bad: Sequence[LogFile]) -> DataFrame:
    """A row per file: reason, raw, source_file, load_day (`start` if file names have no day)."""
    rows = [(file.problem.split(":")[0], file.problem, Path(file.path).name, file.path) for file in bad]
    frame = frame_of(spark, rows, "reason string, raw string, source_file string, path string")
    day = F.coalesce(load_day(source, F.col("path")), F.lit(start))
    return frame.withColumn("load_day", day).drop("path")


def in_words(bad: Sequence[LogFile]) -> str:
    """The first three files, each with its problem."""
    return "; ".join(f"{file.path}: {file.problem}" for file in bad[:3])
