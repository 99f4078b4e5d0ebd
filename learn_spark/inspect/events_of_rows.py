"""Applies a config's mapping to rows as ingest does, without Spark."""

import re
from datetime import UTC, date, datetime
from pathlib import Path

from learn_spark.config.formats import hive_keys
from learn_spark.config.mapping import EventTypeMapping, FieldMapping, IngestMapping, TimeMapping
from learn_spark.config.sources import SourceSettings
from learn_spark.inspect.layout import Layout, Row
from learn_spark.inspect.spellings import clock_of, reader

NOT_WANTED = "not wanted"
_ON = ("1", "1.0", "true")


class EventReader:
    """Reads rows by a mapping as ingest does: their day, user and item, kinds of event, and what they lack."""

    def __init__(self, source: SourceSettings, path: Path) -> None:
        self._mapping: IngestMapping = source.mapping  # pyright: ignore - of a log, not of items
        self._nulls = frozenset(source.nulls)
        self._where = source.where
        self._read_time = reader(self._mapping.event_ts)
        self._of_path = path_values(source, path)

    def event(self, row: Row) -> tuple[date | None, tuple[str, str], list[str], str]:
        """Day, (user, item), kinds, and why the row is no event ("" if it is one)."""
        row = row | self._of_path if self._of_path else row
        mapping = self._mapping
        kind = mapping.event_type
        is_ignored = kind.column is not None and row.get(kind.column, "").strip() in kind.ignore
        if is_ignored or any(row.get(name, "").strip() not in wanted for name, wanted in self._where.items()):
            return None, ("", ""), [], NOT_WANTED
        moment = self._time(mapping.event_ts, row)
        day = moment.astimezone(UTC).date() if moment else None
        pair = self._value(mapping.user_id, row), self._value(mapping.item_id, row)
        if not all(pair):
            return day, pair, [], f"missing {'item' if pair[0] else 'user'}"
        if day is None:
            return day, pair, [], "no time"
        if mapping.title and mapping.title.column and not self._value(mapping.title, row):
            return day, pair, [], "missing title"
        return day, pair, self._kinds(mapping.event_type, row), ""

    def _time(self, field: TimeMapping, row: Row) -> datetime | None:
        moment = self._read_time(self._value(field, row))
        if moment is None or field.clock is None:
            return moment
        added = clock_of(row.get(field.clock, ""), field.clock_unit)
        return moment + added if added is not None else None

    def _kinds(self, field: EventTypeMapping, row: Row) -> list[str]:
        if not field.flags:
            return [value] if (value := self._value(field, row)) else []
        raised = [what for name, what in field.flags.items() if row.get(name, "").strip().lower() in _ON]
        return [field.always, *raised] if field.always else raised

    def _value(self, field: FieldMapping, row: Row) -> str:
        if field.column is None:
            return field.constant or ""
        text = row.get(field.column, "").strip()
        text = "" if text in self._nulls else text
        text = text.removeprefix(field.strip_prefix or "").removesuffix(field.strip_suffix or "").strip()
        if field.map:
            return field.map.get(text, field.default or text) if text else ""
        if field.by_prefix:
            found = [prefix for prefix in field.by_prefix if text.startswith(prefix)]
            return field.by_prefix[max(found, key=len)] if found else field.default or ""
        return text or field.default or ""


def layout_from(source: SourceSettings) -> Layout:
    """The layout by which a config says that its files are read."""
    return Layout(
        source.format,
        source.delimiter,
        source.encoding,
        source.quote or "",
        source.escape,
        source.multiline,
        source.skip_lines,
        source.comment or "",
        source.columns is None,
        list(source.columns or ()),
        tuple(source.exploded()),
        (source.explode and source.explode.separator) or "",
        (source.explode and source.explode.pattern) or "",
    )


def path_values(source: SourceSettings, path: Path) -> dict[str, str]:
    """Columns whose values are in a file's path: `key=value` folders, and what `files` names in braces."""
    name = path.relative_to(source.path).as_posix() if path.is_relative_to(source.path) else path.as_posix()
    found = {key: value.split("=", 1)[1].rstrip("/") for key, value in hive_keys(name).items()}
    pattern = re.escape(re.sub(r"\{day[^}]*\}", "*", source.files or ""))
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]*?)", pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
    named = re.fullmatch(pattern, name)
    return found | (named.groupdict() if named else {})
