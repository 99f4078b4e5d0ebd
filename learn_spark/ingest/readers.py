"""Lines of the log as strings, whatever the order, number or types of a file's columns."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DataType,
    DateType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from learn_spark.config.ingest import IngestSettings, SourceSettings
from learn_spark.config.sources import beginning, hive_keys
from learn_spark.errors import ConfigError
from learn_spark.ingest.check import LogFile
from learn_spark.ingest.csv_lines import CORRUPT, is_well_formed, value_of, with_fields
from learn_spark.ingest.fields import quoted
from learn_spark.ingest.files import literal, load_day, plain
from learn_spark.ingest.records import REPLACEMENT
from learn_spark.ingest.shapes import (
    UNEVEN,
    Value,
    beginnings,
    exploded,
    keys_of_path,
    value_at,
    values_of_path,
    without_nulls,
)
from learn_spark.ingest.text_lines import PATH, needs_python, text_lines

_log = logging.getLogger(__name__)

RAW, BAD_BYTES = "_raw", "_bad_bytes"
RAW_BYTES = 4096


def check_headers(files: Sequence[LogFile], settings: SourceSettings) -> list[str]:
    """Stops where a mapped column is missing; returns the columns that no mapping uses.

    JSON lines may leave keys out: there only the ids and the time must be among the first lines' keys, and for the
    others a line on stderr says that they were not seen.
    """
    unmapped: dict[str, None] = {}
    for file in files:
        lacking = settings.lacking(file.columns, hive_keys(file.path))
        if settings.format == "json":
            lacking = _lacking_keys(file, lacking, settings)
        if lacking:
            section = "ingest" if isinstance(settings, IngestSettings) else "ingest.items"
            raise ConfigError(
                f"{file.path} has no column {', '.join(lacking)}, which {section}.mapping names;"
                f" it has {', '.join(file.columns)}"
            )
        used = {beginning(settings.holder(name), file.columns) for name in settings.source_columns()}
        unmapped.update(dict.fromkeys(name for name in file.columns if name not in used))
    return list(unmapped)


def _lacking_keys(file: LogFile, lacking: Sequence[str], settings: SourceSettings) -> list[str]:
    if not file.columns:
        return []  # not one of the first lines is an object: they are rejected one by one
    required = {*settings.mapping.required_columns(), *settings.exploded()}
    optional = [name for name in lacking if name not in required]
    if optional:
        _log.warning("warning: %s: no %s in its first lines", file.path, ", ".join(optional))
    return [name for name in lacking if name in required]


def read_lines(spark: SparkSession, settings: SourceSettings, files: Sequence[LogFile]) -> DataFrame:
    """All lines: the mapped columns as strings, `source_file`, `load_day`, and what is known of the line itself.

    Files with other columns, or columns of other types, are read each by their own. `load_day` is null where file
    names hold no day. `_corrupt_record` is the text of a malformed line, `_raw` that of any line, cut at 4 KiB;
    `_bad_bytes` says whether it is not in `encoding`.
    """
    if not files:
        return spark.createDataFrame([], _no_lines(settings))
    alike: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for file in files:
        told = keys_of_path(settings, file.path, file.columns)
        key = (told,) if settings.format == "json" else (file.columns, file.types, file.header, told)
        alike[(*key, not settings.is_typed and needs_python(settings, file))].append(file.path)
    reader = {"csv": _read_csv, "json": _read_json, "parquet": _read_typed, "delta": _read_typed}[settings.format]
    by_path = {file.path: file for file in files}
    frames = [reader(spark, settings, by_path[paths[0]], paths) for paths in alike.values()]
    return reduce(DataFrame.unionByName, frames)


def _no_lines(settings: SourceSettings) -> StructType:
    texts = [*settings.source_columns(), CORRUPT, RAW, "source_file"]
    others = [StructField(BAD_BYTES, BooleanType()), StructField("load_day", DateType())]
    return StructType([*(StructField(name, StringType()) for name in texts), *others])


def _selected(lines: DataFrame, settings: SourceSettings, **columns: Column) -> DataFrame:
    """The frame's contract."""
    return lines.select(
        *(column.alias(name) for name, column in columns.items()),
        F.element_at(F.split(PATH, "/"), -1).alias("source_file"),
        load_day(settings, F.col(PATH)).alias("load_day"),
    )


def _texts(settings: SourceSettings, like: LogFile, tops: Mapping[str, Value]) -> dict[str, Column]:
    """Every mapped column as text."""
    told = keys_of_path(settings, like.path, like.columns)
    values = {**tops, **values_of_path(settings, told, F.col(PATH))}
    found = {name: values.get(name) or value_at(name, tops) for name in settings.source_columns()}
    texts = {
        name: _as_text(each.column, each.kind, each.stored) if each else _nothing() for name, each in found.items()
    }
    return {name: without_nulls(text, settings) for name, text in texts.items()}


