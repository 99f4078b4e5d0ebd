"""Checks that raw files can be read to their end, and finds their columns."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from learn_spark.config.formats import FilesSettings, beginning
from learn_spark.errors import ConfigError
from learn_spark.ingest.files import FEW_FILES
from learn_spark.ingest.parquet_types import spark_types
from learn_spark.ingest.records import records
from learn_spark.ingest.unpacking import (
    OtherFormatError,
    PackingError,
    first_bytes,
    open_file,
    packing_of,
    require_format,
)
from learn_spark.lake.frames import frame_of
from learn_spark.storage import Place, beside, for_arrow, place_of, size_of

CHUNK_BYTES = 1 << 20
FIRST_LINES, FIRST_CHARACTERS = 1000, 4 << 20
SMALL_BYTES = 4 << 20
BATCH_ROWS = 1024  # of Parquet at once; even the longest allowed values then fit into memory
_TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
_SCHEMA = "path string, bytes bigint, columns array<string>, types array<string>, header string, packing string"
_SCHEMA += ", problem string"


@dataclass(frozen=True)
class LogFile:
    """A file after the check: its columns, or what is wrong with it.

    Attributes:
        columns: of the csv header or the table; of JSON lines, the keys of the first ones.
        types: the columns' types as Spark reads them (parquet_types) where the format has any, else empty.
        header: the header line of a csv that has one.
        packing: how a text file is packed; empty if it is not.
        problem: why the file cannot be used; empty for a good one.
    """

    path: str
    bytes: int
    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    header: str = ""
    packing: str = ""
    problem: str = ""


def check_files(
    spark: SparkSession, settings: FilesSettings, paths: Sequence[Place], max_line_bytes: int
) -> list[LogFile]:
    """Reads every file to its end, so that a truncated or corrupt file is reported, not half loaded.

    A file with a line, or Parquet value, longer than `max_line_bytes` is reported, too: Spark would hold the line in
    memory several times over. The executors read the files; if all of them together are small, this process does.

    Raises:
        ConfigError: with format delta, the path is not a Delta table.
    """
    if settings.format == "delta":
        return [_check_table(spark, path) for path in paths]
    if not paths:
        return []

    files = [_misnamed(path) for path in paths if _is_misnamed(path)]
    named = [str(path) for path in paths if not _is_misnamed(path)]
    if _are_small(named, settings):
        files += [check_file(path, settings, max_line_bytes) for path in named]
    else:
        files += _checked_by_executors(spark, settings, named, max_line_bytes)
    return sorted(files, key=lambda file: file.path)


def _are_small(paths: Sequence[str], settings: FilesSettings) -> bool:
    if len(paths) > FEW_FILES:
        return False
    with suppress(OSError):  # a file is gone: the check will say so
        return sum(size_of(beside(settings.path, path)) for path in paths) <= SMALL_BYTES
    return False


def _checked_by_executors(
    spark: SparkSession, settings: FilesSettings, paths: Sequence[str], max_line_bytes: int
) -> list[LogFile]:
    def check(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            yield pd.DataFrame([asdict(check_file(path, settings, max_line_bytes)) for path in batch["path"]])

    slices = min(len(paths), 4 * spark.sparkContext.defaultParallelism)
    names = frame_of(spark, [(path,) for path in paths], "path string").repartition(slices)
    return [
        LogFile(r.path, r.bytes, tuple(r.columns), tuple(r.types), r.header, r.packing, r.problem)
        for r in names.mapInPandas(check, _SCHEMA).collect()
    ]


def _is_misnamed(path: Place) -> bool:
    return ":" in path.name or not _is_unicode(str(path))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _misnamed(path: Place) -> LogFile:
    """The problem of a file that Hadoop's file systems cannot open for its name; Spark's error would not say why."""
    shown = os.fsencode(str(path)).decode(errors="replace")
    what = "has a colon" if _is_unicode(str(path)) else "is not utf-8"
    return LogFile(shown, 0, problem=f"unreadable name: it {what}, which Spark cannot open: rename the file")


def first_changed(files: Iterable[LogFile], options: Mapping[str, Any] | None = None) -> str | None:
    """What happened to the first file that is no longer as it was when it was checked; None if all are."""
    for file in files:
        try:
            size = size_of(place_of(file.path, options))
        except OSError:
            return f"{file.path} went away"
        if file.bytes and size != file.bytes:
            return f"{file.path} changed"
    return None


def _check_table(spark: SparkSession, path: Place) -> LogFile:
    if not (path / "_delta_log").is_dir():
        raise ConfigError(f"{path} is no Delta table: it has no _delta_log; check path and format")
    fields = spark.read.format("delta").load(str(path)).schema.fields
    return LogFile(str(path), 0, tuple(f.name for f in fields), tuple(f.dataType.simpleString() for f in fields))


def check_file(path: str, settings: FilesSettings, max_line_bytes: int) -> LogFile:
    """Reads one file to its end, or to the first line that is too long."""
    size = 0
    try:
        place = beside(settings.path, path)
        size = size_of(place)
        if size == 0:
            raise EmptyFileError
        first = first_bytes(place)
        require_format(first, settings.format)
        if settings.format == "parquet":
            return replace(_read_parquet(path, settings, max_line_bytes), bytes=size)
        return replace(_read_text(path, settings, max_line_bytes), bytes=size, packing=packing_of(first))
    except TooLongError as error:
        problem = f"{error}, more than the {max_line_bytes:,} of ingest.gates.max_line_bytes"
    except UnreadableHeaderError:
        problem = f"header is not {settings.encoding}: say in `encoding` what it is"
    except OtherFormatError as error:
        problem = f"wrong format: {error}"
    except EmptyFileError:
        problem = "empty file"
    except PackingError as error:
        problem = f"packed file: {error}"
    except (FileNotFoundError, PermissionError) as error:
        problem = f"unreadable file: {error.strerror}"
    except (OSError, EOFError) as error:
        problem = f"corrupt file: {error}"
    except Exception as error:  # zlib.error, ArrowInvalid and their like share no base class
        problem = f"corrupt file: {type(error).__name__}: {error}"
    return LogFile(path, size, problem=problem)


class EmptyFileError(Exception):
    """A file with no line in it."""


class UnreadableHeaderError(Exception):
    """A header line with bytes that are not in the encoding."""


class TooLongError(Exception):
    """A line or a value of more bytes than are allowed."""


def _read_parquet(path: str, settings: FilesSettings, max_line_bytes: int) -> LogFile:
    with pq.ParquetFile(for_arrow(beside(settings.path, path))) as file:
        schema = file.schema_arrow
        read = (beginning(settings.holder(name), schema.names) for name in settings.source_columns())
        wanted = list(dict.fromkeys(name for name in read if name))
        if twice := [name for name in wanted if schema.names.count(name) > 1]:
            raise OSError(f"two columns are called {twice[0]}")
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                longest = _longest_value(column)
                if longest > max_line_bytes:
                    raise TooLongError(f"value too long: {longest:,} bytes in column {name}")
        return LogFile(path, 0, tuple(schema.names), tuple(spark_types(file)))


def _longest_value(column: pa.Array) -> int:
    """Bytes of the longest text; 0 for other types."""
    if pa.types.is_dictionary(column.type):
        return _longest_value(column.dictionary)
    if any(is_text(column.type) for is_text in _TEXT_TYPES):
        return pc.call_function("max", [pc.call_function("binary_length", [column])]).as_py() or 0
    return 0


def _read_text(path: str, settings: FilesSettings, max_line_bytes: int) -> LogFile:
    _require_short_lines(beside(settings.path, path), max_line_bytes)
    first = list(_first(records(path, settings), FIRST_LINES if settings.format == "json" else 1))
    if not first:
        raise EmptyFileError
    found = LogFile(path, 0)
    if settings.format == "json":
        return replace(found, columns=tuple(json_keys(text for text, _ in first)))
    if settings.columns is not None:
        return replace(found, columns=tuple(settings.columns))
    header, is_whole = first[0]
    if not is_whole:
        raise UnreadableHeaderError
    columns = csv_fields(header, settings.delimiter, settings.quote, settings.escape)
    return replace(found, columns=tuple(columns), header=header)


def _first(found: Iterable[tuple[str, bool]], most: int) -> Iterator[tuple[str, bool]]:
    """The records that determine the columns: at most `most`, and few more than FIRST_CHARACTERS characters."""
    length = 0
    for text, is_whole in islice(found, most):
        yield text, is_whole
        length += len(text)
        if length > FIRST_CHARACTERS:
            return


def _require_short_lines(path: Place, max_line_bytes: int) -> None:
    """Reads a text to its end; raises at the first line that is too long. As in Spark, LF, CR or both end a line."""
    number, open_bytes = 1, 0  # of the line that the last chunk ended in
    with open_file(path) as stream:
        while chunk := stream.read(min(CHUNK_BYTES, max_line_bytes)):  # so that no line within a chunk is too long
            ends = [place for place in (chunk.find(b"\n"), chunk.find(b"\r")) if place >= 0]
            reached = open_bytes + min(ends, default=len(chunk))
            if reached > max_line_bytes:
                raise TooLongError(f"line too long: line {number:,} has {reached:,} bytes{'' if ends else ' or more'}")
            last = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
            open_bytes = len(chunk) - 1 - last if ends else open_bytes + len(chunk)
            number += chunk.count(b"\n") or chunk.count(b"\r")


def json_keys(lines: Iterable[str | bytes]) -> dict[str, None]:
    """The union of the keys of the lines that are JSON objects, in order of appearance."""
    keys: dict[str, None] = {}
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            keys.update(dict.fromkeys(value))
    return keys


def csv_fields(line: str, delimiter: str, quote: str | None = '"', escape: str = '"') -> list[str]:
    """The values of one csv line."""
    line = line.lstrip("\ufeff").rstrip("\r\n")
    if quote is None:
        return line.split(delimiter)
    if len(delimiter) > 1:
        return [name.strip(quote) for name in line.split(delimiter)]
    escaped = escape if escape != quote else None
    return next(csv.reader([line], delimiter=delimiter, quotechar=quote, escapechar=escaped), [])
