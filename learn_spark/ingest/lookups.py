"""Lookups: columns that lines get from other files, from the row that has the line's key."""

from collections.abc import Mapping
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from learn_spark.config.formats import POSITION
from learn_spark.config.sources import LookupSettings, SourceSettings
from learn_spark.ingest.csv_lines import CORRUPT
from learn_spark.ingest.fields import quoted
from learn_spark.ingest.parse import LOST_DIGITS, first_of
from learn_spark.ingest.readers import BAD_BYTES, INEXACT, RAW

_KEY, _DAY, _FIRST, _LAST = "_lookup_key", "_lookup_day", "_lookup_first", "_lookup_last"


def with_lookups(lines: DataFrame, source: SourceSettings, rows: Mapping[str, DataFrame]) -> DataFrame:
    """The lines with every lookup's columns, such as `order.user_id`, and how many different rows it has: `order.#`.

    The number is null if there is no row, 1 for one row, and 2 if there are several. Each line stays one line.

    Args:
        lines: what `read_lines` returns for the source's own files.
        source: the source of the lines and of the lookups (`lookups_read`).
        rows: what `read_lines` returns for each lookup's files, by its name.
    """
    return reduce(lambda found, each: _joined(found, *each, rows[each[0]]), source.lookups_read().items(), lines)


def unusable_rows(rows: DataFrame, lookup: LookupSettings) -> DataFrame:
    """A lookup's lines that cannot be used, as rows of `rejects`, with `load_day` in place of `ds`."""
    rejected = rows.withColumn("reason", _reason(lookup)).where("reason IS NOT NULL")
    return rejected.select("reason", F.col(RAW).alias("raw"), "source_file", "load_day")


def _joined(lines: DataFrame, name: str, lookup: LookupSettings, rows: DataFrame) -> DataFrame:
    row = F.struct(*(quoted(column).alias(f"c{place}") for place, column in enumerate(lookup.wanted)))
    day = F.col("load_day") if lookup.by_day else F.lit(None).cast("date")
    usable = rows.where(_reason(lookup).isNull())
    usable = usable.select(_key(lookup.key_column).alias(_KEY), day.alias(_DAY), row.alias("row"))
    found = usable.groupBy(_KEY, _DAY).agg(F.min("row").alias(_FIRST), F.max("row").alias(_LAST))
    is_its = _key(lookup.by) == F.col(_KEY)
    if lookup.by_day:
        is_its &= F.col("load_day") == F.col(_DAY)
    number = F.when(F.col(_FIRST) == F.col(_LAST), 1).when(F.col(_FIRST).isNotNull(), 2)
    return lines.join(found, is_its, "left").select(
        *map(quoted, lines.columns),
        *(F.col(_FIRST).getField(f"c{place}").alias(f"{name}.{column}") for place, column in enumerate(lookup.wanted)),
        number.alias(f"{name}.{POSITION}"),
    )


def _key(column: str) -> Column:
    return F.trim(quoted(column))


def _reason(lookup: LookupSettings) -> Column:
    """Why a lookup's row cannot be used; null if it can."""
    key = _key(lookup.key_column)
    return first_of(
        {
            f"bytes that are not {lookup.encoding}": F.col(BAD_BYTES),
            "malformed line": F.col(CORRUPT).isNotNull(),
            LOST_DIGITS: F.col(INEXACT),
            f"missing {lookup.key_column}": key.isNull() | (key == ""),
        }
    )
