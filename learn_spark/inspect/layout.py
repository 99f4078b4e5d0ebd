"""How files of one kind are read, and a reader of their rows with every value as text. No Spark."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pyarrow.parquet as pq

from learn_spark.config.ingest import IngestGates
from learn_spark.errors import ConfigError
from learn_spark.ingest.unpacking import open_file

LONGEST_LINE = IngestGates().max_line_bytes
_DEEPEST = 4  # of nested JSON objects: a dump of web pages would give thousands of columns

LABELLED = r"(?P<item>\S+)-(?P<label>[01])"
Row = dict[str, str]


@dataclass(frozen=True)
class Layout:
    """What a reader must know about files of one kind.

    Attributes:
        format: csv, json or parquet.
        delimiter, encoding, quote, escape, multiline, skip_lines, comment: of csv; quote is "" if nothing is quoted.
        has_header: of csv; other formats always have names.
        columns: names in order; of JSON lines, those of the first rows; paths into objects have dots.
        explode: columns whose lists give a row per element.
        separator, pattern: for lists that are texts: what separates the elements, and a pattern of one element.
        times: of a csv without a header line, the places of columns whose values are times.
        unsure: which parts of the layout are only guessed.
    """

    format: str
    delimiter: str = ","
    encoding: str = "utf-8"
    quote: str = '"'
    escape: str = '"'
    multiline: bool = False
    skip_lines: int = 0
    comment: str = ""
    has_header: bool = True
    columns: list[str] = field(default_factory=list)
    explode: tuple[str, ...] = ()
    separator: str = ""
    pattern: str = ""
    times: tuple[int, ...] = ()
    unsure: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for files that one reader can read as one table; JSON lines may lack keys."""
        if self.format == "json":
            return ("json",)
        names = tuple(sorted(self.columns)) if self.has_header else (len(self.columns), *self.times)
        return (self.format, self.delimiter, self.has_header, names)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Wraps the reading of a file that may hold anything.

    Raises:
        ConfigError: any error of the block, in one line that names the file.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # zlib.error, ArrowInvalid, csv.Error and their like share no base class
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise ConfigError(f"{path} cannot be read: {reason or type(error).__name__}") from error


def fields(lines: Iterable[str], layout: Layout) -> Iterator[list[str]]:
    """The values of each csv line, or of several lines if quotes hold line breaks."""
    if len(layout.delimiter) > 1:
        yield from ([value.strip('"') for value in line.split(layout.delimiter)] for line in lines)
        return
    options = {
        "delimiter": layout.delimiter,
        "quotechar": layout.quote or None,
        "quoting": csv.QUOTE_MINIMAL if layout.quote else csv.QUOTE_NONE,
        "doublequote": layout.escape == layout.quote,
        "escapechar": layout.escape if layout.escape not in ("", layout.quote) else None,
    }
    if layout.multiline:
        yield from csv.reader((line + "\n" for line in lines), **options)
        return
    for line in lines:
        try:
            yield next(csv.reader([line], **options), [])
        except csv.Error:  # a field of more than 128 KiB
            continue


def read_rows(layout: Layout, path: Path, every: int = 1) -> Iterator[Row]:
    """A file's rows by column, every value as text; what cannot be read is left out.

    Args:
        layout: how it is read.
        path: the file.
        every: one row of this many is read.

    Raises:
        ConfigError: the file cannot be read as far as rows are asked for.
    """
    with readable(path):
        if layout.format == "parquet":
            rows = islice(_parquet_rows(path), 0, None, every)
        else:
            rows = _text_rows(layout, path, every)
        for row in rows:
            yield from _texts(row, layout)


