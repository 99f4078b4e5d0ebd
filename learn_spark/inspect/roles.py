"""Decides which of a folder's tables is the log, which its catalogue, and why the others are neither. No Spark."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from learn_spark.errors import ConfigError
from learn_spark.inspect.columns import SPLITS, SeenColumn, columns_of, is_kind, overlap
from learn_spark.inspect.folder import FolderContent, Seen, exploded
from learn_spark.inspect.guess import Guess, describe_item, guess, guess_like, number_options, ordered
from learn_spark.inspect.ids import GOOD_OVERLAP
from learn_spark.inspect.layout import lists_of_events
from learn_spark.inspect.names import forms, named, ranked


@dataclass(frozen=True)
class ItemTable:
    """A table of items: where it lies and what its columns mean."""

    seen: Seen
    guess: Guess
    coverage: float

    @property
    def mapping(self) -> dict[str, dict[str, object]]:
        """The mapping as in `ingest.items.mapping`."""
        return ordered(self.guess.mapping)


@dataclass
class Roles:
    """What each table of a folder is.

    Attributes:
        log: the events.
        guess: what its columns mean.
        sources: all tables of a log that is split by kind of event, as the files' names say; empty if it is one table.
        catalogue: the items' names; None if there is none.
        left_out: every other table or file, with the reason.
    """

    log: Seen
    guess: Guess
    sources: list[tuple[Seen, Guess]] = field(default_factory=list)
    catalogue: ItemTable | None = None
    left_out: dict[str, str] = field(default_factory=dict)


def roles_of(content: FolderContent) -> Roles:
    """Finds the log and its catalogue.

    Raises:
        ConfigError: no table holds a log.
    """
    columns = {seen.files: columns_of(seen.columns, seen.rows) for seen in content.tables}
    keys = {files: key for files, own in columns.items() if (key := _key(own)) is not None}
    logs: list[tuple[Seen, Guess]] = []
    for seen in content.tables:
        others = [key for files, key in keys.items() if files != seen.files]
        tries = ((table, guess(table, others)) for table in _with_lists(seen))
        logs += [pair for pair in [next(((t, g) for t, g in tries if g is not None), None)] if pair]
    if not logs:
        raise ConfigError(_no_log(content, columns))
    log, found = max(logs, key=lambda pair: (_is_log(pair[1], keys.get(pair[0].files)), pair[0].size))
    roles = Roles(log, found, left_out=dict(content.left_out))
    known = {seen.files for seen, _ in logs}
    alike = ((seen, guess_like(seen, found)) for seen in content.tables if seen.files not in known)
    logs += [(seen, own) for seen, own in alike if own is not None]
    roles.sources = _kinds_by_name(log, found, logs)
    taken = {log.files, *(seen.files for seen, _ in roles.sources)}
    rest = [seen for seen in content.tables if seen.files not in taken]
    roles.catalogue = max(
        filter(None, (_catalogue(seen, keys.get(seen.files), found) for seen in rest)),
        key=lambda each: (each.coverage, "title" in each.mapping),
        default=None,
    )
    for seen in rest:
        if roles.catalogue is None or seen is not roles.catalogue.seen:
            another = next((own for each, own in logs if each.files == seen.files), None)
            roles.left_out[seen.files] = _why_left(seen, columns[seen.files], keys.get(seen.files), roles, another)
    return roles


def _with_lists(seen: Seen) -> Iterator[Seen]:
    """The table in the ways to try: exploded by texts of labelled items, as it is, exploded by lists of objects."""
    layouts = lists_of_events(seen.paths[0], seen.layout)
    tables: list[Seen] = []
    for layout in layouts:
        with suppress(ConfigError):
            tables.append(exploded(seen, layout))
    yield from (table for table in tables if table.layout.pattern)
    yield seen
    yield from (table for table in tables if not table.layout.pattern)


def _kinds_by_name(log: Seen, found: Guess, logs: list[tuple[Seen, Guess]]) -> list[tuple[Seen, Guess]]:
    """Tables of the same users and items, each named by its kind of event, as clicks and buys; maps these kinds."""
    alike = [(log, found)]
    for seen, own in logs:
        shared = [
            overlap(own.columns[own.column(role)].counts, found.columns[found.column(role)].counts)
            for role in ("user_id", "item_id")
        ]
        if seen is not log and min(shared) >= GOOD_OVERLAP:
            alike.append((seen, own))
    kinds = [_kind_of(seen.files) for seen, _ in alike]
    constant = all("constant" in own.mapping["event_type"] for _, own in alike)
    if len(alike) < 2 or not constant or None in kinds or len(set(kinds)) < len(kinds):
        return []
    for (seen, own), kind in zip(alike, kinds, strict=True):
        own.mapping["event_type"] = {"constant": str(kind)}
        own.event_types = [str(kind)]
        own.said = [line for line in own.said if not line.startswith("event_type")]
        own.said.append(f"event_type is {kind}, as the name of {seen.files} says")
    return alike


def _kind_of(files: str) -> str | None:
    """The word of a file's name, or of its folders', that is a kind of event."""
    words = re.split(r"[^A-Za-z]+", files)
    return next((word.lower() for word in words if word and is_kind(word)), None)


def _is_log(found: Guess, key: SeenColumn | None) -> float:
    """Points for how likely a table is a log: for usual names and a kind of event, against a row per item."""
    points = found.named_roles + (found.mapping["event_type"].get("column") is not None)
    if key is not None and named("item_id", [key.name]) is not None:
        points -= 2  # a row per item
    return points


def _key(columns: dict[str, SeenColumn]) -> SeenColumn | None:
    """The column with a different value in each row, by name if there are several; None in a log or a bridge table."""
    times = set(ranked("event_ts", columns))
    own = {name: c for name, c in columns.items() if _is_key(c) and name not in times and not _is_time(c)}
    item = next(iter(ranked("item_id", own)), None)
    plain = [name for name in own if not own[name].is_prose and "id" in "_".join(forms(name)).split("_")]
    first = [name for name in list(columns)[:2] if name in own and not own[name].is_prose]
    chosen = item or next(iter([*plain, *first, *own]), None)
    return own[chosen] if chosen else None


def _is_time(column: SeenColumn) -> bool:
    """Whether the values can only be times; numbers could also be ids."""
    return column.spelling is not None and "unit" not in column.spelling.options


def _is_key(column: SeenColumn) -> bool:
    return len(column.given) > 1 and len(column.counts) >= 0.98 * len(column.given) and not column.is_nested


def _catalogue(seen: Seen, key: SeenColumn | None, log: Guess) -> ItemTable | None:
    """The table as a catalogue of the log's items; None if it has no key or no title, or is about other things."""
    if key is None:
        return None
    items = log.columns[log.column("item_id")].counts
    coverage, people = overlap(items, key.counts), overlap(log.columns[log.column("user_id")].counts, key.counts)
    is_of_people = named("user_id", [key.name]) is not None or (
        people > coverage and named("item_id", [key.name]) is None
    )
    if is_of_people:
        return None
    found = Guess({name: column for name, column in columns_of(seen.columns, seen.rows).items() if column.given})
    if key.name not in found.columns:
        return None
    found.mapping["item_id"] = {"column": key.name}
    price = named("price", [n for n, c in found.columns.items() if n != key.name])
    if price is not None:
        found.put("price", price, _price(found.columns[price]))
    describe_item(found, key.name)
    is_named = key.name == log.column("item_id") or named("item_id", [key.name]) is not None
    if "title" not in found.mapping or not (coverage >= GOOD_OVERLAP or is_named):
        return None
    return ItemTable(seen, found, coverage)


