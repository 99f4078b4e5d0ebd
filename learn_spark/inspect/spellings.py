"""Finds how times are written: the options that `event_ts` needs, and a reader of such times without Spark."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache, partial
from typing import NamedTuple
from zoneinfo import ZoneInfo

from learn_spark.config.mapping import TimeMapping

FIRST_YEAR, LAST_YEAR = 1971, 2099  # beyond them ingest rejects a time as out of range
GOOD_SHARE = 0.9
Read = Callable[[str], datetime | None]
UNITS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}  # what logs count since 1970
_PER_SECOND = UNITS | {"minutes": 1 / 60, "hours": 1 / 3600, "days": 1 / 86400, "weeks": 1 / 604800}
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?")
_FIRST, _LAST = datetime(1990, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp()
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ZONE = r"Z|UTC|GMT|[A-Z]{2,4}T|[+-]\d{1,2}(?::?\d{2})?"
_OFFSET = r"[+-]\d{2}(?::?\d{2})?"
_ZONES = {
    "X": f"Z|{_OFFSET}",
    "x": _OFFSET,
    "Z": r"[+-]\d{4}",
    "z": "[A-Z]{1,5}",
    "O": rf"GMT(?:{_OFFSET})?",
    "V": r"[\w/]+",
}
_ISO = re.compile(  # what Spark reads without a format
    r"(?P<Y>\d{4})-(?P<M>\d{1,2})-(?P<d>\d{1,2})"
    rf"(?:[ T](?P<H>\d{{1,2}})(?::(?P<m>\d{{1,2}})(?::(?P<s>\d{{1,2}})(?:\.(?P<S>\d{{0,9}}))?)?)? ?(?P<Z>{_ZONE})?)?"
)
_TOKENS = {
    **{"yyyy": r"(?P<Y>\d{4})", "yy": r"(?P<y>\d{2})", "y": r"(?P<Y>\d{1,4})", "uuuu": r"(?P<Y>\d{4})"},
    **{"MMMM": r"(?P<b>[A-Za-z]{3,9})", "MMM": r"(?P<b>[A-Za-z]{3})", "MM": r"(?P<M>\d{2})", "M": r"(?P<M>\d{1,2})"},
    **{"dd": r"(?P<d>\d{2})", "d": r"(?P<d>\d{1,2})", "HH": r"(?P<H>\d{2})", "H": r"(?P<H>\d{1,2})"},
    **{"hh": r"(?P<h>\d{2})", "h": r"(?P<h>\d{1,2})", "mm": r"(?P<m>\d{2})", "m": r"(?P<m>\d{1,2})"},
    **{"ss": r"(?P<s>\d{2})", "s": r"(?P<s>\d{1,2})", "a": r"(?P<a>[AaPp][Mm])"},
}
_DATES = ("M/d/yyyy", "d/M/yyyy", "d.M.yyyy", "yyyy/M/d", "d-M-yyyy", "M-d-yyyy", "M/d/yy", "d.M.yy", "yyyy.M.d")
_DATES += (
    "d MMM yyyy",
    "d-MMM-yyyy",
    "d-MMM-yy",
    "MMM d, yyyy",
    "MMMM d, yyyy",
    "d MMMM yyyy",
    "MMM d yyyy",
    "MM d, yyyy",
)
_CLOCKS = ("", " H:mm", " H:mm:ss", " H:mm:ss.SSS", " h:mm a", " h:mm:ss a", ", h:mm:ss a", ", H:mm:ss", " H:mm:ss Z")
FORMATS = (
    *(day + clock for day in _DATES for clock in _CLOCKS),
    *("yyyy-MM-dd HH:mm:ss,SSS", "yyyy-MM-dd h:mm:ss a", "yyyyMMdd", "yyyyMMddHH", "yyyyMMddHHmm", "yyyyMMddHHmmss"),
    *("yyyyMMdd HH:mm:ss", "yyyyMMdd HHmmss", "yyyyMMdd'T'HHmmss", "yyyyMMdd'T'HHmmssX", "yyyy/M/d'T'H:mm:ss"),
    *("d/MMM/yyyy:H:mm:ss Z", "'['d/MMM/yyyy:H:mm:ss Z']'"),
    *("EEE, d MMM yyyy H:mm:ss Z", "EEE, d MMM yyyy H:mm:ss z", "EEE MMM d H:mm:ss Z yyyy", "EEE MMM d H:mm:ss z yyyy"),
    *("EEE MMM d H:mm:ss yyyy", "yyyy-MM"),
)


class Spelling(NamedTuple):
    """One way in which a column's values are written as times.

    Attributes:
        options: the mapping's options beside the column.
        read: turns a text into a time; None if it is not one.
        others: formats that fit as well, but read other times.
    """

    options: dict[str, object]
    read: Read
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The spelling in words."""
        return ", ".join(f"{key} {value}" for key, value in self.options.items()) or "ISO 8601"


