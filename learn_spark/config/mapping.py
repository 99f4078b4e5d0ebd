"""What the columns of a log mean: the mappings in the config's ingest section."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from learn_spark.config.time_formats import ZONE_LETTERS, letters, problem_of
from models.contract.strict import Settings

Unit = Literal["nanoseconds", "microseconds", "milliseconds", "seconds", "minutes", "hours", "days", "weeks"]
Name = Annotated[str, Field(min_length=1)]


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{name!r} is no time zone; write one as Europe/London") from None
    return name


Zone = Annotated[Name, AfterValidator(_known_zone)]
RESERVED = {"_corrupt_record", "_raw", "_bad_bytes", "_inexact", "_path", "source_file", "load_day"}
_OF_A_COLUMN = ("strip_prefix", "strip_suffix", "map", "by_prefix", "default", "list", "ignore")


class FieldMapping(Settings):
    """How one field of the contract is read: from a source column, or a constant.

    The column's value is trimmed, `strip_prefix` and `strip_suffix` are cut off, and an empty one is null. `map` gives
    a result for exact values, `by_prefix` for beginnings; `default` holds where neither does, and for empty values of
    a field that has neither. Without it, a value that `map` does not name stays as it is.
    """

    column: Name | None = None
    constant: Name | None = None
    strip_prefix: Name | None = None
    strip_suffix: Name | None = None
    map: dict[str, str] = {}
    by_prefix: dict[Name, str] = {}
    default: Name | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        idle = [key for key in _OF_A_COLUMN if getattr(self, key, None)]
        if self.column is None and idle:
            raise ValueError(f"`{idle[0]}` works on a `column`, and there is none")
        if self.map and self.by_prefix:
            raise ValueError("give either `map` or `by_prefix`")
        if sum([self.column is not None, self.constant is not None, bool(self.flag_columns())]) != 1:
            raise ValueError(f"give one of {', '.join(f'`{key}`' for key in self._sources())}")
        return self

    def _sources(self) -> Iterator[str]:
        return (key for key in ("column", "constant", "flags") if key in type(self).model_fields)

    def flag_columns(self) -> dict[str, str]:
        """Source columns of flags and what each stands for; empty where the field has none."""
        return getattr(self, "flags", {})

    def columns(self) -> Iterator[str]:
        """Every source column that the field needs."""
        if self.column is not None:
            yield self.column
        yield from self.flag_columns()


class TextMapping(FieldMapping):
    """A text. `list`: its value is a JSON array ("json") or has this separator; it becomes "a, b".

    `flags`: the names of the columns that hold 1, joined by ", ".
    """

    list: Name | None = None
    flags: dict[Name, Name] = {}


class NumberMapping(FieldMapping):
    """A number. One that cannot be parsed rejects the line, or is null where `lenient`.

    `decimal: ","` reads 1.234,5 as 1234.5.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"decimal"})

    lenient: bool = False
    decimal: Literal[".", ","] = "."


