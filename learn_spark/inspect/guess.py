"""Makes a first guess of what a table's columns mean, from what they hold. No Spark."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

from learn_spark.inspect.columns import (
    MOST_KINDS,
    OWN_ID_SHARE,
    SeenColumn,
    columns_of,
    determines,
    is_kind,
    overlap,
)
from learn_spark.inspect.folder import Seen
from learn_spark.inspect.ids import DETERMINED, GOOD_OVERLAP, id_options, joining, user_and_item
from learn_spark.inspect.names import NAMES, named, ranked
from learn_spark.inspect.spellings import Spelling, clock_of

Mapping_ = dict[str, dict[str, object]]


@dataclass
class Guess:
    """A mapping of a log, and what a person should know about it.

    Attributes:
        columns: of the sampled rows.
        mapping: as in the config.
        event_types: as in the config; empty if they are the mapped column's values.
        named_roles: for how many of user, item and time the column has a usual name.
        said: findings, one line each.
    """

    columns: Mapping[str, SeenColumn]
    mapping: Mapping_ = field(default_factory=dict)
    event_types: list[str] = field(default_factory=list)
    named_roles: int = 0
    said: list[str] = field(default_factory=list)

    def column(self, role: str) -> str:
        """The source column of a role, "" if it has none."""
        return str(self.mapping.get(role, {}).get("column", ""))

    def put(self, role: str, name: str, options: Mapping[str, object], why: str = "") -> None:
        """Maps a role to a column, and adds that to the findings."""
        self.mapping[role] = {"column": name, **options}
        self.said.append(f"{role} is {name}{why}")

    def left(self) -> dict[str, SeenColumn]:
        """The columns that no role is mapped to."""
        used = {str(part.get("column")) for part in self.mapping.values()}
        flags = set(chain.from_iterable(part.get("flags", {}) for part in self.mapping.values()))  # pyright: ignore
        return {name: column for name, column in self.columns.items() if name not in used | flags}


def guess(seen: Seen, catalogues: Iterable[SeenColumn] = ()) -> Guess | None:
    """Guesses what the columns of a log mean.

    Args:
        seen: the table.
        catalogues: the key columns of other tables; a column that joins one of them is the item's.

    Returns:
        The guess; None if no time, or no two further columns, can be found.
    """
    columns = {name: column for name, column in columns_of(seen.columns, seen.rows).items() if column.given}
    found = Guess(columns)
    joined = joining(columns, catalogues)
    shown = seen.layout.explode[0] if seen.layout.pattern else None
    if shown:
        joined[f"{shown}.item"] = 3.0
    times = _times(columns, joined)
    if not times:
        return None
    time, how, note = _best_time(times, columns)
    clock = _clock(how, columns)
    with_clock = f" with the clock of {clock}" if clock else ""
    found.put("event_ts", time, how.options | ({"clock": clock} if clock else {}), f" ({how.name}){with_clock}{note}")
    rest = [
        name for name in columns if name not in times or (name != time and _may_be_numbers(columns[name], times[name]))
    ]
    rest.sort(key=lambda name: name in seen.line_ids)  # a line's own id is the user only if nothing else can be
    kind = _kind_column({name: columns[name] for name in rest})
    ids = user_and_item({name: columns[name] for name in rest if name != kind}, joined)
    if ids is None:
        return None
    user, item, why = ids
    found.put("user_id", user, id_options(columns[user]))
    found.put("item_id", item, id_options(columns[item]), why)
    found.named_roles = sum(
        named(role, [found.column(role)]) is not None for role in ("user_id", "item_id", "event_ts")
    )
    if shown:
        found.put("event_type", f"{shown}.label", {"map": {"0": "impression", "1": "click"}}, ": 0 is shown, 1 clicked")
        found.event_types = ["impression", "click"]
    else:
        _event_type(found, kind)
    _describe(found)
    _say_more(found)
    return found


def guess_like(seen: Seen, other: Guess) -> Guess | None:
    """Guesses a table's columns by another log's: users and items are the columns that share its values.

    For tables that are too small to tell a user's or an item's id from a row's own id: a few buys beside many clicks.
    """
    columns = {name: column for name, column in columns_of(seen.columns, seen.rows).items() if column.given}
    times = _times(columns, {})
    if not times:
        return None
    found = Guess(columns)
    time, how, note = _best_time(times, columns)
    found.put("event_ts", time, how.options, f" ({how.name}){note}")
    for role in ("item_id", "user_id"):
        known = other.columns[other.column(role)].counts
        shares = {name: overlap(column.counts, known) for name, column in found.left().items()}
        best = max(shares, key=lambda name: (name == other.column(role), shares[name]), default=None)
        if best is None or shares[best] < GOOD_OVERLAP:
            return None
        found.put(role, best, id_options(columns[best]))
    _event_type(found, _kind_column(found.left()))
    _describe(found)
    return found


def ordered(mapping: Mapping_) -> Mapping_:
    """The mapping in the order of the contract's fields."""
    return {name: mapping[name] for name in (*NAMES, *(set(mapping) - set(NAMES))) if name in mapping}


