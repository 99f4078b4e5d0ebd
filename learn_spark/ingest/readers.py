"""Lines of the log as strings, whatever the order, number or types of a file's columns."""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
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
from learn_spark.errors import ConfigError
from learn_spark.ingest.check import LogFile
from learn_spark.ingest.fields import quoted
from learn_spark.ingest.files import load_day

_log = logging.getLogger(__name__)

CORRUPT = "_corrupt_record"
RAW, BAD_BYTES = "_raw", "_bad_bytes"
RAW_BYTES = 4096
MOST_COLUMNS = 1 << 20  # the parser holds 8 bytes for each
REPLACEMENT = "\ufffd"


def check_headers(files: Sequence[LogFile], settings: SourceSettings) -> list[str]:
    """Stops where a mapped column is missing; returns the columns that no mapping uses.

    JSON lines may leave keys out: there only the ids and the time must be among the first lines' keys, and for the
    others a line on stderr says that they were not seen.
    """
    wanted = settings.mapping.source_columns()
    unmapped: dict[str, None] = {}
    for file in files:
        lacking = [name for name in wanted if name not in file.columns]
        if settings.format == "json":
            lacking = _lacking_keys(file, lacking, settings)
        if lacking:
            section = "ingest" if isinstance(settings, IngestSettings) else "ingest.items"
            raise ConfigError(
                f"{file.path} has no column {', '.join(lacking)}, which {section}.mapping names;"
                f" it has {', '.join(file.columns)}"
            )
        unmapped.update(dict.fromkeys(name for name in file.columns if name not in wanted))
    return list(unmapped)


def _lacking_keys(file: LogFile, lacking: Sequence[str], settings: SourceSettings) -> list[str]:
    if not file.columns:
        return []  # not one of the first lines is an object: they are rejected one by one
    required = set(settings.mapping.required_columns())
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
        alike[() if settings.format == "json" else (file.columns, file.types)].append(file.path)
    reader = {"csv": _read_csv, "json": _read_json, "parquet": _read_typed, "delta": _read_typed}[settings.format]
    by_path = {file.path: file for file in files}
    frames = [reader(spark, settings, by_path[paths[0]], paths) for paths in alike.values()]
    return reduce(DataFrame.unionByName, frames)


def _no_lines(settings: SourceSettings) -> StructType:
    texts = [*settings.mapping.source_columns(), CORRUPT, RAW, "source_file"]
    others = [StructField(BAD_BYTES, BooleanType()), StructField("load_day", DateType())]
    return StructType([*(StructField(name, StringType()) for name in texts), *others])


def _selected(lines: DataFrame, settings: SourceSettings, **columns: Column) -> DataFrame:
    """The frame's contract; the columns of `lines` itself are reached by it, as `_metadata` is."""
    return lines.select(
        *(column.alias(name) for name, column in columns.items()),
        F.col("_metadata.file_name").alias("source_file"),
        load_day(settings, F.col("_metadata.file_path")).alias("load_day"),
    )


def _read_csv(spark: SparkSession, settings: SourceSettings, like: LogFile, paths: list[str]) -> DataFrame:
    # By place: Spark takes names that differ in case, or appear twice, for one.
    places = {name: f"_{place}" for place, name in reversed(list(enumerate(like.columns)))}
    names = [f"_{place}" for place in range(len(like.columns))]
    schema = StructType([StructField(name, StringType()) for name in [*names, CORRUPT]])
    reader = spark.read.schema(schema).options(
        header=settings.columns is None,
        sep=settings.delimiter,
        encoding=settings.encoding,
        escape='"',
        mode="PERMISSIVE",
        columnNameOfCorruptRecord=CORRUPT,
        maxColumns=MOST_COLUMNS,  # a line with more stops the job, and 20,480 delimiters are soon in a broken file
        columnPruning=False,  # a pruned parser does not notice lines with too few columns
    )
    mapped = {name: F.col(places[name]) for name in settings.mapping.source_columns()}
    raw = F.coalesce(F.col(CORRUPT), F.concat_ws(settings.delimiter, *mapped.values()))
    return _selected(
        reader.csv(_literal(paths)),
        settings,
        **mapped,
        **{CORRUPT: F.col(CORRUPT), RAW: _cut(raw), BAD_BYTES: F.contains(raw, F.lit(REPLACEMENT))},
    )


def _read_json(spark: SparkSession, settings: SourceSettings, like: LogFile, paths: list[str]) -> DataFrame:
    """Lines as text, parsed by a schema of strings: numbers and nested values keep their JSON text."""
    names = settings.mapping.source_columns()
    schema = StructType([StructField(name, StringType()) for name in [*names, CORRUPT]])
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT}
    text = F.make_valid_utf8("value")
    lines = spark.read.text(_literal(paths)).where(F.trim("value") != "")
    is_object = F.trim("value").startswith("{") & F.trim("value").endswith("}")  # the parser stops at its end
    parsed = lines.withColumn("line", F.from_json(text, schema, options)).withColumn(
        CORRUPT, F.when(~is_object, text).otherwise(F.col(f"line.{CORRUPT}"))
    )
    return _selected(
        parsed,
        settings,
        **{name: F.col("line").getField(name) for name in names},
        **{CORRUPT: F.col(CORRUPT), RAW: _cut(text), BAD_BYTES: ~F.is_valid_utf8("value")},
    )


def _read_typed(spark: SparkSession, settings: SourceSettings, like: LogFile, paths: list[str]) -> DataFrame:
    """Parquet files or a Delta table: every type as its text."""
    rows = spark.read.format(settings.format).load(_literal(paths) if settings.format == "parquet" else paths[0])
    arrow = dict(zip(like.columns, like.types, strict=True))
    names = settings.mapping.source_columns()
    mapped = {name: _as_text(quoted(name), rows.schema[name].dataType, arrow[name]) for name in names}
    raw = F.to_json(F.struct(*(column.alias(name) for name, column in mapped.items())))
    valid = F.coalesce(reduce(Column.__and__, map(F.is_valid_utf8, mapped.values())), F.lit(True))
    return _selected(
        rows,
        settings,
        **mapped,
        **{
            CORRUPT: F.lit(None).cast("string"),
            RAW: _cut(F.make_valid_utf8(raw)),
            BAD_BYTES: ~F.coalesce(valid, F.lit(True)),
        },
    )


def _literal(paths: Sequence[str]) -> list[str]:
    """Spark takes paths with any of these characters for patterns."""
    return [re.sub(r"[\\\[\]{}*?]", r"\\\g<0>", path) for path in paths]


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
