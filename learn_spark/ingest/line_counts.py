"""How many lines a delivery has, by day, event day and reason; for the gates and the search for copies."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from learn_spark.ingest.parse import NO_FAULTS

DUPLICATE = "duplicate"
ByDay = Mapping[tuple[date, date], int]
"""Numbers of events by delivery and event day."""


@dataclass(frozen=True)
class Lines:
    """How many lines of a day have a reason, or none.

    Attributes:
        ds: the event day; None if there is a reason.
        is_dated: whether `load_day` is the lines' own. If files name no day, lines without a usable time have none.
        marked, mark: how many lines have a mark of null as their user, and one such mark (`markers`).
    """

    load_day: date
    reason: str | None
    ds: date | None
    is_dated: bool
    lines: int
    marked: int = 0
    mark: str | None = None

    @property
    def is_wanted(self) -> bool:
        return self.reason not in NO_FAULTS

    @property
    def is_reject(self) -> bool:
        return self.is_wanted and self.reason not in (None, DUPLICATE)


def counted(lines: DataFrame, event_day: Column, is_dated: Column, *further: Column) -> list[Lines]:
    """Counts lines by day and reason, usable ones by event day; `further`: aggregates for the last of `Lines`."""
    ds = F.when(F.col("reason").isNull(), event_day).alias("ds")
    groups = lines.groupBy("load_day", "reason", ds, is_dated.alias("is_dated"))
    return [Lines(*row) for row in groups.agg(F.count(F.lit(1)), *further).collect()]


def by_reason(counts: Iterable[Lines]) -> dict[str, int]:
    """Lines by reason, most first."""
    found: dict[str, int] = defaultdict(int)
    for row in counts:
        found[row.reason or ""] += row.lines
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def usable_events(counts: Iterable[Lines]) -> ByDay:
    """The usable events among the lines, by delivery and event day."""
    usable: dict[tuple[date, date], int] = defaultdict(int)
    for row in counts:
        if row.reason is None and row.ds is not None:
            usable[row.load_day, row.ds] += row.lines
    return dict(usable)


def by_delivery(events: ByDay) -> dict[date, int]:
    """The events by delivery, summed over the event days."""
    found: dict[date, int] = defaultdict(int)
    for (load_day, _), number in events.items():
        found[load_day] += number
    return dict(found)