def _times(columns: Mapping[str, SeenColumn], joined: Mapping[str, float]) -> dict[str, Spelling]:
    """Columns whose values are times, without those with an id's name, since long numbers may be ids."""
    called = {name for role in ("user_id", "item_id") for name in ranked(role, columns)} - set(
        ranked("event_ts", columns)
    )
    others = [name for name, column in columns.items() if name not in called and joined.get(name, 0.0) < 1]
    return {name: how for name in others if (how := columns[name].spelling) is not None}


def _best_time(times: Mapping[str, Spelling], columns: Mapping[str, SeenColumn]) -> tuple[str, Spelling, str]:
    """The column with a time's name, else the one that varies and is in order as a log's times are; and a note."""

    def score(name: str) -> float:
        column, order = columns[name], ranked("event_ts", times)
        points = 4.0 - 0.01 * order.index(name) if name in order else 0.0
        points += 2 * (column.steadiness >= 0.9) + len(column.counts) / len(column.given)
        points += 1 if "unit" not in times[name].options else 0  # a text that spells a time is no id
        return points - (0 if len(column.given) >= 0.9 * len(column.values) else 2)

    best = max(times, key=score)
    others = [name for name in times if name != best and not _may_be_numbers(columns[name], times[name])]
    note = f"; it could also be {', '.join(times[best].others)}" if times[best].others else ""
    if others:
        note += f"; times, too: {', '.join(others)}"
    return best, times[best], note


def _clock(how: Spelling, columns: Mapping[str, SeenColumn]) -> str | None:
    """The column with the time of day, if the column with the time holds only dates."""
    if "unit" in how.options or "H" in str(how.options.get("format", "")):
        return None
    clocks = [name for name, c in columns.items() if len(c.counts) > 1 and all(map(clock_of, c.given[:200]))]
    return next(iter(clocks), None)


def _may_be_numbers(column: SeenColumn, how: Spelling) -> bool:
    """Whether numbers that could be times may be ids as well: they repeat, and are in no order."""
    return "unit" in how.options and not column.is_own_id and column.steadiness < 0.9


def _kind_column(columns: Mapping[str, SeenColumn]) -> str | None:
    """The column whose values are kinds of events, else one with such a name and few values."""
    by_values = [name for name, column in columns.items() if column.kinds_share >= 0.5]
    if by_values:
        return max(by_values, key=lambda name: (columns[name].kinds_share, name in ranked("event_type", by_values)))
    for name in ranked("event_type", columns):
        column = columns[name]
        if len(column.counts) <= MOST_KINDS and len(column.given) == len(column.values) and not column.is_own_id:
            return name
    return None