def _price(column: SeenColumn) -> dict[str, object]:
    """The mapping's options for prices: their currency sign, decimal comma, and whether some are no numbers."""
    signs = {value[0] for value in column.given[:200] if not value[0].isdigit()}
    sign = next(iter(signs)) if len(signs) == 1 and signs <= set("$€£¥") else ""
    plain = SeenColumn(column.name, [value.removeprefix(sign) for value in column.values])
    options = ({"strip_prefix": sign} if sign else {}) | number_options(plain)
    return options | ({} if plain.is_numeric or plain.has_decimal_commas else {"lenient": True})


def _why_left(
    seen: Seen, columns: dict[str, SeenColumn], key: SeenColumn | None, roles: Roles, another: Guess | None
) -> str:
    """Why a table is neither the log nor its catalogue."""
    log = roles.guess
    if {"property", "value"} <= {part for name in columns for part in forms(name)}:
        return "a property of an item per line: if one of them is the title, `items` with `pivot` reads it"
    user, item = log.column("user_id"), log.column("item_id")
    is_split = any(part in SPLITS for part in seen.files.lower().replace(".", "_").replace("-", "_").split("_"))
    if is_split and (user in columns or item in columns):
        return "rows of somebody's own split: not used, the windows cut the log by time"
    if another is not None:
        names = ", ".join(another.column(role) for role in ("user_id", "item_id", "event_ts"))
        return f"another log ({names}), smaller or less sure: look at it by itself"
    if key is not None and (named("user_id", [key.name]) or key.name == user):
        return "a row per user: not used"
    if key is not None and "title" in {*_roles(columns)}:
        samples = [", ".join(list(c)[:3]) for c in (log.columns[item].counts, key.counts)]
        return f"a catalogue whose {key.name} ({samples[1]}) are not the log's {item} ({samples[0]})"
    if user in columns or item in columns:
        return "no time that can be found in it" if user in columns else "neither a log nor a title per item"
    return "neither a log nor a catalogue of its items"


def _roles(columns: Sequence[str] | dict[str, SeenColumn]) -> list[str]:
    return [role for role in ("title",) if named(role, columns)]


def _no_log(content: FolderContent, columns: dict[str, dict[str, SeenColumn]]) -> str:
    """Why no table is a log, told about the largest one."""
    seen = content.tables[0]
    own = columns[seen.files]
    others = f"; of the {len(content.tables)} tables there none has" if len(content.tables) > 1 else ""
    relative = [
        name
        for name in ranked("event_ts", own)
        if own[name].is_numeric and own[name].spelling is None and own[name].steadiness >= 0.9
    ]
    where = seen.paths[0]
    if relative:
        first, last = own[relative[0]].given[0], own[relative[0]].given[-1]
        return (
            f"{where}: {relative[0]} ({first} .. {last}) counts from a beginning of its own, not from 1970: map it by"
            f" hand with a beginning, as {{column: {relative[0]}, unit: seconds, origin: 2024-01-01}}{others}"
        )
    order = [name for name in own if any("order" in form.split("_") or "rank" in form for form in forms(name))]
    hint = f" ({', '.join(order)} may give an order, but no days)" if order else ""
    return f"{where} has no column of times, or no two further ones: map it by hand{hint}{others}"
