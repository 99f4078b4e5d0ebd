"""Whether raw files can be read to their end, and what columns they have."""

import bz2
import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from learn_spark.config.ingest import SourceSettings
from learn_spark.errors import ConfigError

CHUNK_BYTES = 1 << 20
FIRST_LINES = 1000
BATCH_ROWS = 65536
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open}
_SCHEMA = "path string, bytes bigint, columns array<string>, types array<string>, problem string"


@dataclass(frozen=True)
class LogFile:
    """A file after the check: its columns, or what is wrong with it.

    Attributes:
        columns: of the csv header or the table; of JSON lines, the keys of the first ones.
        types: the columns' types where the format has any, else empty.
        problem: why the file cannot be used; empty for a good one.
    """

    path: str
    bytes: int
    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    problem: str = ""


def check_files(spark: SparkSession, settings: SourceSettings, paths: Sequence[Path]) -> list[LogFile]:
    """Reads every file to its end on the executors: a truncated or corrupt one is named, not half loaded.

    Raises:
        ConfigError: where format delta names a folder that is no table.
    """
    if settings.format == "delta":
        return [_check_table(spark, path) for path in paths]
    if not paths:
        return []

    def check(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            yield pd.DataFrame([asdict(check_file(path, settings)) for path in batch["path"]])

    names = spark.createDataFrame([(str(path),) for path in paths], "path string")
    slices = min(len(paths), 4 * spark.sparkContext.defaultParallelism)
    rows = names.repartition(slices).mapInPandas(check, _SCHEMA).collect()
    files = [LogFile(r.path, r.bytes, tuple(r.columns), tuple(r.types), r.problem) for r in rows]
    return sorted(files, key=lambda file: file.path)


def _check_table(spark: SparkSession, path: Path) -> LogFile:
    if not (path / "_delta_log").is_dir():
        raise ConfigError(f"{path} is no Delta table: it has no _delta_log; check path and format")
    fields = spark.read.format("delta").load(str(path)).schema.fields
    return LogFile(str(path), 0, tuple(f.name for f in fields), tuple(f.dataType.simpleString() for f in fields))


def check_file(path: str, settings: SourceSettings) -> LogFile:
    """Reads one file to its end."""
    size = Path(path).stat().st_size
    if size == 0:
        return LogFile(path, size, problem="empty file")
    try:
        columns, types = _read_parquet(path, settings) if settings.format == "parquet" else _read_text(path, settings)
    except UnicodeDecodeError as error:
        problem = f"header is not {settings.encoding}: {error.reason} at byte {error.start}"
    except EmptyFileError:
        problem = "empty file"
    except (OSError, EOFError) as error:
        problem = f"corrupt file: {error}"
    except Exception as error:  # zlib.error, ArrowInvalid and their like share no base class
        problem = f"corrupt file: {type(error).__name__}: {error}"
    else:
        return LogFile(path, size, tuple(columns), tuple(types))
    return LogFile(path, size, problem=problem)


class EmptyFileError(Exception):
    """A file with no line in it."""


def _read_parquet(path: str, settings: SourceSettings) -> tuple[list[str], list[str]]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        wanted = [name for name in settings.mapping.source_columns() if name in schema.names]
        for _ in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False):
            pass
    return schema.names, [str(kind) for kind in schema.types]


def _read_text(path: str, settings: SourceSettings) -> tuple[list[str], list[str]]:
    with open_file(path) as stream:
        lines = [line for line in (stream.readline() for _ in range(FIRST_LINES)) if line]
        while stream.read(CHUNK_BYTES):
            pass
    if not any(line.strip() for line in lines):
        raise EmptyFileError
    if settings.format == "json":
        return list(json_keys(lines)), []
    if settings.columns is not None:
        return list(settings.columns), []
    return csv_fields(lines[0].decode(settings.encoding), settings.delimiter), []


def open_file(path: str) -> BinaryIO:
    """A file's bytes, unpacked where its name says that they are packed."""
    return _OPENERS.get(Path(path).suffix, open)(path, "rb")


def json_keys(lines: Iterable[bytes]) -> dict[str, None]:
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


def csv_fields(line: str, delimiter: str) -> list[str]:
    """The values of one csv line."""
    line = line.lstrip("\ufeff").rstrip("\r\n")
    if len(delimiter) > 1:
        return [name.strip('"') for name in line.split(delimiter)]
    return next(csv.reader([line], delimiter=delimiter), [])
