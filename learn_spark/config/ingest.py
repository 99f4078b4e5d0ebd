"""The ingest section of the config: where logs lie and how they are read."""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from learn_spark.config.formats import FilesSettings, Format, hive_keys
from learn_spark.config.mapping import (
    EventTypeMapping,
    FieldMapping,
    IngestMapping,
    ItemMapping,
    Name,
    TextMapping,
    TimeMapping,
    Zone,
)
from learn_spark.config.sections import Share
from learn_spark.config.sources import SourceSettings, with_common
from learn_spark.storage import Place
from models.contract.strict import Settings

UTC = "UTC"


class PivotSettings(Settings):
    """A catalogue of one property per line: which columns hold a property's name, its value and its time."""

    name: Name
    value: Name
    time: TimeMapping | None = None


class ItemsSettings(SourceSettings):
    """An item catalogue of its own."""

    section: ClassVar[str] = "ingest.items"
    LATER: ClassVar[frozenset[str]] = SourceSettings.LATER | {"pivot"}

    pivot: PivotSettings | None = None
    """{name: property, value: value, time: {column: t, unit: milliseconds}}: the mapping's other columns than item_id
    are properties, each with its last value."""
    mapping: ItemMapping

    def source_columns(self) -> list[str]:
        if self.pivot is None:
            return super().source_columns()
        of_time = self.pivot.time.columns() if self.pivot.time else ()
        own = [*self.mapping.item_id.columns(), self.pivot.name, self.pivot.value, *of_time]
        return list(dict.fromkeys([*own, *self.where]))

    def required_columns(self) -> list[str]:
        return super().required_columns() if self.pivot is None else self.source_columns()

    @model_validator(mode="after")
    def _pivot_has_the_time(self) -> Self:
        if self.pivot and self.mapping.valid_from:
            raise ValueError("mapping.valid_from would be a property: the time of a property is pivot.time")
        if self.pivot and self.lookups:
            raise ValueError("`lookups` say more of an item, and with `pivot` a line is a property: leave it out")
        if self.pivot and self.where:
            raise ValueError("`where` filters lines of items, and with `pivot` a line is a property: leave it out")
        return self


class LogSource(SourceSettings):
    """One of several kinds of files of a log."""

    path: Place = Path("data")
    files: Name | None = None
    format: Format = "csv"
    mapping: IngestMapping


class IngestGates(Settings):
    """Deliveries that are refused with exit code 3, before anything is published."""

    max_reject_share: Share = 0.05
    """Of a day's lines; above it the job stops. Where files name no day, lines without a usable time are held against
    all lines. Of an item catalogue's lines likewise. Lines that are not wanted do not count."""
    max_bad_files: Annotated[int, Field(ge=0)] = 0
    """Files that are corrupt, empty, or have a line that is too long; above it likewise."""
    max_line_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 1 << 20
    """Of a line of csv or JSON, unpacked, and of a text in Parquet. A file with a longer one (a gzip bomb, a lost line
    end) is not read any further, and Spark never sees it."""
    empty_day: Literal["warn", "stop"] = "warn"
    """A day without a line is done with a warning (shops close); stop: the job stops."""
    min_day_share: Share = 0.05
    """Usable events of a delivery, of the median of the 28 days before it; below it the job stops: half an upload. 0:
    off. Nothing where files do not name the day."""
    min_catalogue_share: Share = 0.5
    """With `items`: of a run's events, those whose item has a description; below it the job stops. 0: off."""


