"""Observed labels by a loop over plain tuples; imports nothing of the project."""

from datetime import datetime, timedelta


def naive_observed(events, start, end, exposures, conversions, days, min_value=None):
    """{(user, item, ts): label} of the exposures in [start, end) whose time to convert ends before `end`.

    `events` are (user, item, type, ts, value); start and end are days, end exclusive.
    """
    first, last = (datetime(day.year, day.month, day.day) for day in (start, end))
    inside = [event for event in events if first <= event[3] < last]
    labels = {}
    for user, item, kind, ts, _ in inside:
        limit = ts + timedelta(days=days)
        if kind not in exposures or limit >= last:
            continue
        labels[user, item, ts] = int(
            any(
                other_user == user
                and other_item == item
                and other_kind in conversions
                and ts <= other_ts <= limit
                and (min_value is None or (value is not None and value >= min_value))
                for other_user, other_item, other_kind, other_ts, value in inside
            )
        )
    return labels