def _read_csv(spark: SparkSession, settings: SourceSettings, like: LogFile, paths: list[str]) -> DataFrame:
    # By place: Spark takes names that differ in case, or appear twice, for one.
    places = {name: f"_{place}" for place, name in reversed(list(enumerate(like.columns)))}
    lines = text_lines(spark, settings, like, paths)
    lines = lines.select("value", PATH, with_fields(F.col("value"), settings, len(like.columns)).alias("line"))
    is_good = F.col(f"line.{CORRUPT}").isNull() & is_well_formed(F.col("value"), settings)
    lines = lines.withColumn(CORRUPT, F.when(~is_good, F.col("value")))
    tops = {name: Value(value_of(F.col("line").getField(place), settings)) for name, place in places.items()}
    rows, tops = exploded(lines, settings, tops)
    mapped = _texts(settings, like, tops)
    corrupt = _corrupt(settings, F.concat_ws(settings.delimiter, *mapped.values()))
    raw = F.coalesce(corrupt, F.concat_ws(settings.delimiter, *mapped.values()))
    return _selected(
        rows, settings, **mapped, **{CORRUPT: corrupt, RAW: _cut(raw), BAD_BYTES: F.contains(raw, F.lit(REPLACEMENT))}
    )


def _corrupt(settings: SourceSettings, raw: Column) -> Column:
    """A malformed line's text; of one whose lists do not fit, what is left of it."""
    return F.coalesce(F.col(CORRUPT), F.when(F.col(UNEVEN), raw)) if settings.explode else F.col(CORRUPT)


def _read_json(spark: SparkSession, settings: SourceSettings, like: LogFile, paths: list[str]) -> DataFrame:
    """Lines as text, parsed by a schema of strings: numbers and nested values keep their JSON text."""
    asked = [*settings.source_columns(), *settings.exploded()]
    names = list(dict.fromkeys(key for name in asked for key in beginnings(settings.holder(name))))
    schema = StructType([StructField(name, StringType()) for name in [*names, CORRUPT]])
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT}
    text = F.col("value")
    is_object = F.trim(text).startswith("{") & F.trim(text).endswith("}")  # the parser stops at its end
    parsed = text_lines(spark, settings, like, paths).withColumn("line", F.from_json(text, schema, options))
    parsed = parsed.select(
        PATH,
        "line",
        _cut(text).alias(RAW),
        (~F.col("is_whole")).alias(BAD_BYTES),
        F.when(~is_object, text).otherwise(F.col(f"line.{CORRUPT}")).alias(CORRUPT),
    )
    tops = {name: Value(F.col("line").getField(name)) for name in names}
    rows, tops = exploded(parsed, settings, tops)
    own = {RAW: F.col(RAW), BAD_BYTES: F.col(BAD_BYTES), CORRUPT: _corrupt(settings, F.col(RAW))}
    return _selected(rows, settings, **_texts(settings, like, tops), **own)


def _read_typed(spark: SparkSession, settings: SourceSettings, like: LogFile, paths: list[str]) -> DataFrame:
    """Parquet files or a Delta table: every type as its text."""
    rows = spark.read.format(settings.format).load(literal(paths) if settings.format == "parquet" else paths[0])
    arrow = dict(zip(like.columns, like.types, strict=True))
    asked = [*settings.source_columns(), *settings.exploded()]
    names = {each: None for name in asked if (each := beginning(settings.holder(name), like.columns))}
    tops = {name: Value(quoted(name), rows.schema[name].dataType, arrow[name]) for name in names}
    rows = rows.withColumn(PATH, plain(F.col("_metadata.file_path")))
    rows, tops = exploded(rows, settings, tops)
    mapped = _texts(settings, like, tops)
    raw = F.to_json(F.struct(*(column.alias(name) for name, column in mapped.items())))
    valid = F.coalesce(reduce(Column.__and__, map(F.is_valid_utf8, mapped.values())), F.lit(True))
    corrupt = F.when(F.col(UNEVEN), raw) if settings.explode else _nothing()
    bad = {BAD_BYTES: ~F.coalesce(valid, F.lit(True))}
    return _selected(rows, settings, **mapped, **{CORRUPT: corrupt, RAW: _cut(F.make_valid_utf8(raw))}, **bad)


def _nothing() -> Column:
    return F.lit(None).cast("string")


def _as_text(column: Column, kind: DataType, arrow: str) -> Column:
    if arrow.startswith("timestamp[ns"):  # Spark has no nanoseconds and reads them as a long
        column, kind = F.timestamp_micros(F.floor(column / 1000)), TimestampType()
        if "tz=" not in arrow:
            return column.cast("string")
    if isinstance(kind, ArrayType | MapType | StructType):
        return F.to_json(column)
    if isinstance(kind, TimestampType):
        return F.concat(column.cast("string"), F.lit("Z"))
    return column.cast("string")


def _cut(text: Column) -> Column:
    return F.substring(text, 1, RAW_BYTES)
