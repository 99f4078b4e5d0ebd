"""Counts without Spark the events that a mapping makes of files, by user, day and kind; for plans and windows."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from pathlib import Path

import numpy as np

from learn_spark.config.ingest import IngestSettings
from learn_spark.config.load import Config
from learn_spark.config.sources import SourceSettings
from learn_spark.errors import ConfigError
from learn_spark.ingest.unpacking import first_bytes, packing_of
from learn_spark.inspect.events_of_rows import EventReader, layout_from
from learn_spark.inspect.layout import Layout, Row, read_rows
from learn_spark.sequences.counts import Range, ranges

MOST_ROWS = 1_000_000
UNPACKED = 5  # times larger than packed, about
STRAY_SHARE, STRAY_GAP = 0.001, 30


@dataclass(frozen=True)
class Tally:
    """Events as arrays of equal length, and rows that were no events.

    Attributes:
        users, items, days, kinds: numbers of users, items and kinds of event, and days as ordinals.
        num_users, num_items: how many there are.
        names: of the kinds.
        bad: how many rows were no events, by reason (such as a missing user or time) and day (None without a time).
        rows: how many rows were read.
        every: one row of this many was read.
        unread: files that could not be read to their end, and why.
    """

    users: np.ndarray
    items: np.ndarray
    days: np.ndarray
    kinds: np.ndarray
    num_users: int
    num_items: int
    names: list[str]
    bad: Counter[tuple[str, date | None]]
    rows: int
    every: int
    unread: tuple[str, ...] = ()

    def of(self, kinds: Iterable[str]) -> np.ndarray:
        """A mask of the events that are of these kinds."""
        wanted = [self.names.index(kind) for kind in kinds if kind in self.names]
        return np.isin(self.kinds, wanted)

    def between(self, start: date, end: date) -> np.ndarray:
        """A mask of the events in `[start, end)`."""
        return (self.days >= start.toordinal()) & (self.days < end.toordinal())

    def event_days(self, chosen: np.ndarray | None = None) -> list[date]:
        """The days with events."""
        days = self.days if chosen is None else self.days[chosen]
        return [date.fromordinal(int(day)) for day in np.unique(days)]

    def span(self) -> tuple[date, date, int]:
        """First and last day without stray events (up to 0.1% of all, far from the others), and how many strays."""
        days, counts = np.unique(self.days, return_counts=True)
        most = max(1, int(STRAY_SHARE * counts.sum()))
        first, last = 0, len(days) - 1
        for place in range(len(days) - 1):
            if days[place + 1] - days[place] > STRAY_GAP and counts[: place + 1].sum() <= most:
                first = place + 1
        for place in range(len(days) - 1, first, -1):
            if days[place] - days[place - 1] > STRAY_GAP and counts[place:].sum() <= most:
                last = place - 1
        strays = int(counts.sum() - counts[first : last + 1].sum())
        return date.fromordinal(int(days[first])), date.fromordinal(int(days[last])), strays


@dataclass(frozen=True)
class RangeTally:
    """What a range holds: `rows` are sequences or samples, negatives not counted."""

    range: Range
    events: int
    users: int
    rows: int


def tally_ranges(tally: Tally, config: Config) -> list[RangeTally]:
    """Events, users and rows of every range of a config's windows."""
    sequences, samples = config.sequences, config.samples
    history, targets = tally.of(sequences.history_events), tally.of(sequences.target_events)
    sampled = targets if samples.labels == "sampled" else tally.of(samples.exposure_events)
    found = []
    for each in ranges(config):
        inside = tally.between(each.start, each.end) & (targets if each.as_of else sampled)
        rows = int(inside.sum())
        if each.as_of:
            rows = sum(_sequences(tally, config, history, targets, day) for day in each.as_of)
        found.append(RangeTally(each, int(inside.sum()), len(np.unique(tally.users[inside])), rows))
    return found


