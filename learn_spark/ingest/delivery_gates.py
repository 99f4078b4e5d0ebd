"""What stops a delivery before anything of it is published: unreadable files, rejects, empty and thin days."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from statistics import median

from pyspark.sql import Row

from learn_spark.config.ingest import IngestSettings
from learn_spark.errors import QualityError
from learn_spark.ingest.check import LogFile
from learn_spark.ingest.deliveries import DUPLICATE
from learn_spark.ingest.parse import NO_BEHAVIOUR
from learn_spark.ingest.rejects import in_words
from learn_spark.lake.days import ONE_DAY, DayRange, days_predicate, spans
from learn_spark.lake.tables import Tables

_log = logging.getLogger(__name__)

USUAL_DAYS, FEWEST_USUAL_DAYS = 28, 7


def stop_above_limits(counts: Sequence[Row], bad: Sequence[LogFile], settings: IngestSettings) -> None:
    """Stops where more files or a larger share of a day's lines are unusable than the config allows."""
    for file in bad:
        _log.warning("ingest_events: %s: %s", file.path, file.problem)
    if len(bad) > settings.gates.max_bad_files:
        raise QualityError(
            f"{len(bad)} unreadable files, ingest.gates.max_bad_files allows {settings.gates.max_bad_files}:"
            f" {in_words(bad)}; nothing published"
        )
    _stop_above_reject_share(counts, settings)


def _stop_above_reject_share(counts: Sequence[Row], settings: IngestSettings) -> None:
    lines: dict[date, int] = defaultdict(int)
    rejected: dict[date, int] = defaultdict(int)
    reasons: dict[date, dict[str, int]] = defaultdict(dict)
    for row in counts:
        lines[row["load_day"]] += row["count"]
        if row["reason"] not in (None, DUPLICATE, NO_BEHAVIOUR):
            rejected[row["load_day"]] += row["count"]
            reasons[row["load_day"]][row["reason"]] = row["count"]
    above = [day for day in sorted(lines) if rejected[day] > settings.gates.max_reject_share * lines[day]]
    if above:
        day = above[0]
        worst = max(reasons[day], key=lambda reason: reasons[day][reason])
        raise QualityError(
            f"{rejected[day]} of {lines[day]} lines of {day} are rejected, most for `{worst}`;"
            f" ingest.gates.max_reject_share allows {settings.gates.max_reject_share:.0%} ({len(above)} days above it):"
            " see the rejects table; nothing published"
        )


def stop_on_empty_days(tables: Tables, empty: Sequence[date], settings: IngestSettings) -> None:
    """Days without a line, with a file or without: a warning or a stop, as the config says.

    Where an earlier delivery of such a day is in the lake it is always a stop: nothing never replaces something.
    """
    if not empty:
        return
    held = _events_by_delivery(tables, days_predicate("load_day", empty))
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


def stop_below_usual(tables: Tables, usable: Mapping[date, int], settings: IngestSettings) -> None:
    """Stops where a delivery has far fewer usable events than those before it.

    Args:
        tables: the lake, with what earlier runs loaded.
        usable: usable events of these deliveries; days without a line are not in it.
        settings: the least share.
    """
    if not usable or not settings.by_day or not settings.gates.min_day_share:
        return
    before = DayRange(min(usable) - timedelta(days=USUAL_DAYS), max(usable) + ONE_DAY)
    loaded = _events_by_delivery(tables, days_predicate("load_day", before))
    thin = thin_days({**loaded, **usable}, usable, settings.gates.min_day_share)
    if thin:
        day, usual = next(iter(thin.items()))
        raise QualityError(
            f"{usable[day]} usable events of {day}, where the deliveries before it have {usual:g};"
            f" ingest.gates.min_day_share asks for {settings.gates.min_day_share:.0%} ({len(thin)} days below it);"
            " nothing published"
        )


def thin_days(events: Mapping[date, int], asked: Iterable[date], share: float) -> dict[date, float]:
    """Asked days below a share of what is usual, and what is: the median of the days with events in the 28 before.

    Where those are fewer than 7, nothing is usual.
    """
    thin = {}
    for day in sorted(asked):
        before = [events.get(day - timedelta(days=back), 0) for back in range(1, USUAL_DAYS + 1)]
        earlier = [count for count in before if count]
        if len(earlier) >= FEWEST_USUAL_DAYS and events[day] < share * median(earlier):
            thin[day] = median(earlier)
    return thin


def _events_by_delivery(tables: Tables, where: str) -> dict[date, int]:
    rows = tables.read("interactions").where(where).groupBy("load_day").count().collect()
    return {row["load_day"]: row["count"] for row in rows}
