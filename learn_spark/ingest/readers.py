"""Reads lines of the log as strings, whatever the order, number or types of a file's columns."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial, reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, DateType, StringType, StructField, StructType

from learn_spark.config.formats import FilesSettings, beginning, hive_keys
from learn_spark.errors import ConfigError
from learn_spark.ingest.check import CHUNK_BYTES, LogFile, check_file
from learn_spark.ingest.csv_lines import CORRUPT, is_well_formed, value_of, with_fields
from learn_spark.ingest.fields import quoted
from learn_spark.ingest.files import PATH, literal, load_day, newest_file, told_by_file, urls_of
from learn_spark.ingest.parquet_types import stored_as
from learn_spark.ingest.records import REPLACEMENT
from learn_spark.ingest.shapes import (
    UNEVEN,
    Value,
    beginnings,
    exploded,
    keys_of_path,
    number_in,
    value_at,
    values_of_path,
    without_nulls,
)
from learn_spark.ingest.text_lines import needs_python, text_lines
from learn_spark.ingest.texts import as_text, has_lost_digits, id_as_text
from learn_spark.lake.session import telling_case

_log = logging.getLogger(__name__)

RAW, BAD_BYTES, INEXACT = "_raw", "_bad_bytes", "_inexact"
RAW_BYTES = 4096


def check_headers(files: Sequence[LogFile], settings: FilesSettings) -> list[str]:
    """Stops if a required column is missing; returns the columns that no mapping uses.

    Mapped columns that are not required may be missing from some files, with a warning: they were added later, or JSON
    lines leave their keys out. A name that neither these files nor the newest one have is an error in the config.
    """
    unmapped: dict[str, None] = {}
    lacked: dict[tuple[str, ...], list[LogFile]] = defaultdict(list)
    needed = settings.required_columns()
    for file in files:
        if settings.format == "json" and not file.columns:
            continue  # none of the first lines is an object: the lines are rejected one by one
        lacking = settings.lacking(file.columns, hive_keys(file.path))
        if required := [name for name in lacking if name in needed]:
            raise _lacks(file, required, settings)
        if lacking:
            lacked[tuple(lacking)].append(file)
        used = {beginning(settings.holder(name), file.columns) for name in settings.source_columns()}
        unmapped.update(dict.fromkeys(name for name in file.columns if name not in used))
    if settings.format != "json" and lacked:
        _require_somewhere(files, settings)
    for names, without in lacked.items():
        where = f"{without[0].path}" + (f" and {len(without) - 1} more files" if len(without) > 1 else "")
        _log.warning("warning: %s: no %s%s", where, ", ".join(names), _FIRST if settings.format == "json" else _NULLS)
    return list(unmapped)


_FIRST, _NULLS = " in its first lines", ": null there"


def _lacks(file: LogFile, names: Sequence[str], settings: FilesSettings) -> ConfigError:
    return ConfigError(
        f"{file.path} has no column {', '.join(names)}, which {settings.names_columns} names;"
        f" it has {', '.join(file.columns)}{_other_delimiter(file, settings)}"
    )


def _other_delimiter(file: LogFile, settings: FilesSettings) -> str:
    """A hint at the right delimiter if a whole header was taken for one name; else empty."""
    if settings.format != "csv" or len(file.columns) != 1:
        return ""
    seen = [each for each in "\t;|," if each in file.columns[0]]
    return f": is its `delimiter` {seen[0]!r}?" if seen else ""


def _require_somewhere(files: Sequence[LogFile], settings: FilesSettings) -> None:
    """Stops if a column is in none of these files, nor in the newest file of all."""
    lacking = [set(settings.lacking(file.columns, hive_keys(file.path))) for file in files]
    nowhere = set.intersection(*lacking)
    newest = newest_file(settings) if nowhere else None
    if newest is not None:
        found = check_file(str(newest), settings, CHUNK_BYTES)
        nowhere &= set(settings.lacking(found.columns, hive_keys(found.path)))
    if nowhere:
        raise _lacks(files[-1], sorted(nowhere), settings)


def read_lines(spark: SparkSession, settings: FilesSettings, files: Sequence[LogFile]) -> DataFrame:
    """All lines: the mapped columns as strings, `source_file`, `load_day`, and what is known about the line itself.

    Files that differ in columns or types are read separately. `load_day` is null if file names have no day.
    `_corrupt_record` is the text of a malformed line, `_raw` that of any line, cut at 4 KiB; `_bad_bytes` says whether
    the line has bytes that are not in `encoding`, `_inexact` whether an id is a float that has lost digits.
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


