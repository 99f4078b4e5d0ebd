"""The item catalogue: descriptions of items from files beside the log."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from learn_spark.config.ingest import IngestSettings, ItemsSettings
from learn_spark.errors import QualityError
from learn_spark.ingest.fields import mapped, mapped_time
from learn_spark.ingest.files import catalogue_files
from learn_spark.ingest.parse import (
    LOST_DIGITS,
    TEXTS,
    described,
    first_of,
    line_reasons,
    problems,
    time_out_of_range,
    value_reasons,
)
from learn_spark.ingest.pivot import pivoted
from learn_spark.ingest.readers import RAW
from learn_spark.ingest.reading import SourceLines, read_source
from learn_spark.ingest.rejects import in_words

_log = logging.getLogger(__name__)

COLUMNS = ("item_id", *TEXTS, "price", "attributes", "valid_from", "raw", "reason", "source_file", "load_day")


@dataclass(frozen=True)
class Catalogue:
    """The content of the catalogue's files of some days.

    Attributes:
        lines: a row per line; `reason` is null if the line is usable. `valid_from` is the mapped time, else the
            midnight of the file's day, else that of `ingest.start`.
        source: the catalogue's files, and those of its lookups.
    """

    lines: DataFrame
    source: SourceLines


def read_catalogue(spark: SparkSession, settings: IngestSettings, days: Sequence[date]) -> Catalogue | None:
    """Reads the days' catalogue files; None if there are none.

    Raises:
        ConfigError: a file lacks a mapped column.
        QualityError: more than `max_bad_files` files cannot be read.
    """
    found = catalogue_files(settings, days)
    if settings.items is None or not any(found.values()):
        return None
    source = read_source(spark, settings.items, found, settings.gates.max_line_bytes)
    bad = source.all_bad()
    if len(bad) > settings.gates.max_bad_files:
        allowed = f"ingest.gates.max_bad_files allows {settings.gates.max_bad_files}"
        raise QualityError(f"{len(bad)} unreadable catalogue files, {allowed}: {in_words(bad)}")
    if source.unmapped:
        _log.warning("ingest.items: not mapped: %s", ", ".join(source.unmapped))
    lines = source.lines(spark).transform(pivoted, settings.items)
    return Catalogue(_with_items(lines, settings.items, settings.start), source)


def _with_items(lines: DataFrame, settings: ItemsSettings, start: date) -> DataFrame:
    mapping = settings.mapping
    valid_from = F.coalesce(F.col("load_day"), F.lit(start)).cast("timestamp")
    if mapping.valid_from:
        valid_from = mapped_time(mapping.valid_from, settings.has_types(mapping.valid_from.column))
    parsed = lines.select(
        mapped(mapping.item_id).alias("item_id"),
        *described(mapping),
        valid_from.alias("valid_from"),
        F.col(RAW).alias("raw"),
        *(column.alias(name) for name, column in problems(settings).items()),
        "source_file",
        F.coalesce("load_day", F.lit(start)).alias("load_day"),
    )
    reasons: dict[str, Column] = {
        **line_reasons(settings),
        LOST_DIGITS: F.col("_inexact"),
        "missing item": F.col("item_id").isNull(),
        "unparsable time": F.col("valid_from").isNull(),
        "time out of range": time_out_of_range(F.col("valid_from")),
        **value_reasons(mapping, is_described=True),
    }
    return parsed.withColumn("reason", first_of(reasons)).select(*COLUMNS)
