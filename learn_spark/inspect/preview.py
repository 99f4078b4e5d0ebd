"""What a config makes of its files, counted without Spark: before the first run, when there is no ledger to ask."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from learn_spark.config.ingest import IngestSettings
from learn_spark.config.load import Config
from learn_spark.config.sources import SourceSettings
from learn_spark.errors import ConfigError
from learn_spark.ingest.files import source_files
from learn_spark.inspect.events_of_rows import layout_from, path_values
from learn_spark.inspect.findings import counted
from learn_spark.inspect.layout import read_rows
from learn_spark.inspect.tally import RangeTally, Tally, tally_of, tally_ranges
from learn_spark.lake.days import DayRange
from learn_spark.sequences.counts import refusal, spread

MOST_ROWS = 300_000


@dataclass(frozen=True)
class Preview:
    """What lies in the ranges of a config, by its files.

    Attributes:
        tally: the events.
        counts: of each range; empty with the protocol leave_one_out, which has none.
        refusal: why a run would learn or measure nothing; None where nothing speaks against it.
    """

    tally: Tally
    counts: list[RangeTally]
    refusal: str | None

    def lines(self) -> Iterator[str]:
        """The counts for people."""
        return counted(self.tally, self.counts)


def preview(config: Config) -> Preview | None:
    """Counts the events of the config's files; of large ones, every so many rows.

    Returns:
        None where the logs are a Delta table, need lookups, or lie where this machine does not see them.

    Raises:
        ConfigError: no file matches, or the files lack a mapped column.
    """
    ingest = config.ingest
    if ingest.format == "delta" or any(each.lookups for each in ingest.each()) or not ingest.path.exists():
        return None
    files = list(_files(config))
    for source in ingest.each():
        first = next((path for settings, path in files if settings == source), None)
        if first is not None:
            _require_columns(source, first)
    tally = tally_of(ingest, files, most_rows=MOST_ROWS)
    if config.sequences.protocol != "time":
        return Preview(tally, [], None)
    counts = tally_ranges(tally, config)
    days = tally.event_days(tally.of(config.sequences.target_events))
    why = refusal([each.range for each in counts], {each.range.name: each.rows for each in counts}, spread(days))
    return Preview(tally, counts, why if tally.every == 1 else None)


def _files(config: Config) -> Iterator[tuple[IngestSettings, Path]]:
    days = DayRange(config.ingest.start, config.windows.end)
    for source in config.ingest.each():
        found = source_files(source, days if source.by_day else [config.ingest.start])
        yield from ((source, path) for paths in found.values() for path in paths if isinstance(path, Path))


def _require_columns(source: SourceSettings, path: Path) -> None:
    """What a file lacks of the columns without which no line is an event."""
    rows = list(islice(read_rows(layout_from(source), path), 100))
    names = {*path_values(source, path), *(name for row in rows for name in row)}
    needed = source.required_columns()
    lacking = [name for name in source.lacking(names, path_values(source, path)) if name in needed]
    if rows and lacking:
        raise ConfigError(f"{path} has no column {', '.join(lacking)}; it has {', '.join(sorted(names))}")