def _no_lines(settings: FilesSettings) -> StructType:
    texts = [*settings.source_columns(), CORRUPT, RAW, "source_file"]
    others = [*(StructField(name, BooleanType()) for name in (BAD_BYTES, INEXACT)), StructField("load_day", DateType())]
    return StructType([*(StructField(name, StringType()) for name in texts), *others])


def _selected(lines: DataFrame, settings: FilesSettings, urls: Sequence[str], **columns: Column) -> DataFrame:
    """Selects the columns that `read_lines` promises."""
    return lines.select(
        *(column.alias(name) for name, column in ({INEXACT: F.lit(False)} | columns).items()),
        told_by_file(urls, lambda path: F.element_at(F.split(path, "/"), -1)).alias("source_file"),
        told_by_file(urls, partial(load_day, settings)).alias("load_day"),
    )


def _texts(
    settings: FilesSettings, like: LogFile, urls: Sequence[str], tops: Mapping[str, Value]
) -> tuple[dict[str, Column], Column]:
    """Every mapped column as text, and whether an id among them is a float that has lost digits."""
    told = keys_of_path(settings, like.path, like.columns)
    of_path = values_of_path(settings, told, partial(told_by_file, urls))
    found = {name: of_path.get(name) or value_at(name, tops) for name in settings.source_columns()}
    ids = [each for name in settings.id_columns() if (each := found.get(name))]
    texts = {name: _nothing() for name in found} | {name: as_text(each) for name, each in found.items() if each}
    texts |= {name: id_as_text(each) for name in settings.id_columns() if (each := found.get(name))}
    inexact = reduce(Column.__or__, (has_lost_digits(each) for each in ids), F.lit(False))
    return {name: without_nulls(text, settings) for name, text in texts.items()}, inexact


def _read_csv(spark: SparkSession, settings: FilesSettings, like: LogFile, paths: list[str]) -> DataFrame:
    # By position: Spark cannot tell names apart that differ only in case, or appear twice.
    places = {name: f"_{place}" for place, name in reversed(list(enumerate(like.columns)))}
    lines = text_lines(spark, settings, like, paths)
    urls = urls_of(lines, paths)
    lines = lines.select("value", PATH, with_fields(F.col("value"), settings, len(like.columns)).alias("line"))
    is_good = F.col(f"line.{CORRUPT}").isNull() & is_well_formed(F.col("value"), settings)
    lines = lines.withColumn(CORRUPT, F.when(~is_good, F.col("value")))
    tops = {name: Value(value_of(F.col("line").getField(place), settings)) for name, place in places.items()}
    rows, tops = exploded(lines, settings, tops)
    mapped, _ = _texts(settings, like, urls, tops)
    corrupt = _corrupt(settings, F.concat_ws(settings.delimiter, *mapped.values()))
    raw = F.coalesce(corrupt, F.concat_ws(settings.delimiter, *mapped.values()))
    return _selected(
        rows,
        settings,
        urls,
        **mapped,
        **{CORRUPT: corrupt, RAW: _cut(raw), BAD_BYTES: F.contains(raw, F.lit(REPLACEMENT))},
    )


def _corrupt(settings: FilesSettings, raw: Column) -> Column:
    """A malformed line's text; `raw` for a line whose lists differ in length; null for a good line."""
    return F.coalesce(F.col(CORRUPT), F.when(F.col(UNEVEN), raw)) if settings.explode else F.col(CORRUPT)


