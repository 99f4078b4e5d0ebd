"""Proposes windows from the events' days: each range has events, or there is a reason why it cannot. No Spark."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
from pydantic import ValidationError

from learn_spark.config.load import Config, overlay
from learn_spark.errors import ConfigError
from learn_spark.inspect.tally import RangeTally, Tally, tally_ranges
from learn_spark.lake.days import ONE_DAY
from learn_spark.sequences.counts import refusal, require_training_days, spread

SHORTEST_DAYS = 7  # history, training, validation, two for the conversion model, two for the ranker
_TARGET_DAYS = (28, 21, 14, 10, 7, 5, 4, 3, 2, 1)
_LATER_SHARES = (0.25, 0.35, 0.15, 0.5)  # of the events, from towers_end on


@dataclass(frozen=True)
class Proposal:
    """Windows, what they hold, and why they cannot be used, if so.

    Attributes:
        values: the sections `windows`, `sequences` and `cvr`, as far as days are concerned.
        counts: what each range holds.
        refusal: why a run with them would learn or measure nothing; None if each range has rows.
    """

    values: dict[str, Any]
    counts: list[RangeTally]
    refusal: str | None


def propose(tally: Tally, values: Mapping[str, Any]) -> Proposal:
    """The first windows in which each range has rows: by the calendar, else by the events; else refused ones.

    Args:
        tally: the log's events.
        values: the config without windows; `sequences` names the kinds of events.
    """
    first, last, _ = tally.span()
    best: Proposal | None = None
    targets = _target_days(tally, values)
    for days in _candidates(tally, values, first, last):
        try:
            config = Config.model_validate(overlay(dict(values), days))
            require_training_days(config)
        except (ValidationError, ConfigError):  # days that do not fit into one another
            continue
        counts = tally_ranges(tally, config)
        rows = {each.range.name: each.rows for each in counts}
        why = refusal([each.range for each in counts], rows, spread(targets))
        if why and len(targets) < SHORTEST_DAYS:
            why = f"{spread(targets)}, and each range needs some: {SHORTEST_DAYS} days with target events are the least"
        found = Proposal(days, counts, why)
        if why is None:
            return found
        best = best or found
    assert best is not None, "windows by the calendar are valid"
    return best


def _target_days(tally: Tally, values: Mapping[str, Any]) -> list[date]:
    return tally.event_days(tally.of(values["sequences"]["target_events"]))


def _candidates(tally: Tally, values: Mapping[str, Any], first: date, last: date) -> Iterator[dict[str, Any]]:
    """Days of `windows`, `sequences` and `cvr`: by the calendar, then by shares of events after each end."""
    yield _by_calendar(first, last)
    days = [day for day in _target_days(tally, values) if first <= day <= last]
    if len(days) < SHORTEST_DAYS:
        return
    chosen = tally.of(values["sequences"]["target_events"])
    counts = np.array([int((tally.days[chosen] == day.toordinal()).sum()) for day in days])
    marks = [_places(counts, share) for share in _LATER_SHARES]
    marks += [_thirds(mark, len(days)) for mark in range(len(days) - 4, 2, -1)]
    for places in marks:
        for target_days in _TARGET_DAYS:
            yield _by_days(first, last, days, places, target_days)


def _places(counts: np.ndarray, share: float) -> tuple[int, int, int]:
    """The places of the days after which this share of the events lies, two thirds of it, and a third of it."""
    total = counts.sum()
    marks = [int(np.searchsorted(np.cumsum(counts), (1 - share * part) * total)) for part in (1, 2 / 3, 1 / 3)]
    last = min(marks[2], len(counts) - 1)
    middle = min(marks[1], last - 1)
    return min(marks[0], middle - 2), middle, last  # two days for the conversion model, one for each other


def _thirds(mark: int, size: int) -> tuple[int, int, int]:
    cvr = max(2, (size - mark) // 3)
    return mark, mark + cvr, mark + cvr + max(1, (size - mark - cvr) // 2)


def _by_calendar(first: date, last: date) -> dict[str, Any]:
    """Staggered windows that end with the log, and a number of target days that fits into them."""
    end = max(last + ONE_DAY, first + SHORTEST_DAYS * ONE_DAY)
    span = (end - first).days
    target_days = min(28, max(1, span // 10))
    tail = max(4, target_days, min(90, span // 6))
    towers_end = end - timedelta(tail)
    cvr_end = towers_end + timedelta(max(2, tail // 3))
    windows = {
        "first_as_of": first + timedelta(max(1, min(60, span // 10))),
        "towers_end": towers_end,
        "cvr_end": cvr_end,
        "ranker_train_end": max(cvr_end + ONE_DAY, towers_end + timedelta(2 * tail // 3)),
        "end": end,
    }
    return _with_rest(windows, target_days)


def _by_days(
    first: date, last: date, days: list[date], places: tuple[int, int, int], target_days: int
) -> dict[str, Any]:
    towers_end, cvr_end, ranker_train_end = (days[place] for place in places)
    windows = {
        "first_as_of": min(first + timedelta(max(1, target_days)), towers_end - timedelta(2 * target_days)),
        "towers_end": towers_end,
        "cvr_end": cvr_end,
        "ranker_train_end": ranker_train_end,
        "end": max(last + ONE_DAY, towers_end + timedelta(target_days)),
    }
    return _with_rest(windows, target_days, (cvr_end - days[places[1] - 1]).days)


def _with_rest(windows: dict[str, date], target_days: int, validation_days: int = 1) -> dict[str, Any]:
    span = (windows["cvr_end"] - windows["towers_end"]).days
    return {
        "windows": windows,
        "sequences": {"target_days": target_days, "as_of_every_days": max(1, min(7, target_days // 2))},
        "cvr": {"validation_days": max(validation_days, min(3, span // 3))},
    }