class TimeMapping(FieldMapping):
    """A time: a text of a `format` (Spark's datetime pattern; ISO 8601 without one), or a number of a `unit`.

    `timezone` is that of times that name none themselves; UTC by default. Numbers count from 1970, or from `origin`
    (2024-03-01): of relative times, or with unit days of an order's number. `clock` is a second column, with the time
    of day; with `clock_unit` it holds a number that is added. `year` is that of times whose `format` names none.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"origin", "clock", "clock_unit", "year"})

    format: Name | None = None
    unit: Unit | None = None
    timezone: Zone | None = None
    origin: datetime | None = None
    clock: Name | None = None
    clock_unit: Unit | None = None
    year: Annotated[int, Field(ge=1971, le=2099)] | None = None

    def columns(self) -> Iterator[str]:
        yield from super().columns()
        if self.clock is not None:
            yield self.clock

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        if self.format and self.unit:
            raise ValueError("give either `format` (a text) or `unit` (a number since 1970)")
        if self.unit and self.timezone:
            raise ValueError("`timezone` says nothing of a number since 1970: leave it or `unit` out")
        if self.format and (problem := problem_of(self.format)):
            raise ValueError(
                f"`format` {self.format!r} is not a datetime pattern that Spark reads, as yyyy-MM-dd HH:mm:ss:"
                f" {problem}"
            )
        if self.timezone and any(run[0] in ZONE_LETTERS for run in letters(self.format or "")):
            raise ValueError(f"`format` {self.format!r} holds the zone already: leave `timezone` out")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.origin and not self.unit:
            raise ValueError("`origin` is what a number of a `unit` counts from, and there is no unit")
        if self.origin and self.origin.tzinfo is not None:
            raise ValueError("`origin` is in UTC: write it without a zone")
        if self.clock and (self.unit or self.column is None):
            raise ValueError("`clock` is the time of day beside a `column` with the date, not beside a number")
        if self.year and (not self.format or {"y", "u"} & {run[0] for run in letters(self.format)}):
            raise ValueError("`year` is that of times whose `format` names none, as MM-dd")
        if self.clock_unit and not self.clock:
            raise ValueError("`clock_unit` is the unit of `clock`, and there is no clock")
        return self


class EventTypeMapping(FieldMapping):
    """The event type. `flags`: one line is several events, one for each column that holds 1.

    `always` names an event that every line gives beside those of its flags. `ignore` names values of the column, as
    they are before `map`, whose lines are not wanted: they are counted, and are no rejects.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"ignore"})

    flags: dict[Name, Name] = {}
    always: Name | None = None
    ignore: list[Name] = []

    @model_validator(mode="after")
    def _always_beside_flags(self) -> Self:
        if self.always and not self.flags:
            raise ValueError("`always` stands beside `flags`; without them write `constant`")
        return self

    def given(self) -> set[str]:
        """Event types that the mapping itself names."""
        names = {*self.flags.values(), *self.map.values(), *self.by_prefix.values()}
        return {name for name in (*names, self.constant, self.default, self.always) if name}


class EventIdMapping(Settings):
    """The columns that name an event: the log's own id, or several that do so together."""

    columns: Annotated[list[Name], Field(min_length=1)]


class FieldMappings(Settings):
    """Where the fields of a contract come from; what is null is not in the source."""

    if TYPE_CHECKING:  # each has it, at a place of its own among its fields
        attributes: dict[Name, TextMapping]

    @model_validator(mode="after")
    def _columns_can_be_told_apart(self) -> Self:
        seen: dict[str, str] = {}
        for name in self.source_columns():
            if name.lower() in RESERVED:
                raise ValueError(f"a source column cannot be called `{name}`: ingest has one of that name")
            if seen.setdefault(name.lower(), name) != name:
                raise ValueError(f"columns `{seen[name.lower()]}` and `{name}` differ only in case")
        return self

    def named(self) -> dict[str, FieldMapping]:
        """Every mapped field by its contract name, attributes left out."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: field for name, field in fields.items() if isinstance(field, FieldMapping)}

    def source_columns(self) -> list[str]:
        """Source columns that the mapping names, in its order, each once."""
        fields = [*self.named().values(), *self.attributes.values()]
        return list(dict.fromkeys(column for field in fields for column in field.columns()))

    def required_columns(self) -> list[str]:
        """Source columns without which no line is usable."""
        return self._columns_of("user_id", "item_id", "event_ts")

    def id_columns(self) -> list[str]:
        """Source columns that name users, items and events."""
        return self._columns_of("user_id", "item_id")

    def _columns_of(self, *names: str) -> list[str]:
        fields = [field for name, field in self.named().items() if name in names]
        return list(dict.fromkeys(column for field in fields for column in field.columns()))


class IngestMapping(FieldMappings):
    """Source columns of an event line, and of what it says of its item."""

    user_id: FieldMapping
    item_id: FieldMapping
    event_ts: TimeMapping
    event_type: EventTypeMapping
    value: NumberMapping | None = None
    title: TextMapping | None = None
    category: TextMapping | None = None
    brand: TextMapping | None = None
    price: NumberMapping | None = None
    keywords: TextMapping | None = None
    attributes: dict[Name, TextMapping] = {}
    event_id: EventIdMapping | None = None

    def source_columns(self) -> list[str]:
        own = self.event_id.columns if self.event_id else []
        return list(dict.fromkeys([*super().source_columns(), *own]))

    def id_columns(self) -> list[str]:
        own = self.event_id.columns if self.event_id else []
        return list(dict.fromkeys([*super().id_columns(), *own]))


class ItemMapping(FieldMappings):
    """Source columns of an item's description."""

    item_id: FieldMapping
    title: TextMapping
    category: TextMapping | None = None
    brand: TextMapping | None = None
    price: NumberMapping | None = None
    keywords: TextMapping | None = None
    attributes: dict[Name, TextMapping] = {}
    valid_from: TimeMapping | None = None
