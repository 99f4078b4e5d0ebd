"""The ingest section of the config: where logs lie and how they are read."""

import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from learn_spark.config.mapping import (
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

    mapping: ItemMapping


class IngestGates(Settings):
    """Deliveries that are refused with exit code 3, before anything is published."""

    max_reject_share: Share = 0.05
    """Of a day's lines; above it the job stops."""
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


class IngestSettings(SourceSettings):
    """Your logs: where they lie, what their columns mean, which deliveries are refused."""

    path: Path = Path("data")
    files: Name | None = "{day}.csv.gz"
    format: Format = "csv"
    start: date = date(2010, 12, 1)
    """The first day that there is; older events are rejected."""
    event_types: Annotated[list[Name], Field(min_length=1)] = ["purchase"]
    """What event_type may be; anything else is rejected."""
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
        if self.mapping.title is None and self.items is None:
            raise ValueError("mapping.title is missing: items need a name, from the log or from `items`")
        return self

    @model_validator(mode="after")
    def _columns_are_there(self) -> Self:
        for name, source in (("", self), ("items.", self.items)):
            if source is None or not source.columns:
                continue
            lacking = [column for column in source.mapping.source_columns() if column not in source.columns]
            if lacking:
                raise ValueError(f"{name}mapping names {lacking}, which {name}columns does not have: {source.columns}")
        return self
