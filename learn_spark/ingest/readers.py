"""Lines of the log as strings, whatever the order of a file's columns."""

import csv
from collections import defaultdict
from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from learn_spark.core.errors import ConfigError
from learn_spark.core.settings import IngestSettings
from learn_spark.ingest.files import LogFile, day_pattern
from learn_spark.ingest.parse import CORRUPT


def _columns(header: str, settings: IngestSettings) -> list[str]:
    return next(csv.reader([header], delimiter=settings.delimiter), [])


def check_headers(files: Sequence[LogFile], settings: IngestSettings) -> list[str]:
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


def read_lines(spark: SparkSession, settings: IngestSettings, files: Sequence[LogFile]) -> DataFrame:
    """All lines as strings; files with another header are read by their own column order."""
    by_header: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_header[file.header].append(file.path)
    wanted = settings.mapping.source_columns()
    frames = []
    for header, paths in by_header.items():
        schema = ", ".join(f"`{name}` string" for name in [*_columns(header, settings), CORRUPT])
        reader = spark.read.schema(schema).options(
            header=True,
            sep=settings.delimiter,
            encoding=settings.encoding,
            escape='"',
            mode="PERMISSIVE",
            columnNameOfCorruptRecord=CORRUPT,
            columnPruning=False,  # a pruned parser does not notice lines with too few columns
        )
        lines = reader.csv(paths)
        named = lines.withColumn("source_file", F.col("_metadata.file_name")).withColumn(
            "file_day", F.to_date(F.regexp_extract("_metadata.file_path", day_pattern(settings), 1))
        )
        frames.append(named.select(*(f"`{name}`" for name in wanted), CORRUPT, "source_file", "file_day"))
    lines = frames[0]
    for frame in frames[1:]:
        lines = lines.unionByName(frame)
    return lines