def spelling(values: Sequence[str]) -> Spelling | None:
    """How the values are written as times; None unless nearly all of them are times."""
    given = [value for value in dict.fromkeys(values) if value.strip()]
    if not given:
        return None
    trial = given[:: max(1, len(given) // 500)]

    def fits(read: Read) -> bool:
        needed = GOOD_SHARE * len(trial)
        if not any(read(value) for value in trial[:20]):
            return False
        return sum(read(value) is not None for value in trial) >= needed

    if fits(read_iso):
        return Spelling({}, read_iso)
    for unit in UNITS:
        if fits(read := reader_of_unit(unit)):
            return Spelling({"unit": unit}, read)
    possible = [pattern for pattern in FORMATS if fits(reader_of_format(pattern))]
    if not possible:
        return None
    return Spelling({"format": possible[0]}, reader_of_format(possible[0]), _otherwise(possible, trial))


def _otherwise(possible: Sequence[str], values: Sequence[str]) -> tuple[str, ...]:
    """Further fitting formats that read some values as other times than the first format does."""
    first = reader_of_format(possible[0])
    return tuple(
        other
        for other in possible[1:]
        if any(reader_of_format(other)(value) not in (None, first(value)) for value in values)
    )


def reader(field: TimeMapping) -> Read:
    """A reader of a mapped time that reads as ingest does."""
    if field.unit:
        return reader_of_unit(field.unit, field.origin)
    zone = ZoneInfo(field.timezone) if field.timezone else UTC
    if field.format and field.year:
        whole = reader_of_format(f"yyyy {field.format}", zone)
        return lambda text: whole(f"{field.year} {text.strip()}")
    return reader_of_format(field.format, zone) if field.format else partial(read_iso, zone=zone)


def read_iso(text: str, zone: tzinfo = UTC) -> datetime | None:
    """Reads ISO 8601, and what Spark takes for it: hours alone, `UTC`, `+00`; `zone` is for texts that name none."""
    return _time_of(_ISO.fullmatch(text.strip()), zone)


def reader_of_unit(unit: str, origin: datetime | None = None) -> Read:
    """A reader of numbers of a unit since 1970, or since `origin`; it takes only times from 1990 to 2099."""
    factor, since = _PER_SECOND[unit], origin.replace(tzinfo=UTC).timestamp() if origin else 0.0

    def read(text: str) -> datetime | None:
        try:
            seconds = float(text) / factor + since
        except ValueError:
            return None
        return datetime.fromtimestamp(seconds, UTC) if _FIRST <= seconds < _LAST else None

    return read


def clock_of(text: str, unit: str | None = None) -> timedelta | None:
    """What a time of day adds to its date: `10:20:30`, or with `unit` a number of units; None for other texts."""
    try:
        if unit:
            return timedelta(seconds=float(text) / _PER_SECOND[unit])
        found = _CLOCK.fullmatch(text.strip())
        hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (99, 0, 0)
        return timedelta(hours=hours, minutes=minutes, seconds=seconds) if hours < 24 else None
    except (ValueError, OverflowError):
        return None


@lru_cache(512)
def reader_of_format(pattern: str, zone: tzinfo = UTC) -> Read:
    """A reader of texts in one of Spark's datetime patterns; `zone` is for texts that name none."""
    compiled = re.compile("".join(_tokens(pattern)))
    return lambda text: _time_of(compiled.fullmatch(text.strip()), zone)


def _tokens(pattern: str) -> Iterator[str]:
    """A regular expression for a datetime pattern, piece by piece; a field that occurs twice is captured once."""
    seen: set[str] = set()
    for quoted, letters, other in _pieces(pattern):
        if quoted:
            yield re.escape(quoted)
        elif letters:
            spelled = _token(letters)
            name = re.search(r"\?P<(\w+)>", spelled)
            yield re.sub(r"\?P<\w+>", "?:", spelled) if name and name[1] in seen else spelled
            seen.update(name.groups() if name else ())
        elif other in "[]":
            yield {"[": "(?:", "]": ")?"}[other]
        else:
            yield re.escape(other)


def _pieces(pattern: str) -> Iterator[tuple[str, str, str]]:
    for found in re.finditer(r"'([^']*)'|(([A-Za-z])\3*)|(.)", pattern):
        yield found[1] if found[1] is not None else "", found[2] or "", found[4] or ""


def _token(letters: str) -> str:
    if letters[0] == "S":
        return rf"(?P<S>\d{{{len(letters)}}})"
    if letters[0] in _ZONES:
        return rf"(?P<Z>{_ZONES[letters[0]]})"
    if letters[0] == "E":
        return r"[A-Za-z]{3,9}"
    return _TOKENS.get(letters, r"\d+")


def _time_of(found: re.Match[str] | None, zone: tzinfo) -> datetime | None:
    """The time of a match's groups; None if it is no time, or one that ingest rejects."""
    if found is None:
        return None
    part = {key: value for key, value in found.groupdict().items() if value}
    try:
        year = int(part["Y"]) if "Y" in part else 2000 + int(part["y"]) if "y" in part else 1970  # as Spark
        month = _MONTHS.index(part["b"][:3].lower()) + 1 if "b" in part else int(part.get("M", 1))
        hour = int(part.get("H", 0))
        if "h" in part:
            hour = int(part["h"]) % 12 + (12 if part.get("a", "am").lower() == "pm" else 0)
        micros = int(part.get("S", "0")[:6].ljust(6, "0"))
        clock = (hour, int(part.get("m", 0)), int(part.get("s", 0)), micros)
        time = datetime(year, month, int(part.get("d", 1)), *clock, tzinfo=_zone(part["Z"]) if "Z" in part else zone)
        time = time if time.tzinfo is UTC else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return time if FIRST_YEAR <= time.year <= LAST_YEAR else None


def _zone(text: str) -> timezone:
    """The zone of an offset; all names of zones count as UTC here, since only days are needed."""
    if text[0] not in "+-":
        return UTC
    digits = text[1:].replace(":", "")
    hours, minutes = (int(digits), 0) if len(digits) <= 2 else (int(digits[:-2]), int(digits[-2:]))
    return timezone((1 if text[0] == "+" else -1) * timedelta(hours=hours, minutes=minutes))