def _event_type(found: Guess, kind: str | None) -> None:
    flags = {name: name[3:] for name, column in found.columns.items() if name.startswith("is_") and column.is_flag}
    flags = {name: what for name, what in flags.items() if is_kind(what) or len(flags) > 1}
    if kind is not None:
        counts = found.columns[kind].counts
        shown = ", ".join(f"{value} {n / counts.total():.0%}" for value, n in counts.most_common(6))
        idle = _without_items(found, kind)
        found.put("event_type", kind, {"ignore": idle} if idle else {}, f": {shown}")
        if idle:
            found.said.append(f"event_type: {', '.join(idle)} have no item: their lines are not wanted")
    elif len(flags) > 1:
        found.mapping["event_type"] = {"always": "impression", "flags": flags}
        found.event_types = ["impression", *flags.values()]
        found.said.append(f"event_type: each of {', '.join(flags)} that is 1 is an event, and every row an impression")
    else:
        found.mapping["event_type"] = {"constant": "event"}
        found.event_types = ["event"]
        found.said.append("event_type: none was found, every row is an `event`")


def _without_items(found: Guess, kind: str) -> list[str]:
    """Kinds of event whose rows hardly ever name an item, such as page views."""
    items, kinds = found.columns[found.column("item_id")], found.columns[kind]
    named = Counter(k for k, item in zip(kinds.values, items.values, strict=True) if item.strip() not in items.empty)
    return [each for each, n in kinds.counts.items() if named[each] < 0.1 * n and each.strip()]


def _describe(found: Guess) -> None:
    """Maps the columns that describe a row's item."""
    for role, fits in (("value", _is_number), ("price", _is_number)):
        name = named(role, [name for name, column in found.left().items() if fits(column)])
        if name is not None:
            found.put(role, name, number_options(found.columns[name]))
    describe_item(found, found.column("item_id"))


def number_options(column: SeenColumn) -> dict[str, object]:
    """The mapping's options for how a column's numbers are written."""
    return {"decimal": ","} if column.has_decimal_commas else {}


def describe_item(found: Guess, item: str) -> None:
    """Maps title, category, brand and keywords by their columns' names; a title else by its words."""
    for role in ("title", "category", "brand", "keywords"):
        left = {name: column for name, column in found.left().items() if not column.is_split and not column.is_flag}
        name = named(role, left)
        if name is None and role == "title" and not _has_names(found.columns):
            prose = [name for name, column in left.items() if column.is_prose and _says_of(found.columns[item], column)]
            name = max(prose, key=lambda name: len(left[name].counts), default=None)
        if name is not None:
            found.put(role, name, _list_of(left[name]))


def _has_names(columns: Mapping[str, SeenColumn]) -> bool:
    """Whether the table has a header: columns without names are called `column_1`."""
    return not all(name.startswith("column_") for name in columns)


def _says_of(item: SeenColumn, text: SeenColumn) -> bool:
    return item.is_own_id or len(item.counts) >= OWN_ID_SHARE * len(item.given) or determines(item, text) >= DETERMINED


def _list_of(column: SeenColumn) -> dict[str, object]:
    """The mapping's options for a text that is a list: a JSON array, or names between bars."""
    if column.is_nested and all(value.startswith("[") for value in column.given[:200]):
        return {} if any(value.startswith("['") for value in column.given[:200]) else {"list": "json"}
    barred = sum("|" in value for value in column.given)
    return {"list": "|"} if barred >= 0.1 * len(column.given) else {}


def _is_number(column: SeenColumn) -> bool:
    return column.is_numeric or column.has_decimal_commas


def _say_more(found: Guess) -> None:
    """Adds findings about equal rows, null markers, splits, and columns that are a row's own id."""
    rows = list(zip(*(column.values for column in found.columns.values()), strict=True))
    equal = len(rows) - len(set(rows))
    if equal >= 0.005 * len(rows):
        found.said.append(f"{equal / len(rows):.1%} of the rows are equal to another: copies, unless `repeats: keep`")
    for name, column in found.columns.items():
        for marker, count in column.nulls.items():
            found.said.append(
                f"{name}: {count / len(column.values):.0%} of the values are {marker!r}, which means none"
            )
        if column.is_split and not name.startswith("column_"):
            shown = ", ".join(f"{value} {n}" for value, n in column.counts.most_common())
            found.said.append(f"{name} is a split of somebody's own ({shown}): not used, the windows cut by time")
        elif column.is_own_id and found.column("event_ts") != name and not column.is_prose:
            found.said.append(f"{name} is a row's own id: as many values as rows")
