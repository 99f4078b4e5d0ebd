"""Finds the files of a run, checks them to their end, and reads them as lines."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from learn_spark.config.formats import FilesSettings
from learn_spark.config.ingest import IngestSettings
from learn_spark.config.sources import LookupSettings, SourceSettings
from learn_spark.errors import LearnError, TemporaryError
from learn_spark.ingest.check import LogFile, check_files, first_changed
from learn_spark.ingest.files import source_files
from learn_spark.ingest.lookups import unusable_rows, with_lookups
from learn_spark.ingest.parse import with_events
from learn_spark.ingest.readers import check_headers, read_lines
from learn_spark.ingest.rejects import unreadable_files
from learn_spark.runs.steps import Context
from learn_spark.storage import Place


@dataclass(frozen=True)
class Lookup:
    """A lookup's files of some days: those that can be read to their end, and the others."""

    settings: LookupSettings
    good: list[LogFile]
    bad: list[LogFile]

    def rows(self, spark: SparkSession) -> DataFrame:
        """All rows."""
        return read_lines(spark, self.settings, self.good)


@dataclass(frozen=True)
class SourceLines:
    """The files of some days of a source, or of a catalogue, and those of its lookups by name.

    Attributes:
        good, bad: the source's own files that can be read to their end, and the others.
        unmapped: columns of the source's own files that no mapping uses.
    """

    settings: SourceSettings
    good: list[LogFile]
    bad: list[LogFile]
    lookups: dict[str, Lookup]
    unmapped: list[str]

    def lines(self, spark: SparkSession) -> DataFrame:
        """All lines, with the columns of the lookups."""
        rows = {name: each.rows(spark) for name, each in self.lookups.items()}
        return with_lookups(read_lines(spark, self.settings, self.good), self.settings, rows)

    def all_good(self) -> list[LogFile]:
        """The good files, also those of the lookups."""
        return [*self.good, *(file for each in self.lookups.values() for file in each.good)]

    def all_bad(self) -> list[LogFile]:
        return [*self.bad, *(file for each in self.lookups.values() for file in each.bad)]

    def unusable(self, spark: SparkSession, start: date) -> list[DataFrame]:
        """Rejects other than the source's own lines: bad files, lookups' rows; `start` is the day if they have none."""
        read = (self, *self.lookups.values())
        frames = [unreadable_files(spark, each.settings, start, each.bad) for each in read if each.bad]
        rows = (unusable_rows(each.rows(spark), each.settings) for each in self.lookups.values())
        return [*frames, *(each.withColumn("load_day", F.coalesce("load_day", F.lit(start))) for each in rows)]


@dataclass(frozen=True)
class Delivery:
    """The files of some days: each source's settings and files."""

    sources: list[tuple[IngestSettings, SourceLines]]

    def lines(self, spark: SparkSession) -> DataFrame:
        """A row for each event, and for each line that gives none."""
        several = len(self.sources) > 1
        frames = (with_events(source.lines(spark), settings, several) for settings, source in self.sources)
        return reduce(DataFrame.unionByName, frames)

    def unusable(self, spark: SparkSession) -> list[DataFrame]:
        """Rejects other than the log's own lines."""
        return [frame for settings, source in self.sources for frame in source.unusable(spark, settings.start)]

    def unmapped(self) -> list[str]:
        """Columns that no mapping uses."""
        return list(dict.fromkeys(name for _, source in self.sources for name in source.unmapped))

    def all_good(self) -> list[LogFile]:
        return [file for _, source in self.sources for file in source.all_good()]

    def all_bad(self) -> list[LogFile]:
        return [file for _, source in self.sources for file in source.all_bad()]


def read_delivery(context: Context, days: Sequence[date]) -> Delivery:
    """The days' files, each read to its end.

    Raises:
        ConfigError: no day at all has a file, or a file lacks a mapped column.
    """
    ingest = context.config.ingest
    longest = ingest.gates.max_line_bytes
    sources = (read_source(context.spark, each, source_files(each, days), longest) for each in ingest.each())
    return Delivery(list(zip(ingest.each(), sources, strict=True)))


def read_source(
    spark: SparkSession, settings: SourceSettings, files: Mapping[date, Sequence[Place]], max_line_bytes: int
) -> SourceLines:
    """A source's files, and its lookups' of the same days, each read to its end.

    Raises:
        ConfigError: a lookup has no file on any day at all, or a file lacks a required column.
    """
    lookups = {}
    for name, each in settings.lookups_read().items():
        lookups[name] = Lookup(each, *_checked(spark, each, source_files(each, files), max_line_bytes))
        check_headers(lookups[name].good, each)
    good, bad = _checked(spark, settings, files, max_line_bytes)
    return SourceLines(settings, good, bad, lookups, check_headers(good, settings))


def _checked(
    spark: SparkSession, settings: FilesSettings, found: Mapping[date, Sequence[Place]], max_line_bytes: int
) -> tuple[list[LogFile], list[LogFile]]:
    paths = list(dict.fromkeys(path for day in found for path in found[day]))
    files = check_files(spark, settings, paths, max_line_bytes)
    return [file for file in files if not file.problem], [file for file in files if file.problem]


@contextmanager
def unchanged(files: Sequence[LogFile], options: Mapping[str, Any] | None = None) -> Iterator[None]:
    """If the block fails and a file has gone or changed since it was checked, the error says so.

    `options` are those of the files' store.

    Raises:
        TemporaryError: a file has gone or changed; other errors pass unchanged.
    """
    try:
        yield
    except LearnError:
        raise
    except Exception as error:
        if changed := first_changed(files, options):
            raise TemporaryError(f"{changed} while it was read; nothing published: try again") from error
        raise