def _parquet_rows(path: Path) -> Iterator[dict[str, object]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(10_000):
            yield from batch.to_pylist()


def _text_rows(layout: Layout, path: Path, every: int) -> Iterator[dict[str, object]]:
    with open_file(path) as stream:
        if layout.encoding.lower().startswith("utf-16"):
            lines = _wide_lines(stream)
        else:
            lines = (line.decode(layout.encoding, "replace").rstrip("\r\n") for line in lines_of(stream))
        if layout.format == "json":
            yield from _objects(islice(lines, 0, None, every))
            return
        rest = islice(lines, layout.skip_lines, None)
        plain = (line.lstrip("\ufeff") for line in rest if not layout.comment or not line.startswith(layout.comment))
        names = next(fields(plain, layout), []) if layout.has_header else layout.columns
        thinned = plain if layout.multiline else islice(plain, 0, None, every)
        for values in fields(thinned, layout):
            if len(values) == len(names):
                yield dict(zip(names, values, strict=True))


def lines_of(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; raises ValueError at a line that is too long for a log."""
    while line := stream.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"it has a line of more than {LONGEST_LINE:,} bytes (ingest.gates.max_line_bytes)")
        yield line


def _wide_lines(stream: BinaryIO) -> Iterator[str]:
    """The lines of a utf-16 text; its first bytes say in which order a character's bytes are."""
    text = io.TextIOWrapper(stream, "utf-16", "replace", newline="\n")
    while line := text.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"it has a line of more than {LONGEST_LINE:,} characters (ingest.gates.max_line_bytes)")
        yield line.rstrip("\r\n")


def _objects(lines: Iterable[str]) -> Iterator[dict[str, object]]:
    """The lines that are JSON objects."""
    for line in lines:
        try:
            value = json.loads(line.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def json_rows(lines: Iterable[str]) -> Iterator[Row]:
    """The lines that are JSON objects, as rows."""
    for value in _objects(lines):
        yield from _texts(value)


def _texts(row: dict[str, object], layout: Layout | None = None) -> Iterator[Row]:
    """A row's values as texts, those inside objects by their path; one row per element of the exploded lists."""
    plain = {_printable(name): _printable(text) for name, text in _flat(row)}
    if layout is None or not layout.explode:
        yield plain
        return
    lists = [_elements(row.get(name), layout) for name in layout.explode]
    for place, elements in enumerate(zip(*lists, strict=False)):
        own: dict[str, object] = dict(zip(layout.explode, elements, strict=True))
        own |= {f"{name}.#": place for name in layout.explode}
        yield plain | {_printable(name): _printable(text) for name, text in _flat(own)}


def _elements(value: object, layout: Layout) -> list[object]:
    """The elements of a list, of a list that is written as JSON, or of a text with separators."""
    if isinstance(value, str) and layout.separator:
        parts = [part for part in value.split(layout.separator) if part.strip()]
        found = [re.fullmatch(layout.pattern, part) for part in parts] if layout.pattern else []
        return [each.groupdict() for each in found if each] if layout.pattern else list(parts)
    if isinstance(value, str) and value.startswith("["):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    return value if isinstance(value, list) else []


def _flat(value: Mapping[str, object], before: str = "", depth: int = 1) -> Iterator[tuple[str, str]]:
    """Every key with its value as text; keys inside objects as paths, such as `user.id`."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner and depth < _DEEPEST and "." not in key:
            yield from _flat(inner, f"{before}{key}.", depth + 1)
        else:
            yield f"{before}{key}", _text(inner)


def lists_of_events(path: Path, layout: Layout) -> list[Layout]:
    """For each column that holds lists of possible events, the layout with a row per element of the column.

    These are lists of objects in JSON lines and Parquet, and texts of shown items with their labels, as
    `N55689-1 N35729-0`.
    """
    rows = list(islice(_parquet_rows(path) if layout.format == "parquet" else _text_rows(layout, path, 1), 100))
    names = dict.fromkeys(name for row in rows for name in row)
    held = {name: [row[name] for row in rows if row.get(name)] for name in names}
    plain = [name for name, values in held.items() if values and all(_is_list_of_objects(value) for value in values)]
    shown = [name for name, values in held.items() if values and all(_is_labelled(value) for value in values)]
    return [
        *(replace(layout, explode=(name,)) for name in plain),
        *(replace(layout, explode=(name,), separator=" ", pattern=LABELLED) for name in shown),
    ]


def _is_labelled(value: object) -> bool:
    return isinstance(value, str) and all(re.fullmatch(LABELLED, part) for part in value.split())


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a whole number has one text, whatever its type
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False).strip('"')


def _printable(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON can hold and nothing can print."""
    return text.encode("utf-8", "replace").decode()