class IngestSettings(SourceSettings):
    """Your logs: where they lie, what their columns mean, which deliveries are refused."""

    LATER: ClassVar[frozenset[str]] = SourceSettings.LATER | {"sources", "repeats"}

    path: Place = Path("data")
    files: Name | None = "{day}.csv.gz"
    format: Format = "csv"
    start: date = date(2010, 12, 1)
    """The first day that there is; older events are not wanted."""
    event_types: Annotated[list[Name], Field(min_length=1)] = ["purchase"]
    """What event_type may be; anything else is rejected, but for what mapping.event_type.ignore names."""
    mapping: IngestMapping = IngestMapping(
        user_id=FieldMapping(column="user_id"),
        item_id=FieldMapping(column="item_id"),
        event_ts=TimeMapping(column="event_ts", format="yyyy-MM-dd HH:mm:ss"),
        event_type=EventTypeMapping(constant="purchase"),
        title=TextMapping(column="title"),
    )
    """Field: where it comes from. user_id, item_id, event_ts, event_type; title, if there are no `items`; value,
    category, brand, price, keywords, attributes: {name: …}; event_id. A mapping of your own replaces this one whole."""
    sources: list[LogSource] = []
    """Several kinds of files, as clicks and buys: each with the keys from `path` to `mapping` that differ from those
    above. All name a {day}, or none does; not with format delta."""
    items: ItemsSettings | None = None
    """An item catalogue of its own: path, files and format as above, any of the keys of dialects and shapes (with their
    defaults), and a mapping of item_id, title, category, brand, price, keywords, attributes, valid_from (a time; else
    the {day} of the file; without that, ingest.start). pivot: {name: property, value: value, time: {column: t}}
    where a line is one property of an item: the mapping then names properties, and the last value of each holds."""
    timezone: Zone = "UTC"
    """Whose midnight ends a delivery's day, as Asia/Shanghai; events keep their UTC day."""
    late_days: Annotated[int, Field(ge=0)] = 3
    """An event so many days older than its delivery still goes into its own day; older ones are rejected as `too late`.
    With format delta: so many days before those that are loaded are loaded again where rows were added. Else nothing
    without {day}."""
    repeats: Literal["drop", "keep"] = "drop"
    """Equal lines of one delivery. drop: they are copies of one event. keep: each is an event, as where a line is one
    piece that was bought. In two deliveries they are copies all the same."""
    gates: IngestGates = IngestGates()

    @property
    def reach(self) -> tuple[int, int]:
        """How many UTC days before, and after, its delivery's day an event may lie."""
        if not self.by_day:
            return 0, 0
        beside = 0 if self.timezone == UTC else 1  # a day of another zone lies on two UTC days
        return self.late_days + beside, beside

    def all_files(self) -> list[FilesSettings]:
        """Everything that names files: the section itself, its sources, the catalogue, and their lookups."""
        holders: list[SourceSettings] = [self, *self.sources, *([self.items] if self.items else [])]
        return [*holders, *(lookup for each in holders for lookup in each.lookups.values())]

    @model_validator(mode="before")
    @classmethod
    def _sources_inherit(cls, values: Any) -> Any:  # noqa: ANN401 - whatever the file holds
        """What a source leaves out is the section's."""
        sources = values.get("sources") if isinstance(values, dict) else None
        if not isinstance(sources, list):
            return values
        return {**values, "sources": [with_common(values, each) for each in sources]}

    @model_validator(mode="after")
    def _sources_go_together(self) -> Self:
        if any(each.format == "delta" for each in self.sources):
            raise ValueError("`sources` are files: a Delta table stands alone")
        if len({each.by_day for each in self.sources}) > 1:
            raise ValueError("`sources`: either the `files` of all name a {day}, or none of them does")
        for name in LogSource.model_fields if self.sources else ():
            object.__setattr__(self, name, getattr(self.sources[0], name))  # stands for all where the section is asked
        return self

    @model_validator(mode="after")
    def _deliveries_have_a_zone(self) -> Self:
        if self.timezone != UTC and not self.by_day:
            raise ValueError("`timezone` says when a delivery's day ends, and `files` names no {day}")
        return self

    @model_validator(mode="after")
    def _mappings_fit(self) -> Self:
        for number, source in enumerate(self.each()):
            if problem := _misfit(source):
                raise ValueError(f"sources.{number}: {problem}" if self.sources else problem)
        if self.items and (lacking := _not_in_columns(self.items)):
            raise ValueError(f"items.mapping names {lacking}, which items.columns does not have: {self.items.columns}")
        return self

    def each(self) -> list[Self]:
        """The settings of every source, as if it were the only one."""
        if not self.sources:
            return [self]
        values = ({name: getattr(each, name) for name in LogSource.model_fields} for each in self.sources)
        return [self.model_copy(update=each | {"sources": []}) for each in values]


def _misfit(source: IngestSettings) -> str:
    """What is wrong between a source's mapping and the rest of the section."""
    unknown = sorted(source.mapping.event_type.given() - set(source.event_types))
    if unknown:
        return f"mapping.event_type gives {unknown}, which event_types {source.event_types} does not have"
    wanted = {*source.event_types, *source.mapping.event_type.map} & {*source.mapping.event_type.ignore}
    if wanted:
        return f"mapping.event_type.ignore names {sorted(wanted)}, which map or event_types want"
    if source.repeats == "keep" and source.mapping.event_id:
        return "repeats is keep, but lines with an equal mapping.event_id are one event: leave either out"
    if source.mapping.title is None and source.items is None:
        return "mapping.title is missing: items need a name, from the log or from `items`"
    if idle := [name for name, each in source.lookups_read().items() if not each.wanted]:
        return f"lookups.{idle[0]} is not used: no mapping, and no `where`, names a column {idle[0]}.…"
    lacking = _not_in_columns(source)
    return f"mapping names {lacking}, which columns does not have: {source.columns}" if lacking else ""


def _not_in_columns(source: SourceSettings) -> list[str]:
    return source.lacking(source.columns, hive_keys(f"{source.files}/")) if source.columns else []
