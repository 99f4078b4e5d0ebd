"""Lines of the log as strings, whatever the order, number or types of a file's columns."""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, DateType, DoubleType, StringType, StructField, StructType

from learn_spark.config.ingest import SourceSettings
from learn_spark.errors import ConfigError
from learn_spark.ingest.check import FIRST_BYTES, LogFile, check_file
from learn_spark.ingest.fields import quoted
from learn_spark.ingest.files import load_day, newest_file, plain
from learn_spark.ingest.parquet_types import stored_as
from learn_spark.ingest.texts import as_text, has_lost_digits, id_as_text, json_id, json_id_has_lost_digits
from learn_spark.lake.session import telling_case

_log = logging.getLogger(__name__)

CORRUPT = "_corrupt_record"
RAW, BAD_BYTES, INEXACT = "_raw", "_bad_bytes", "_inexact"
RAW_BYTES = 4096
MOST_COLUMNS = 1 << 20  # the parser holds 8 bytes for each
REPLACEMENT = "\ufffd"


def check_headers(files: Sequence[LogFile], settings: SourceSettings) -> list[str]:
    """Stops where a mapped column is missing; returns the columns that no mapping uses.

    Columns that no line needs may be missing from some files, with a line on stderr: they were added later, or JSON
    lines leave their keys out. A name that neither these files nor the newest one have is an error in the config.
    """
    wanted = settings.source_columns()
    unmapped: dict[str, None] = {}
    lacked: dict[tuple[str, ...], list[LogFile]] = defaultdict(list)
    for file in files:
        lacking = [name for name in wanted if name not in file.columns]
        required = [name for name in lacking if name in settings.required_columns()]
        if settings.format == "json" and not file.columns:
            continue  # not one of the first lines is an object: they are rejected one by one
        if required:
            raise _lacks(file, required, settings)
        if lacking:
            lacked[tuple(lacking)].append(file)
        unmapped.update(dict.fromkeys(name for name in file.columns if name not in wanted))
    if settings.format != "json" and lacked:
        _require_somewhere(files, settings)
    for names, without in lacked.items():
        where = f"{without[0].path}" + (f" and {len(without) - 1} more files" if len(without) > 1 else "")
        _log.warning("warning: %s: no %s%s", where, ", ".join(names), _FIRST if settings.format == "json" else _NULLS)
    return list(unmapped)


_FIRST, _NULLS = " in its first lines", ": null there"


def _lacks(file: LogFile, names: Sequence[str], settings: SourceSettings) -> ConfigError:
    return ConfigError(
        f"{file.path} has no column {', '.join(names)}, which {settings.section}.mapping names;"
        f" it has {', '.join(file.columns)}"
    )


def _require_somewhere(files: Sequence[LogFile], settings: SourceSettings) -> None:
    known = {name for file in files for name in file.columns}
    lacking = [name for name in settings.source_columns() if name not in known]
    newest = newest_file(settings) if lacking else None
    if newest is not None:
        known |= {*check_file(str(newest), settings, FIRST_BYTES).columns}
    if lacking := [name for name in lacking if name not in known]:
        raise _lacks(files[-1], lacking, settings)


