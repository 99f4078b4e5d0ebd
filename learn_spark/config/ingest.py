"""The ingest section of the config: where logs lie and how they are read."""

import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from learn_spark.config.mapping import (
    RESERVED,
    EventTypeMapping,
    FieldMapping,
    FieldMappings,
    IngestMapping,
    ItemMapping,
    Name,
    TextMapping,
    TimeMapping,
    Zone,
)
from learn_spark.config.sections import Share
from models.contract.strict import Settings

Encoding = Literal["utf-8", "iso-8859-1", "us-ascii"]
Format = Literal["csv", "json", "parquet", "delta"]
DAY = re.compile(r"\{day(?::([^{}]*))?\}")
UTC = "UTC"
DAY_PARTS = {"%Y": "yyyy", "%m": "MM", "%d": "dd"}


class SourceSettings(Settings):
    """Files of one format below a folder, or a table."""

    section: ClassVar[str] = "ingest"
    if TYPE_CHECKING:  # each has it, at a place of its own among its fields
        mapping: FieldMappings

    path: Path
    """The folder of the raw logs; with format delta, the table's."""
    files: Name | None
    """Below path: * and ? match; {day} is 2011-12-01, {day:%Y%m%d} 20111201: the day's delivery. Without {day} all
    files are one log, whose days are those of its events. With format delta: null."""
    format: Format
    """csv: any delimiter. json: an object per line. parquet. delta. csv and json also .gz, .bz2."""
    delimiter: Annotated[str, Field(min_length=1, max_length=4)] = ","
    """Of csv; also "\\t", "|", "::"."""
    columns: Annotated[list[Name], Field(min_length=1)] | None = None
    """Names in order, for csv without a header line."""
    encoding: Encoding = "utf-8"
    """A line with bytes that are not is rejected, never guessed; or iso-8859-1, us-ascii."""
    where: dict[Name, Annotated[list[str], Field(min_length=1)]] = {}
    """Column: its wanted values, as {status: [paid, sent]}; "" is an empty one. Other lines are not wanted: they are
    counted, and are no rejects. Several columns: all must hold."""

    def source_columns(self) -> list[str]:
        """Source columns that mapping and `where` name, each once."""
        return list(dict.fromkeys([*self.mapping.source_columns(), *self.where]))

    def required_columns(self) -> list[str]:
        """Those that every file must have. JSON lines may leave keys out: there ids and time alone."""
        mapping = self.mapping
        if self.format == "json":
            return mapping.required_columns()
        names = ["event_type"] if getattr(self, "items", None) else ["event_type", "title"]
        fields = [mapping.named().get(name) for name in names]
        needed = [field.column for field in fields if field and field.column and not field.default]
        return list(dict.fromkeys([*mapping.required_columns(), *mapping.id_columns(), *needed, *self.where]))

    @property
    def is_typed(self) -> bool:
        """Whether columns have types; else all is text."""
        return self.format in ("parquet", "delta")

    @property
    def by_day(self) -> bool:
        """Whether each file is one day's delivery."""
        return self.files is not None and DAY.search(self.files) is not None

    @model_validator(mode="after")
    def _format_and_files_fit(self) -> Self:
        if self.format == "delta" and self.files is not None:
            raise ValueError("`files` must be null with format delta: `path` is the table")
        if self.format != "delta" and self.files is None:
            raise ValueError("`files` is missing: a pattern as {day}.csv.gz or *.json.gz")
        if self.columns is not None and self.format != "csv":
            raise ValueError(f"`columns` names those of a csv without a header line; {self.format} has names")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError("`columns` names a column twice")
        if self.format != "csv" and self.encoding != "utf-8":
            raise ValueError(f"`encoding` must be utf-8 with format {self.format}")
        return self

    @model_validator(mode="after")
    def _filter_can_be_read(self) -> Self:
        mapped = {name.lower(): name for name in self.mapping.source_columns()} if self.where else {}
        for name in self.where:
            if name.lower() in RESERVED:
                raise ValueError(f"a column of `where` cannot be called `{name}`: ingest has one of that name")
            if mapped.setdefault(name.lower(), name) != name:
                raise ValueError(f"columns `{mapped[name.lower()]}` and `{name}` of `where` differ only in case")
        return self

    @model_validator(mode="after")
    def _pattern_is_understood(self) -> Self:
        pattern = self.files or ""
        if pattern.startswith("/"):
            raise ValueError(f"`files` {pattern!r} must be relative to `path`")
        if set(DAY.sub("", pattern)) & set("{}[]"):
            raise ValueError(f"`files` {pattern!r}: only {{day}}, * and ? match")
        for form in filter(None, DAY.findall(pattern)):
            if sorted(re.findall(r"%.", form)) != sorted(DAY_PARTS) or re.search(
                r"[^-_./]", re.sub("%[Ymd]", "", form)
            ):
                raise ValueError(f"`files` {pattern!r}: write a day as {{day}} or as {{day:%Y%m%d}}")
        return self


class ItemsSettings(SourceSettings):
    """An item catalogue of its own."""

    section: ClassVar[str] = "ingest.items"
    mapping: ItemMapping


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

    path: Path = Path("data")
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
    items: ItemsSettings | None = None
    """An item catalogue of its own: path, files, format, delimiter, columns, encoding as above (the last three have the
    defaults above) and a mapping of item_id, title, category, brand, price, keywords, attributes, valid_from (a time;
    without it, the {day} of the file; without that, ingest.start)."""
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

    @model_validator(mode="after")
    def _deliveries_have_a_zone(self) -> Self:
        if self.timezone != UTC and not self.by_day:
            raise ValueError("`timezone` says when a delivery's day ends, and `files` names no {day}")
        return self

    @model_validator(mode="after")
    def _mapping_fits(self) -> Self:
        unknown = sorted(self.mapping.event_type.given() - set(self.event_types))
        if unknown:
            raise ValueError(f"mapping.event_type gives {unknown}, which event_types {self.event_types} does not have")
        wanted = {*self.event_types, *self.mapping.event_type.map} & {*self.mapping.event_type.ignore}
        if wanted:
            raise ValueError(f"mapping.event_type.ignore names {sorted(wanted)}, which map or event_types want")
        if self.repeats == "keep" and self.mapping.event_id:
            raise ValueError("repeats is keep, but lines with an equal mapping.event_id are one event: drop either")
        if self.mapping.title is None and self.items is None:
            raise ValueError("mapping.title is missing: items need a name, from the log or from `items`")
        return self

    @model_validator(mode="after")
    def _columns_are_there(self) -> Self:
        for name, source in (("", self), ("items.", self.items)):
            if source is None or not source.columns:
                continue
            lacking = [column for column in source.source_columns() if column not in source.columns]
            if lacking:
                raise ValueError(f"{name}mapping names {lacking}, which {name}columns does not have: {source.columns}")
        return self
