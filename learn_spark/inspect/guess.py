"""From what unknown files hold to a first guess of what their columns mean. No Spark."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from learn_spark.inspect.look import FIRST_YEAR, LAST_YEAR, Seen

MOST_EVENT_TYPES = 30
GOOD_SHARE = 0.9
NAMES = {
    "user_id": "user_id|userid|user|customer_?id|customer|reviewerid|visitor_?id|member_?id|client_?id|account_?id|uid",
    "item_id": "item_id|itemid|item|parent_asin|asin|product_?id|product|video_?id|movie_?id|stock_?code|sku"
    "|article_?id|photo_?id|goods_?id|book_?id|track_?id|content_?id",
    "event_ts": "event_ts|event_time|timestamp|time_ms|unixreviewtime|datetime|created_?at|invoice_?date|time|ts|date",
    "event_type": "event_type|event|action|behaviou?r_?type|behaviou?r|interaction_?type|type",
    "value": "rating|overall|score|stars|quantity|value|amount|play_time_ms|dwell_?time",
    "title": "title|item_?title|item_?name|product_?name|name|description|caption",
    "category": "category|item_?category|category_?name|categories|genres?|main_category",
    "brand": "brand|store|manufacturer",
    "price": "price|unit_?price",
}
_EPOCHS = (("seconds", 1.0), ("milliseconds", 1e3), ("microseconds", 1e6))
_FIRST, _LAST = datetime(1990, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp()
_ISO = re.compile(r"^\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:?\d{2})?)?$")
_DATES = (("%m/%d/%Y", "M/d/yyyy"), ("%d/%m/%Y", "d/M/yyyy"), ("%d.%m.%Y", "d.M.yyyy"), ("%Y/%m/%d", "yyyy/M/d"))
_DATES += (("%Y-%m-%d", "yyyy-MM-dd"), ("%m/%d/%y", "M/d/yy"))
_CLOCKS = (("", ""), (" %H:%M", " H:mm"), (" %H:%M:%S", " H:mm:ss"))
_PATTERNS = [(d + c, java_d + java_c) for d, java_d in _DATES for c, java_c in _CLOCKS]
_PATTERNS += [("%Y%m%d", "yyyyMMdd"), ("%Y%m%d%H%M%S", "yyyyMMddHHmmss")]


@dataclass
class Guess:
    """A mapping, and what a person should know of it.

    Attributes:
        mapping: as the config has it.
        event_types: as the config has it; empty where the values of the mapped column say.
        read_time: a text to a time, None where it is none.
        said: findings, a line each.
    """

    mapping: dict[str, dict[str, object]]
    event_types: list[str]
    read_time: Callable[[str], datetime | None]
    said: list[str] = field(default_factory=list)


def guess(seen: Seen) -> Guess | None:
    """None where no time, or no two further columns, can be found."""
    columns = {name: [row.get(name, "") for row in seen.rows] for name in seen.columns}
    called_ids = {_named(role, columns) for role in ("user_id", "item_id")}  # long numbers may be ids or times
    times = {name: found for name, values in columns.items() if name not in called_ids and (found := _time(values))}
    if not times:
        return None
    time = _named("event_ts", times) or next(iter(times))
    options, read_time, note = times[time]
    said = [f"event_ts is {time} ({', '.join(f'{k} {v}' for k, v in options.items()) or 'ISO 8601'}){note}"]
    mapping: dict[str, dict[str, object]] = {"event_ts": {"column": time, **options}}
    left = [name for name in columns if name not in times]
    ids = _ids(left)
    if ids is None:
        return None
    for role, name in ids.items():
        mapping[role] = {"column": name} | _suffix(columns[name])
        said.append(f"{role} is {name}")
        left.remove(name)
    found = Guess(mapping, [], read_time, said)
    _event_type(found, {name: columns[name] for name in left})
    for role in ("value", "price"):
        _add(found, role, [name for name in left if _are_numbers(columns[name])])
    for role in ("title", "category", "brand"):
        texts = [name for name in left if name not in _used(found)]
        _add(found, role, texts)
    if "title" not in mapping:
        mapping["title"] = {"column": ids["item_id"]}
        said.append("no title was found: the item's id stands for it; better give `items`, a catalogue with names")
    for role in ("title", "category"):
        values = columns[str(mapping[role]["column"])] if role in mapping else []
        if any(values) and all(value.startswith("[") for value in values if value):
            mapping[role]["list"] = "json"
    order = [name for name in NAMES if name in mapping]
    found.mapping = {name: mapping[name] for name in order}
    return found


def _named(role: str, columns: Iterable[str]) -> str | None:
    """The column whose name is the most usual for a role."""
    wanted = NAMES[role].split("|")
    by_name = {name.strip().lower().replace(" ", "_"): name for name in reversed(list(columns))}
    for pattern in wanted:
        for lowered, name in by_name.items():
            if re.fullmatch(pattern, lowered):
                return name
    return None


def _ids(columns: list[str]) -> dict[str, str] | None:
    """User and item by name, else the first columns that are left."""
    user = _named("user_id", columns)
    item = _named("item_id", [name for name in columns if name != user])
    rest = iter([name for name in columns if name not in (user, item)])
    user = user or next(rest, None)
    item = item or next(rest, None)
    return {"user_id": user, "item_id": item} if user and item else None


def _add(found: Guess, role: str, columns: list[str]) -> None:
    name = _named(role, [name for name in columns if name not in _used(found)])
    if name is not None:
        found.mapping[role] = {"column": name}
        found.said.append(f"{role} is {name}")


def _used(found: Guess) -> set[object]:
    return {field.get("column") for field in found.mapping.values()}


def _event_type(found: Guess, columns: dict[str, list[str]]) -> None:
    flags = {name: name[3:] for name, values in columns.items() if name.startswith("is_") and _are_flags(values)}
    name = _named("event_type", columns)
    kinds = Counter(columns[name]) if name else Counter()
    if name and all(kinds) and len(kinds) <= MOST_EVENT_TYPES:
        found.mapping["event_type"] = {"column": name}
        found.said.append(f"event_type is {name}")
    elif len(flags) > 1:
        found.mapping["event_type"] = {"always": "impression", "flags": flags}
        found.event_types = ["impression", *flags.values()]
        found.said.append(f"event_type: each of {', '.join(flags)} that is 1 is an event, and every row an impression")
    else:
        found.mapping["event_type"] = {"constant": "event"}
        found.event_types = ["event"]
        found.said.append("event_type: none was found, every row is an `event`")


def _suffix(values: list[str]) -> dict[str, object]:
    """Ids that went through floats, as 17850.0."""
    given = [value for value in values if value]
    floats = bool(given) and all(re.fullmatch(r"\d+\.0", value) for value in given)
    return {"strip_suffix": ".0"} if floats else {}


def _are_flags(values: list[str]) -> bool:
    return set(values) <= {"0", "1", "true", "false", "0.0", "1.0", ""}


def _are_numbers(values: list[str]) -> bool:
    try:
        return bool([float(value) for value in values if value])
    except ValueError:
        return False


Found = tuple[dict[str, object], Callable[[str], datetime | None], str]


def _time(values: list[str]) -> Found | None:
    """How the values are times, if nearly all are."""
    given = [value for value in values if value.strip()]
    if not given:
        return None

    def fits(read: Callable[[str], datetime | None]) -> bool:
        return sum(read(value) is not None for value in given) >= GOOD_SHARE * len(given)

    if fits(_read_iso):
        return {}, _read_iso, ""
    for unit, factor in _EPOCHS:
        if fits(read := _reader_of_numbers(factor)):
            return {"unit": unit}, read, ""
    possible = [(java, read) for python, java in _PATTERNS if fits(read := _reader_of_pattern(python))]
    if not possible:
        return None
    others = ", ".join(java for java, _ in possible[1:])
    return {"format": possible[0][0]}, possible[0][1], f"; it could also be {others}" if others else ""


def _read_iso(text: str) -> datetime | None:
    if not _ISO.match(text.strip()):
        return None
    try:
        time = datetime.fromisoformat(text.strip())
        return _usual(time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None


def _reader_of_numbers(factor: float) -> Callable[[str], datetime | None]:
    def read(text: str) -> datetime | None:
        try:
            seconds = float(text) / factor
        except ValueError:
            return None
        return datetime.fromtimestamp(seconds, UTC) if _FIRST <= seconds < _LAST else None

    return read


def _reader_of_pattern(pattern: str) -> Callable[[str], datetime | None]:
    def read(text: str) -> datetime | None:
        try:
            return _usual(datetime.strptime(text.strip(), pattern).replace(tzinfo=UTC))
        except ValueError:
            return None

    return read


def _usual(time: datetime) -> datetime | None:
    """The time, unless ingest would reject it as out of range."""
    return time if FIRST_YEAR <= time.year <= LAST_YEAR else None


def day_of(time: datetime) -> date:
    """The UTC day."""
    return time.astimezone(UTC).date()
