"""The files of a run: found, checked to their end, read as lines."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from learn_spark.config.ingest import IngestSettings
from learn_spark.errors import LearnError, TemporaryError
from learn_spark.ingest.check import LogFile, check_files, first_changed
from learn_spark.ingest.files import source_files
from learn_spark.ingest.parse import with_events
from learn_spark.ingest.readers import check_headers, read_lines
from learn_spark.ingest.rejects import unreadable_files
from learn_spark.runs.steps import Context


@dataclass(frozen=True)
class Delivery:
    """The files of some days.

    Attributes:
        sources: the settings of each kind of files.
        good, bad: of each, the files that can be read to their end, and the others.
        unmapped: columns that no mapping uses.
    """

    sources: list[IngestSettings]
    good: list[list[LogFile]]
    bad: list[list[LogFile]]
    unmapped: list[str]

    def lines(self, spark: SparkSession) -> DataFrame:
        """All events, and lines that give none."""
        several = len(self.sources) > 1
        pairs = zip(self.sources, self.good, strict=True)
        frames = (with_events(read_lines(spark, source, good), source, several) for source, good in pairs)
        return reduce(DataFrame.unionByName, frames)

    def unreadable(self, spark: SparkSession) -> DataFrame:
        """The bad files as rejects."""
        pairs = zip(self.sources, self.bad, strict=True)
        return reduce(DataFrame.unionByName, (unreadable_files(spark, each, each.start, bad) for each, bad in pairs))

    def all_good(self) -> list[LogFile]:
        return [file for files in self.good for file in files]

    def all_bad(self) -> list[LogFile]:
        return [file for files in self.bad for file in files]


def read_delivery(context: Context, days: Sequence[date]) -> Delivery:
    """The days' files, each read to its end.

    Raises:
        ConfigError: no file on any day at all, or a file lacks a mapped column.
    """
    sources = context.config.ingest.each()
    delivery = Delivery(sources, [], [], [])
    for settings in sources:
        found = source_files(settings, days)
        paths = list(dict.fromkeys(path for day in found for path in found[day]))
        files = check_files(context.spark, settings, paths, settings.gates.max_line_bytes)
        delivery.good.append([file for file in files if not file.problem])
        delivery.bad.append([file for file in files if file.problem])
        unmapped = check_headers(delivery.good[-1], settings)
        delivery.unmapped.extend(name for name in unmapped if name not in delivery.unmapped)
    return delivery


@contextmanager
def unchanged(files: Sequence[LogFile], options: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Where Spark fails because a file has gone or grown since it was checked, the error says so.

    `options` are those of the files' store.
    """
    try:
        yield
    except LearnError:
        raise
    except Exception as error:
        if changed := first_changed(files, options):
            raise TemporaryError(f"{changed} while it was read; nothing published: try again") from error
        raise
