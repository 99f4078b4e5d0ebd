"""Where files lie and how their lines are written: places, formats, dialects."""

import codecs
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from learn_spark.config.mapping import Name
from learn_spark.storage import Place
from models.contract.strict import Settings

Format = Literal["csv", "json", "parquet", "delta"]
DAY = re.compile(r"\{day(?::([^{}]*))?\}")
DAY_PARTS = {"%Y": "yyyy", "%m": "MM", "%d": "dd"}
PART_OF_PATH = re.compile(r"\{([A-Za-z_]\w*)\}")
POSITION = "#"
HIVE_KEY = re.compile(r"(?:^|(?<=/))([^/=*?{}]+)=[^/]*/")


def _known_encoding(name: str) -> str:
    try:
        codec = codecs.lookup(name)
        "".encode(name)  # not every codec is one of texts
    except (LookupError, ValueError):
        raise ValueError(f"{name!r} is no encoding: as utf-8, utf-16, cp1252, cp1251, iso-8859-1, gb18030") from None
    return "utf-8" if codec.name == "utf-8" else name


Encoding = Annotated[Name, AfterValidator(_known_encoding)]
Character = Annotated[str, Field(min_length=1, max_length=1)]


def _as_lists(value: object) -> object:
    """`explode: events` and `explode: [items, times]` are short for `explode: {columns: …}`."""
    if isinstance(value, str):
        return {"columns": [value]}
    return {"columns": value} if isinstance(value, list) else value


class ExplodeSettings(Settings):
    """Columns that hold lists: each element gives a row."""

    columns: Annotated[list[Name], Field(min_length=1)]
    separator: Name | None = None
    pattern: Name | None = None

    @model_validator(mode="after")
    def _pattern_names_groups(self) -> Self:
        try:
            groups = re.compile(self.pattern or "(?P<all>)").groupindex
        except re.error as error:
            raise ValueError(f"`pattern` {self.pattern!r} is no regular expression: {error}") from None
        if not groups:
            raise ValueError(f"`pattern` {self.pattern!r} names no group: (?P<item>…) is read as the column's .item")
        return self


Explode = Annotated[ExplodeSettings, BeforeValidator(_as_lists)]


class PlaceSettings(Settings):
    """Files of one format below a folder, or a table."""

    path: Place
    """The folder of the raw logs; with format delta, the table's."""
    files: Name | None
    """Below path: * and ? match; {day} is 2011-12-01, {day:%Y%m%d} 20111201: the day's delivery. Without {day} all
    files are one log, whose days are those of its events. Any other {name} is a column: what stands there in a file's
    path. With format delta: null."""
    format: Format
    """csv: any delimiter. json: an object per line. parquet. delta. csv and json also packed: gzip, bzip2, zstd, a zip
    of one file, told by their first bytes."""

    @property
    def by_day(self) -> bool:
        """Whether each file is one day's delivery."""
        return self.files is not None and DAY.search(self.files) is not None

    def path_parts(self) -> list[str]:
        """Columns that `files` names in braces, in its order."""
        return list(dict.fromkeys(PART_OF_PATH.findall(DAY.sub("", self.files or ""))))

    @model_validator(mode="after")
    def _pattern_is_understood(self) -> Self:
        pattern = self.files or ""
        if pattern.startswith("/"):
            raise ValueError(f"`files` {pattern!r} must be relative to `path`")
        if set(PART_OF_PATH.sub("", DAY.sub("", pattern))) & set("{}[]"):
            raise ValueError(f"`files` {pattern!r}: only {{day}}, {{name}}, * and ? match")
        for form in filter(None, DAY.findall(pattern)):
            if sorted(re.findall(r"%.", form)) != sorted(DAY_PARTS) or re.search(
                r"[^-_./]", re.sub("%[Ymd]", "", form)
            ):
                raise ValueError(f"`files` {pattern!r}: write a day as {{day}} or as {{day:%Y%m%d}}")
        return self


