"""The raw log's files: which belong to a day, what they are, and whether they can be read to their end."""

import bz2
import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import BinaryIO

import pandas as pd
from pyspark.sql import SparkSession

from learn_spark.core.config import Config
from learn_spark.core.settings import IngestSettings

CHUNK_BYTES = 1 << 20
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open}


@dataclass(frozen=True)
class LogFile:
    """A file after the check: its first line, or what is wrong with it."""

    path: str
    bytes: int
    header: str
    problem: str


def source_files(settings: IngestSettings, day: date) -> list[Path]:
    """The day's files, by name."""
    return sorted(path for path in settings.path.glob(settings.files.format(day=day)) if path.is_file())


def source_identity(config: Config, day: date) -> list[tuple[str, int, int]]:
    """Name, size and modification time of each of a day's files: another delivery is another input."""
    stats = [(path.name, path.stat()) for path in source_files(config.ingest, day)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def day_pattern(settings: IngestSettings) -> str:
    """A regular expression whose first group is the day in a file's path."""
    parts = re.split(r"(\{day\}|\*|\?)", settings.files)
    known = {"{day}": r"(\d{4}-\d{2}-\d{2})", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part, re.escape(part)) for part in parts) + "$"


def check_files(spark: SparkSession, settings: IngestSettings, paths: Sequence[Path]) -> list[LogFile]:
    """Reads every file to its end on the executors: a truncated or corrupt one is named, not half loaded."""
    encoding = settings.encoding

    def check(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            checked = [_check_file(path, encoding) for path in batch["path"]]
            yield pd.DataFrame([vars(file) for file in checked])

    names = spark.createDataFrame([(str(path),) for path in paths], "path string")
    slices = min(len(paths), 4 * spark.sparkContext.defaultParallelism)
    result = names.repartition(slices).mapInPandas(check, "path string, bytes bigint, header string, problem string")
    return sorted((LogFile(**row.asDict()) for row in result.collect()), key=lambda file: file.path)


def _check_file(path: str, encoding: str) -> LogFile:
    size = Path(path).stat().st_size
    header, problem = "", ""
    try:
        with _open(path) as stream:
            first = stream.readline()
            header = first.decode(encoding).lstrip("\ufeff").rstrip("\r\n")
            while stream.read(CHUNK_BYTES):
                pass
        if not header.strip():
            problem = "empty file"
    except UnicodeDecodeError as error:
        problem = f"header is not {encoding}: {error.reason} at byte {error.start}"
    except (OSError, EOFError) as error:
        problem = f"corrupt file: {error}"
    except Exception as error:  # zlib.error and its like share no base class
        problem = f"corrupt file: {type(error).__name__}: {error}"
    return LogFile(path, size, header, problem)


def _open(path: str) -> BinaryIO:
    return _OPENERS.get(Path(path).suffix, open)(path, "rb")