def read_lines(spark: SparkSession, settings: SourceSettings, files: Sequence[LogFile]) -> DataFrame:
    """All lines: the mapped columns as strings, `source_file`, `load_day`, and what is known of the line itself.

    Files with other columns, or columns of other types, are read each by their own. `load_day` is null where file
    names hold no day. `_corrupt_record` is the text of a malformed line, `_raw` that of any line, cut at 4 KiB;
    `_bad_bytes` says whether it is not in `encoding`, `_inexact` whether an id is a float that has lost digits.
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
    texts = [*settings.source_columns(), CORRUPT, RAW, "source_file"]
    others = [*(StructField(name, BooleanType()) for name in (BAD_BYTES, INEXACT)), StructField("load_day", DateType())]
    return StructType([*(StructField(name, StringType()) for name in texts), *others])


def _selected(lines: DataFrame, settings: SourceSettings, **columns: Column) -> DataFrame:
    """The frame's contract; the columns of `lines` itself are reached by it, as `_metadata` is."""
    return lines.select(
        *(column.alias(name) for name, column in ({INEXACT: F.lit(False)} | columns).items()),
        plain(F.col("_metadata.file_name")).alias("source_file"),
        load_day(settings, plain(F.col("_metadata.file_path"))).alias("load_day"),
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
    mapped = {name: F.col(places[name]) if name in places else _nothing() for name in settings.source_columns()}
    raw = F.coalesce(F.col(CORRUPT), F.concat_ws(settings.delimiter, *mapped.values()))
    return _selected(
        reader.csv(_literal(paths)),
        settings,
        **mapped,
        **{CORRUPT: F.col(CORRUPT), RAW: _cut(raw), BAD_BYTES: F.contains(raw, F.lit(REPLACEMENT))},
    )


def _read_json(spark: SparkSession, settings: SourceSettings, like: LogFile, paths: list[str]) -> DataFrame:
    """Lines as text, parsed by a schema of strings: numbers and nested values keep their JSON text."""
    names = settings.source_columns()
    schema = StructType([StructField(name, StringType()) for name in [*names, CORRUPT]])
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT}
    text = F.make_valid_utf8("value")
    lines = spark.read.text(_literal(paths)).where(F.trim("value") != "")
    is_object = F.trim("value").startswith("{") & F.trim("value").endswith("}")  # the parser stops at its end
    parsed = lines.withColumn("line", F.from_json(text, schema, options)).withColumn(
        CORRUPT, F.when(~is_object, text).otherwise(F.col(f"line.{CORRUPT}"))
    )
    values = {name: F.col("line").getField(name) for name in names}
    ids = settings.mapping.id_columns()
    numbers = F.from_json(text, StructType([StructField(name, DoubleType()) for name in ids]))  # of strings: null
    inexact = [json_id_has_lost_digits(values[name], numbers.getField(name)) for name in ids]
    return _selected(
        parsed,
        settings,
        **values | {name: json_id(values[name], numbers.getField(name)) for name in ids},
        **{INEXACT: reduce(Column.__or__, inexact, F.lit(False))},
        **{CORRUPT: F.col(CORRUPT), RAW: _cut(text), BAD_BYTES: ~F.is_valid_utf8("value")},
    )


def _read_typed(spark: SparkSession, settings: SourceSettings, like: LogFile, paths: list[str]) -> DataFrame:
    """Parquet files or a Delta table: every type as its text."""
    kinds = dict(zip(like.columns, like.types, strict=True))
    rows = _typed_rows(spark, settings, like, paths)
    ids = settings.mapping.id_columns()
    mapped, inexact = {}, [F.lit(False)]
    for name in settings.source_columns():
        if name not in kinds:
            mapped[name] = _nothing()
        elif name in ids:
            mapped[name] = id_as_text(quoted(name), rows.schema[name].dataType, kinds[name])
            inexact.append(has_lost_digits(quoted(name), rows.schema[name].dataType))
        else:
            mapped[name] = as_text(quoted(name), rows.schema[name].dataType, kinds[name])
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
            INEXACT: reduce(Column.__or__, inexact),
        },
    )


def _typed_rows(spark: SparkSession, settings: SourceSettings, like: LogFile, paths: list[str]) -> DataFrame:
    """Of Parquet the mapped columns alone: what Spark cannot read, or tell apart, may stand beside them.

    Raises:
        ConfigError: where it is a mapped column that Spark cannot read.
    """
    if settings.format == "delta":
        return spark.read.format("delta").load(paths[0])
    kinds = {
        name: kind for name, kind in zip(like.columns, like.types, strict=True) if name in settings.source_columns()
    }
    if unread := [name for name, kind in kinds.items() if not kind]:
        raise ConfigError(
            f"{like.path}: column {unread[0]}, which {settings.section}.mapping names, has a type that Spark cannot"
            " read: cast it, or leave it out"
        )
    fields = (f"`{name.replace('`', '``')}` {stored_as(kind)}" for name, kind in kinds.items())
    alike = len({name.lower() for name in like.columns}) < len(like.columns)
    session = telling_case(spark) if alike else spark
    return session.read.schema(", ".join(fields)).parquet(*_literal(paths))


def _literal(paths: Sequence[str]) -> list[str]:
    """Spark takes paths with any of these characters for patterns."""
    return [re.sub(r"[\\\[\]{}*?]", r"\\\g<0>", path) for path in paths]


def _nothing() -> Column:
    return F.lit(None).cast("string")


def _cut(text: Column) -> Column:
    return F.substring(text, 1, RAW_BYTES)
