"""Finds a file's layout from its first lines: format, encoding, csv dialect. No Spark."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from learn_spark.errors import ConfigError
from learn_spark.ingest.unpacking import open_file
from learn_spark.inspect.charset import encoding_of
from learn_spark.inspect.layout import Layout, fields, json_rows, lines_of, readable
from learn_spark.inspect.spellings import spelling

SAMPLE_LINES = 1000
DELIMITERS = ("::", "\t", "|", ";", ",")
_MOST_BREAKS = 20
_XZ = b"\xfd7zXZ\0"


def layout_of(path: Path) -> Layout:
    """The layout of a file, found from its first lines.

    Raises:
        ConfigError: it is empty, cannot be read, or holds no table.
    """
    with readable(path):
        if path.stat().st_size == 0:
            raise ConfigError(f"{path} is empty")
        with path.open("rb") as stream:
            first = stream.read(6)
        if first == _XZ:
            raise ConfigError(f"{path} is packed by xz, which ingest does not read: unpack it, or pack it by gzip")
        if first.startswith(b"PAR1") or path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                return Layout("parquet", columns=list(file.schema_arrow.names))
        with open_file(path) as stream:
            lines = list(islice(lines_of(stream), SAMPLE_LINES + 10))
        encoding, is_sure = encoding_of(b"".join(lines))
        text = b"".join(lines).decode(encoding, "replace").lstrip("\ufeff")
        if not text.strip():
            raise ConfigError(f"{path} holds no line")
        if text.lstrip()[0] in "{[" and (found := _json_layout(path, text, encoding)):
            return found
        unsure = () if is_sure else (f"encoding {encoding}",)
        return replace(_csv_layout(path, text), encoding=encoding, unsure=unsure)


def _json_layout(path: Path, text: str, encoding: str) -> Layout | None:
    """The layout of JSON lines; None if the lines only begin like JSON."""
    rows = list(json_rows(text.splitlines()))
    if rows:
        return Layout("json", encoding=encoding, columns=list(dict.fromkeys(name for row in rows for name in row)))
    line = text.lstrip().split("\n", 1)[0]
    if line.startswith("[") and not line.startswith("[["):
        raise ConfigError(f"{path} is one JSON array: write an object per line (`jq -c '.[]'`)")
    try:
        is_python = isinstance(ast.literal_eval(line), dict)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        is_python = False
    if is_python:
        raise ConfigError(
            f"{path} holds Python's own literals ({line[:40]}…), not JSON: write each line anew by"
            " json.dumps(ast.literal_eval(line))"
        )
    if line.startswith("{"):
        raise ConfigError(f"{path} holds no row that can be read as json")
    return None


def _csv_layout(path: Path, text: str) -> Layout:
    lines = text.splitlines()
    skip, comment, hinted = _preamble(lines)
    lines = [line for line in lines[skip:] if line.strip()]
    if not lines:
        raise ConfigError(f"{path} holds no line")
    delimiter = hinted or max(DELIMITERS, key=lambda each: _steadiness(list(fields(lines, Layout("csv", each)))))
    quote, escape, multiline = max(_dialects(lines), key=lambda each: _fits(lines, delimiter, *each))
    found = Layout("csv", delimiter, "utf-8", quote, escape, multiline, skip, comment)
    names, *rows = list(fields(lines, found)) or [[]]
    has_header = len(set(names)) == len(names) and all(_is_a_name(name) for name in names) and not _recur(names, rows)
    columns = names if has_header else [f"column_{number}" for number in range(1, len(names) + 1)]
    if has_header:
        return replace(found, columns=columns)
    samples = zip(*(row for row in [names, *rows[:50]] if len(row) == len(names)), strict=True)
    times = tuple(place for place, values in enumerate(samples) if spelling(values) is not None)
    return replace(found, has_header=False, columns=columns, times=times)


def _preamble(lines: list[str]) -> tuple[int, str, str | None]:
    """How many lines are above the table, what begins a comment, and the delimiter of Excel's line `sep=`."""
    skip, comment, hinted = 0, "", None
    if lines[0].startswith("sep=") and len(lines[0].strip()) == len("sep=;"):
        skip, hinted = 1, lines[0].strip()[-1]
    while skip < min(len(lines) - 1, 20) and lines[skip].startswith(("#", "--", "//")):
        skip, comment = skip + 1, lines[skip][:1]
    return skip, comment, hinted


def _dialects(lines: list[str]) -> Iterator[tuple[str, str, bool]]:
    """Quote, escape, and whether quotes hold line breaks; the plainest first, since the first of equal scores wins."""
    yield '"', '"', False
    if any('"' in line for line in lines):
        if any('\\"' in line for line in lines):
            yield '"', "\\", False
        yield "", "", False
        yield '"', '"', True


def _fits(lines: list[str], delimiter: str, quote: str, escape: str, multiline: bool) -> float:
    """The share of rows as long as the first one, plus the share of lines that are quoted as in this dialect."""
    if len(delimiter) > 1:
        return 1.0 if (quote, multiline) == ("", False) else 0.0
    rows = list(fields(lines, Layout("csv", delimiter, "utf-8", quote, escape, multiline)))
    steady = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
    return steady + _well_quoted(lines, delimiter, quote, escape, multiline)


def _well_quoted(lines: list[str], delimiter: str, quote: str, escape: str, multiline: bool) -> float:
    """The share of the records in which each value that begins with a quote ends with one; in a dialect without quotes,
    the share of lines without a value in quotes."""
    inner = r'[^"\\]|\\.|""' if escape == "\\" else '[^"]|""'
    in_quotes, rest = f'"(?:{inner})*+"', f"[^{re.escape(delimiter)}]*+"
    if not quote:
        wrapped = re.compile(f'(?:^|{re.escape(delimiter)})"[^"]*"(?={re.escape(delimiter)}|$)')
        return 1 - sum(bool(wrapped.search(line)) for line in lines) / len(lines)
    value = f'(?:{in_quotes}|(?!"){rest})'
    good = re.compile(f"{value}(?:{re.escape(delimiter)}{value})*+", re.DOTALL)
    records = list(_records(lines, good)) if multiline else lines
    return sum(bool(good.fullmatch(record)) for record in records) / len(records)


def _records(lines: list[str], good: re.Pattern[str]) -> Iterator[str]:
    """Lines, joined until they are well quoted or become too many."""
    held: list[str] = []
    for line in lines:
        held.append(line)
        if good.fullmatch("\n".join(held)) or len(held) > _MOST_BREAKS:
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held)


def _steadiness(rows: list[list[str]]) -> tuple[float, int]:
    """The share of lines with the most frequent number of columns, and that number; zeros if it is below two."""
    counts = [len(row) for row in rows] or [0]
    most = max(set(counts), key=counts.count)
    return (counts.count(most) / len(counts), most) if most > 1 else (0.0, 0)


def _recur(names: list[str], rows: list[list[str]]) -> bool:
    """Whether a value of the first line occurs further down in its column: then it is not the column's name."""
    columns = zip(names, *(row for row in rows if len(row) == len(names)), strict=True)
    return any(values[0] in values[1:] for values in columns)


def _is_a_name(text: str) -> bool:
    stripped = text.strip()
    return bool(stripped) and (stripped[0].isalpha() or stripped[0] == "_") and not _has_a_year(stripped)


def _has_a_year(text: str) -> bool:
    digits = "".join(char if char.isdigit() else " " for char in text).split()
    return any(len(part) >= 4 for part in digits)