def _sequences(tally: Tally, config: Config, history: np.ndarray, targets: np.ndarray, as_of: date) -> int:
    """How many users have enough history before an as-of date and enough targets after it."""
    settings = config.sequences
    before = history & tally.between(_before(as_of, settings.history_days), as_of)
    after = targets & tally.between(as_of, as_of + timedelta(settings.target_days))
    sizes = (np.bincount(tally.users[side], minlength=tally.num_users) for side in (before, after))
    enough = [size >= least for size, least in zip(sizes, (settings.min_history, settings.min_targets), strict=True)]
    return int((enough[0] & enough[1]).sum())


def _before(day: date, days: int) -> date:
    return date.fromordinal(max(1, day.toordinal() - days))


def tally_of(
    settings: IngestSettings,
    files: Iterable[tuple[SourceSettings, Path]],
    known: bool = True,
    most_rows: int = MOST_ROWS,
) -> Tally:
    """Counts the events of files.

    Args:
        settings: for `event_types` and `start`.
        files: each with the source that says how it is read.
        known: leave out events of kinds that `event_types` does not name, and those before `start`.
        most_rows: of larger files, only one of so many rows is read.

    Raises:
        ConfigError: no file can be read, or none has an event.
    """
    pairs = list(files)
    counter = _Counter(settings if known else None, most_rows)
    size = sum(path.stat().st_size * (UNPACKED if packing_of(first_bytes(path)) else 1) for _, path in pairs)
    for source, path in pairs:
        counter.add(source, path, size)
    if not counter.days:
        raise ConfigError(counter.unread[0] if counter.unread else f"{pairs[0][1]} holds no event that can be read")
    return counter.tally()


class _Counter:
    def __init__(self, settings: IngestSettings | None, most_rows: int) -> None:
        self._settings, self._most_rows = settings, most_rows
        self._numbers: tuple[dict[str, int], dict[str, int], dict[str, int]] = ({}, {}, {})
        self._events: list[tuple[int, int, int]] = []
        self.days: list[int] = []
        self.bad: Counter[tuple[str, date | None]] = Counter()
        self.rows, self.every = 0, 1
        self.unread: list[str] = []

    def add(self, source: SourceSettings, path: Path, size: int) -> None:
        """Counts a file's rows; if it cannot be read, keeps the reason."""
        layout = layout_from(source)
        try:
            if not self.rows:
                self.every = max(1, math.ceil(size / _row_bytes(layout, path) / self._most_rows))
            events = EventReader(source, path)
            for row in read_rows(layout, path, self.every):
                self.rows += 1
                self._count(events, row)
        except ConfigError as error:
            self.unread.append(str(error))

    def _count(self, events: EventReader, row: Row) -> None:
        day, pair, kinds, lacking = events.event(row)
        if lacking:
            self.bad[lacking, day] += 1
        elif self._settings and day and day < self._settings.start:
            self.bad["before ingest.start", day] += 1
        elif day:
            user, item = (own.setdefault(text, len(own)) for own, text in zip(self._numbers, pair, strict=False))
            for kind in kinds:
                if self._settings and kind not in self._settings.event_types:
                    self.bad["unknown event type", day] += 1
                else:
                    self._events.append((user, item, self._numbers[2].setdefault(kind, len(self._numbers[2]))))
                    self.days.append(day.toordinal())

    def tally(self) -> Tally:
        users, items, kinds = np.array(self._events, dtype=np.int64).T
        sizes = [len(numbers) for numbers in self._numbers]
        return Tally(
            users,
            items,
            np.array(self.days),
            kinds,
            sizes[0],
            sizes[1],
            list(self._numbers[2]),
            self.bad,
            self.rows,
            self.every,
            tuple(self.unread),
        )


def _row_bytes(layout: Layout, path: Path) -> float:
    rows = [sum(len(value) + 2 for value in row.values()) for row in islice(read_rows(layout, path), 200)]
    return max(8.0, sum(rows) / len(rows)) if rows else 80.0