class DialectSettings(Settings):
    """How csv and JSON lines are written."""

    delimiter: Annotated[str, Field(min_length=1, max_length=4)] = ","
    """Of csv; also "\\t", "|", "::"."""
    columns: Annotated[list[Name], Field(min_length=1)] | None = None
    """Names in order, for csv without a header line."""
    encoding: Encoding = "utf-8"
    """By name, as cp1251, gb18030, utf-16. A line with bytes that are not in it is rejected, never guessed."""
    quote: Character | None = '"'
    """Of csv: what stands around values that hold a delimiter; null where quotes mean nothing, as in most TSV."""
    escape: Character = '"'
    """Of csv: what stands before a quote within quotes. '"': it is doubled. "\\\\": what Spark, Hive and MySQL write;
    it then also stands before itself and delimiters, and makes \\n, \\r and \\t line breaks and tabs."""
    skip_lines: Annotated[int, Field(ge=0)] = 0
    """Of csv: lines at a file's beginning that are no data, as Excel's `sep=;`."""
    comment: Character | None = None
    """Of csv: lines that begin with it are left out."""
    multiline: bool = False
    """Of csv: values in quotes may hold line breaks. Each file is then read by one task. Without it, such lines are
    rejected as malformed."""
    nulls: list[Name] = []
    """Values that mean nothing, as NA, NULL, "\\\\N". In every mapped column; an empty value always means nothing."""


class FilesSettings(DialectSettings, PlaceSettings):
    """Files of one format below a folder, or a table, of which some columns are read."""

    LATER: ClassVar[frozenset[str]] = frozenset(
        {"quote", "escape", "skip_lines", "comment", "multiline", "nulls", "explode"}
    )
    section: ClassVar[str] = "ingest"
    """What holds these settings in the config."""

    explode: Explode | None = None
    """A column whose list gives a row per element, as `events`: a JSON array, or a list of Parquet. `events.aid` is
    then a column, and `events.#` the element's place, from 0. Several columns, [items, times], are lists of one length
    side by side. {columns: [shown], separator: " ", pattern: "(?P<item>.+)-(?P<label>.)"}: elements of a text;
    shown.item and shown.label are columns."""

    @property
    def is_typed(self) -> bool:
        """Whether columns have types; else all is text."""
        return self.format in ("parquet", "delta")

    @property
    def names_columns(self) -> str:
        """What names the columns in the config."""
        return f"{self.section}.mapping"

    def source_columns(self) -> list[str]:
        """The columns that are read, in order, each once."""
        raise NotImplementedError

    def required_columns(self) -> list[str]:
        """Those that every file must have."""
        raise NotImplementedError

    def id_columns(self) -> list[str]:
        """Those that hold ids: a whole number has one text, whatever its type."""
        raise NotImplementedError

    def exploded(self) -> list[str]:
        """Columns whose lists are exploded."""
        return self.explode.columns if self.explode else []

    def holder(self, name: str) -> str:
        """The exploded column that `name` is an element of, or lies in; else `name`."""
        return next((each for each in self.exploded() if name == each or name.startswith(f"{each}.")), name)

    def lacking(self, columns: Iterable[str], of_path: Iterable[str] = ()) -> list[str]:
        """Source columns that neither are among these, nor lie in one of them, nor come from a file's path."""
        known, given = set(columns), {*of_path, *self.path_parts()}
        asked = dict.fromkeys([*self.source_columns(), *self.exploded()])
        return [name for name in asked if name not in given and not beginning(self.holder(name), known)]

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
        if self.is_typed and self.encoding != "utf-8":
            raise ValueError(f"`encoding` must be utf-8 with format {self.format}")
        of_csv = sorted(name for name in _OF_CSV if getattr(self, name) != type(self).model_fields[name].default)
        if self.format != "csv" and of_csv:
            raise ValueError(f"`{of_csv[0]}` is a matter of csv, and format is {self.format}")
        return self

    @model_validator(mode="after")
    def _dialect_is_one(self) -> Self:
        if self.escape not in ("\\", self.quote or '"'):
            raise ValueError(f'`escape` {self.escape!r} must be "\\\\", or {self.quote!r} for quotes that are doubled')
        special = [each for each in (self.quote, self.comment) if each is not None]
        if len({*special, self.delimiter}) <= len(special) or self.delimiter.startswith("\\"):
            raise ValueError("`delimiter`, `quote` and `comment` must differ, and the delimiter be no backslash")
        if self.multiline and self.quote is None and self.escape != "\\":
            raise ValueError("`multiline` is about values in quotes, and `quote` is null")
        return self


_OF_CSV = ("quote", "escape", "skip_lines", "comment", "multiline")


def beginning(name: str, columns: Iterable[str]) -> str | None:
    """The column that a name is, or lies in: of `user.id` that of this name, else `user`, else None."""
    known = set(columns)
    parts = name.split(".")
    return next((each for each in (".".join(parts[:n]) for n in range(len(parts), 0, -1)) if each in known), None)


def hive_keys(path: str) -> Mapping[str, str]:
    """The `key=value` folders of a file's path, or of a pattern."""
    return {found[1]: found[0] for found in HIVE_KEY.finditer(path)}
