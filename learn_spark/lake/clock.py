"""The time that a lake's rows carry: it never runs backwards, whatever the machine's clock does."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

_LEAST = timedelta(microseconds=1)  # the resolution of Spark's timestamps


def now() -> datetime:
    """The machine's time, UTC."""
    return datetime.now(UTC)


def time_after(earlier: Iterable[datetime | None]) -> datetime:
    """Now, or just after the newest of these times if that is later; they may be in local time, as in Spark's rows.

    Releases and what the ledger has recorded are ordered by such times. By the machine's clock alone, a release that is
    published after the clock was set back would be older than the one before it, and no reader would get it.
    """
    return max([now(), *(time.astimezone(UTC) + _LEAST for time in earlier if time is not None)])
