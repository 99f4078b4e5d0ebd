"""Counts without Spark what a config makes of its files: for the time before the first run, when no ledger exists."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from learn_spark.config.ingest import IngestSettings
from learn_spark.config.load import Config
from learn_spark.config.sources import SourceSettings
from learn_spark.errors import ConfigError
from learn_spark.ingest.files import listed, source_files
from learn_spark.inspect.copies import Looked, TooLarge, copy_of, naming
from learn_spark.inspect.events_of_rows import layout_from, path_values
from learn_spark.inspect.findings import counted
from learn_spark.inspect.layout import read_rows
from learn_spark.inspect.tally import RangeTally, Tally, tally_of, tally_ranges
from learn_spark.lake.days import DayRange
from learn_spark.sequences.counts import refusal, spread

MOST_ROWS = 300_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preview:
    """What the files of a config hold in the config's ranges.

    Attributes:
        tally: the events.
        counts: of each range; empty with the protocol leave_one_out, which has no ranges.
        refusal: why a run would learn or measure nothing; None if no such reason is known.
    """

    tally: Tally
    counts: list[RangeTally]
    refusal: str | None

    def lines(self) -> Iterator[str]:
        """The counts for people."""
        return counted(self.tally, self.counts)


def preview(config: Config) -> Preview | None:
    """Counts the events of the config's files; of large files, only one of so many rows.

    Files in a store are copied.

    Returns:
        None if the logs are a Delta table, need lookups, lie where this machine cannot see them, or lie in a store and
        are too large to be copied.

    Raises:
        ConfigError: no file matches, or the files lack a mapped column.
    """
    ingest = config.ingest
    if ingest.format == "delta" or any(each.lookups for each in ingest.each()) or not ingest.path.exists():
        return None
    days = DayRange(config.ingest.start, config.windows.end)
    try:
        looks = [_looked(source, days) for source in ingest.each()]
    except TooLarge as error:
        _log.warning("warning: the files are not counted: %s", error)
        return None
    with naming(looks):
        tally = _counted(config, list(zip(ingest.each(), looks, strict=True)), days)
    if config.sequences.protocol != "time":
        return Preview(tally, [], None)
    counts = tally_ranges(tally, config)
    days = tally.event_days(tally.of(config.sequences.target_events))
    why = refusal([each.range for each in counts], {each.range.name: each.rows for each in counts}, spread(days))
    return Preview(tally, counts, why if tally.every == 1 else None)


def _looked(source: SourceSettings, days: DayRange) -> Looked:
    """The folder of a source; if it lies in a store, a copy with the files of these days."""
    if isinstance(source.path, Path):
        return Looked(source.path, source.path)
    of_days = {name: state for day, name, state in listed(source) if day is None or day in days}
    return Looked(copy_of(source.path, of_days), source.path)


def _counted(config: Config, looks: list[tuple[IngestSettings, Looked]], days: DayRange) -> Tally:
    files: list[tuple[SourceSettings, Path]] = []
    for asked, look in looks:
        source = asked.model_copy(update={"path": look.path})
        found = source_files(source, days if source.by_day else [config.ingest.start])
        paths = [path for its in found.values() for path in its if isinstance(path, Path)]
        if paths:
            _require_columns(source, paths[0])
        files += [(source, path) for path in paths]
    return tally_of(config.ingest, files, most_rows=MOST_ROWS)


def _require_columns(source: SourceSettings, path: Path) -> None:
    """Refuses a file that lacks a column without which no line is an event."""
    rows = list(islice(read_rows(layout_from(source), path), 100))
    names = {*path_values(source, path), *(name for row in rows for name in row)}
    needed = source.required_columns()
    lacking = [name for name in source.lacking(names, path_values(source, path)) if name in needed]
    if rows and lacking:
        raise ConfigError(f"{path} has no column {', '.join(lacking)}; it has {', '.join(sorted(names))}")
