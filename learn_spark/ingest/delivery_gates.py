"""Gates that stop a delivery before anything of it is published: unreadable files, rejects, empty and thin days."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from statistics import median

from learn_spark.config.ingest import IngestSettings
from learn_spark.errors import QualityError
from learn_spark.ingest.check import LogFile
from learn_spark.ingest.line_counts import Lines
from learn_spark.ingest.rejects import in_words
from learn_spark.lake.days import spans

_log = logging.getLogger(__name__)

USUAL_DAYS, FEWEST_USUAL_DAYS = 28, 7
_WAYS_OUT = {
    "empty description": "give mapping.title a `default`, or take names from a catalogue, `ingest.items`",
    "unparsable time": "say in mapping.event_ts which `format` or `unit` it has",
    "malformed line": "look at `delimiter`, `quote` and `escape`, and at `multiline`",
}


def days_before(settings: IngestSettings) -> int:
    """How many days before a delivery these gates look at."""
    return USUAL_DAYS if settings.gates.min_day_share else 0


def stop_above_limits(
    counts: Sequence[Lines], bad: Sequence[LogFile], settings: IngestSettings, all_lines: Callable[[], int]
) -> None:
    """Stops if more files or a larger share of the lines are unusable than the config allows.

    Args:
        counts: of the days that are loaded.
        bad: files that cannot be read.
        settings: the limits.
        all_lines: counts the lines of the whole log, which may take a while; called only if undated rejects are many.
    """
    for file in bad:
        _log.warning("ingest_events: %s: %s", file.path, file.problem)
    if len(bad) > settings.gates.max_bad_files:
        raise QualityError(
            f"{len(bad)} unreadable files, ingest.gates.max_bad_files allows {settings.gates.max_bad_files}:"
            f" {in_words(bad)}; nothing published"
        )
    dated = [row for row in counts if row.is_dated]
    undated = [row for row in counts if row.is_reject and not row.is_dated]
    stop_above_reject_share(dated, settings.gates.max_reject_share)
    rejected = sum(row.lines for row in undated)
    share = settings.gates.max_reject_share
    if rejected > share * sum(row.lines for row in counts if row.is_wanted):
        every = all_lines()
        if rejected > share * every:
            raise _too_many(undated, every, "of the log have no usable time and", share)


def stop_above_reject_share(counts: Sequence[Lines], share: float, of_what: str = "") -> None:
    """Stops if more than `share` of a day's wanted lines are rejected; `of_what` names lines that are not the log's."""
    lines: dict[date, int] = defaultdict(int)
    rejects: dict[date, list[Lines]] = defaultdict(list)
    for row in counts:
        lines[row.load_day] += row.lines if row.is_wanted else 0
        rejects[row.load_day] += [row] if row.is_reject else []
    above = [day for day in sorted(lines) if sum(row.lines for row in rejects[day]) > share * lines[day]]
    if above:
        days = f" ({len(above)} days above it)"
        raise _too_many(rejects[above[0]], lines[above[0]], f"of {of_what}{above[0]}", share, days)


def _too_many(rejects: Sequence[Lines], lines: int, which: str, share: float, days: str = "") -> QualityError:
    worst = max(rejects, key=lambda row: row.lines).reason or ""
    way_out = f" ({_WAYS_OUT[worst]})" if worst in _WAYS_OUT else ""
    return QualityError(
        f"{sum(row.lines for row in rejects)} of {lines} lines {which} are rejected, most for `{worst}`{way_out};"
        f" ingest.gates.max_reject_share allows {share:.0%}{days}: see the rejects table; nothing published"
    )


def stop_on_empty_days(loaded: Mapping[date, int], empty: Sequence[date], settings: IngestSettings) -> None:
    """Warns or stops, as the config says, at days without a line, whether or not they have a file.

    If the lake holds events of such a day's delivery, it always stops: an empty delivery never replaces events.

    Args:
        loaded: events by delivery that the lake holds.
        empty: the days.
        settings: say what to do.
    """
    if not empty:
        return
    held = {day: loaded[day] for day in empty if day in loaded}
    if held:
        raise QualityError(
            f"{spans(held)}: no line is left of deliveries that gave {sum(held.values())} events, and nothing never"
            " replaces something: bring the files back, or delete those events from the interactions table by"
            " load_day; nothing published"
        )
    if settings.gates.empty_day == "stop":
        raise QualityError(
            f"no line was delivered for {spans(empty)}, and ingest.gates.empty_day is stop; nothing published"
        )
    _log.warning("ingest_events: warning: no line was delivered for %s: done without events", spans(empty))


def stop_below_usual(loaded: Mapping[date, int], usable: Mapping[date, int], settings: IngestSettings) -> None:
    """Stops if a delivery has far fewer usable events than those before it.

    Args:
        loaded: events by delivery that the lake holds.
        usable: usable events of these deliveries; days without a line are not in it.
        settings: the least share.
    """
    if not usable or not settings.by_day or not settings.gates.min_day_share:
        return
    thin = thin_days({**loaded, **usable}, usable, settings.gates.min_day_share)
    if thin:
        day, usual = next(iter(thin.items()))
        raise QualityError(
            f"{usable[day]} usable events of {day}, where the deliveries before it have {usual:g};"
            f" ingest.gates.min_day_share asks for {settings.gates.min_day_share:.0%} ({len(thin)} days below it);"
            " nothing published"
        )


def thin_days(events: Mapping[date, int], asked: Iterable[date], share: float) -> dict[date, float]:
    """The asked days that have less than a share of the usual number of events, and that number.

    Usual is the median over the days with events among the 28 days before; nothing is if these are fewer than 7.
    """
    thin = {}
    for day in sorted(asked):
        before = [events.get(day - timedelta(days=back), 0) for back in range(1, USUAL_DAYS + 1)]
        earlier = [count for count in before if count]
        if len(earlier) >= FEWEST_USUAL_DAYS and events[day] < share * median(earlier):
            thin[day] = median(earlier)
    return thin
