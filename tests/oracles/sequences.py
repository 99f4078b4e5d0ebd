"""Histories, targets and changed users by loops over plain tuples; imports nothing of the project."""

from datetime import datetime, timedelta


def naive_history(events, as_of, length, days):
    """The last `length` events (ts, event_id, item) with as_of - days <= ts < as_of, ties by event_id."""
    cut = datetime(as_of.year, as_of.month, as_of.day)
    inside = sorted(e for e in events if cut - timedelta(days=days) <= e[0] < cut)
    return inside[-length:]


def naive_targets(events, as_of, length, days):
    """The first `length` events (ts, event_id, item) with as_of <= ts < as_of + days, ties by event_id."""
    cut = datetime(as_of.year, as_of.month, as_of.day)
    inside = sorted(e for e in events if cut <= e[0] < cut + timedelta(days=days))
    return inside[:length]


def naive_is_due(events, day, first_day):
    """Whether a history row of `day` is written: on the first day for all known users, later for active ones only."""
    if day == first_day:
        return any(ts.date() < day for ts, _, _ in events)
    return any(ts.date() == day - timedelta(days=1) for ts, _, _ in events)


def naive_sample(events, length):
    """The `length` events (ts, tie, item) with the lowest ties, in order of time."""
    return sorted(sorted(events, key=lambda event: (event[1], event[0]))[:length])
