"""Event days and ranges of them. A range's end is exclusive, like an as-of date."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from learn_spark.errors import ConfigError

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class DayRange:
    """The days from `start` up to, not including, `end`."""

    start: date
    end: date

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ConfigError(f"start {self.start} must come before end {self.end} (the end is exclusive)")

    def __iter__(self) -> Iterator[date]:
        day = self.start
        while day < self.end:
            yield day
            day += ONE_DAY

    def __len__(self) -> int:
        return (self.end - self.start).days

    def __contains__(self, day: date) -> bool:
        return self.start <= day < self.end

    def __str__(self) -> str:
        last = self.end - ONE_DAY
        return str(self.start) if last == self.start else f"{self.start} .. {last}"


def contiguous(days: Iterable[date]) -> list[DayRange]:
    """The fewest ranges that hold exactly these days."""
    ranges: list[DayRange] = []
    for day in sorted(set(days)):
        if ranges and ranges[-1].end == day:
            ranges[-1] = DayRange(ranges[-1].start, day + ONE_DAY)
        else:
            ranges.append(DayRange(day, day + ONE_DAY))
    return ranges


def spans(days: Iterable[date], most: int = 4) -> str:
    """Days in words: their ranges, or the outermost days and the number of days if there are many ranges."""
    ranges = contiguous(days)
    if len(ranges) <= most:
        return ", ".join(str(span) for span in ranges)
    return f"{sum(map(len, ranges))} days from {ranges[0].start} to {ranges[-1].end - ONE_DAY}"


def days_predicate(column: str, days: Iterable[date]) -> str:
    """SQL that is true for exactly these days."""
    parts = [f"({column} >= DATE'{span.start}' AND {column} < DATE'{span.end}')" for span in contiguous(days)]
    return " OR ".join(parts) if parts else "FALSE"