def _read_json(spark: SparkSession, settings: FilesSettings, like: LogFile, paths: list[str]) -> DataFrame:
    """Lines as text, parsed by a schema of strings: numbers and nested values keep their JSON text."""
    asked = [*settings.source_columns(), *settings.exploded()]
    names = list(dict.fromkeys(key for name in asked for key in beginnings(settings.holder(name))))
    schema = StructType([StructField(name, StringType()) for name in [*names, CORRUPT]])
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT}
    text = F.col("value")
    is_object = F.trim(text).startswith("{") & F.trim(text).endswith("}")  # the parser ignores what comes after
    lines = text_lines(spark, settings, like, paths)
    parsed = lines.withColumn("line", F.from_json(text, schema, options)).select(
        PATH,
        "line",
        text.alias("value"),
        _cut(text).alias(RAW),
        (~F.col("is_whole")).alias(BAD_BYTES),
        F.when(~is_object, text).otherwise(F.col(f"line.{CORRUPT}")).alias(CORRUPT),
    )
    numbers = {name: number_in(text, name) for name in names}
    if settings.explode:  # so that elements do not carry their whole line
        held = {f"_number{place}": number for place, number in enumerate(numbers.values())}
        parsed = parsed.withColumns(held).drop("value")
        numbers = {name: F.col(column) for name, column in zip(names, held, strict=True)}
    tops = {name: Value(F.col("line").getField(name), number=numbers[name]) for name in names}
    rows, tops = exploded(parsed, settings, tops)
    urls = urls_of(lines, paths)
    mapped, inexact = _texts(settings, like, urls, tops)
    own = {RAW: F.col(RAW), BAD_BYTES: F.col(BAD_BYTES), CORRUPT: _corrupt(settings, F.col(RAW)), INEXACT: inexact}
    return _selected(rows, settings, urls, **mapped, **own)


def _read_typed(spark: SparkSession, settings: FilesSettings, like: LogFile, paths: list[str]) -> DataFrame:
    """Reads Parquet files or a Delta table: a value of any type becomes its text."""
    asked = [*settings.source_columns(), *settings.exploded()]
    names = {each for name in asked if (each := beginning(settings.holder(name), like.columns))}
    kinds = {name: kind for name, kind in zip(like.columns, like.types, strict=True) if name in names}
    rows = _typed_rows(spark, settings, like, paths, kinds)
    tops = {name: Value(quoted(name), rows.schema[name].dataType, kind) for name, kind in kinds.items()}
    urls = [] if settings.format == "delta" else urls_of(rows, paths)
    rows = rows.withColumn(PATH, F.col("_metadata.file_path"))
    rows, tops = exploded(rows, settings, tops)
    mapped, inexact = _texts(settings, like, urls, tops)
    raw = F.to_json(F.struct(*(column.alias(name) for name, column in mapped.items())))
    valid = F.coalesce(reduce(Column.__and__, map(F.is_valid_utf8, mapped.values())), F.lit(True))
    corrupt = F.when(F.col(UNEVEN), raw) if settings.explode else _nothing()
    bad = {BAD_BYTES: ~F.coalesce(valid, F.lit(True)), INEXACT: inexact}
    return _selected(rows, settings, urls, **mapped, **{CORRUPT: corrupt, RAW: _cut(F.make_valid_utf8(raw))}, **bad)


def _typed_rows(
    spark: SparkSession, settings: FilesSettings, like: LogFile, paths: list[str], kinds: Mapping[str, str]
) -> DataFrame:
    """The table's rows; from Parquet only the columns of `kinds`: Spark may be unable to read, or tell apart, others.

    Raises:
        ConfigError: Spark cannot read one of these columns.
    """
    if settings.format == "delta":
        return spark.read.format("delta").load(paths[0])
    if unread := [name for name, kind in kinds.items() if not kind]:
        raise ConfigError(
            f"{like.path}: column {unread[0]}, which {settings.names_columns} names, has a type that Spark cannot"
            " read: cast it, or leave it out"
        )
    fields = (f"`{name.replace('`', '``')}` {stored_as(kind)}" for name, kind in kinds.items())
    alike = len({name.lower() for name in like.columns}) < len(like.columns)
    session = telling_case(spark) if alike else spark
    return session.read.schema(", ".join(fields)).parquet(*literal(paths))


def _nothing() -> Column:
    return F.lit(None).cast("string")


def _cut(text: Column) -> Column:
    return F.when(F.octet_length(text) > RAW_BYTES, F.substring(text, 1, RAW_BYTES)).otherwise(text)
