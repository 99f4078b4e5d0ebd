"""What unknown files hold: format, delimiter, encoding, columns, days in their names. No Spark."""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pyarrow.parquet as pq

from learn_spark.config.ingest import IngestGates
from learn_spark.errors import ConfigError
from learn_spark.ingest.check import csv_fields, open_file

SAMPLE_LINES = 1000
LONGEST_LINE = IngestGates().max_line_bytes
FIRST_YEAR, LAST_YEAR = 1971, 2099
DELIMITERS = ("::", "\t", "|", ";", ",")
_DAY = re.compile(r"(?<!\d)(?:(\d{4})-(\d{2})-(\d{2})|(\d{4})_(\d{2})_(\d{2})|(\d{4})(\d{2})(\d{2}))(?!\d)")
_VARYING = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<!bz)\d+")  # what differs between the parts of a day
_SPELLED = ("{day}", "{day:%Y_%m_%d}", "{day:%Y%m%d}")
_PACKED = (".gz", ".bz2")
_KINDS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".ndjson": "json"}


@dataclass(frozen=True)
class Seen:
    """What was found.

    Attributes:
        folder, files: `ingest.path` and `ingest.files`.
        paths: every file that `files` matches, in order.
        days: first and last day in their names, None where they name none.
        has_header: of a csv; other formats have names anyway.
        rows: the first file's first rows by column; every value as text, "" where there is none.
    """

    folder: Path
    files: str | None
    paths: list[Path]
    days: tuple[date, date] | None
    format: str
    delimiter: str = ","
    encoding: str = "utf-8"
    has_header: bool = True
    columns: list[str] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)


def look_at(path: Path) -> Seen:
    """Looks at the first rows of a file, or of a folder's first file.

    Raises:
        ConfigError: where there is nothing that can be read.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist")
    if (path / "_delta_log").is_dir():
        raise ConfigError(
            f"{path} is a Delta table, and inspect reads files without Spark: write format: delta, files: null,"
            " path: the table, and map its columns"
        )
    with _readable(path):
        folder, files, paths, days = find_files(path)
        first = max(paths[:50], key=lambda file: file.stat().st_size)
        if first.stat().st_size == 0:
            raise ConfigError(f"{first} is empty")
    stem = first.with_suffix("") if first.suffix in _PACKED else first
    with _readable(first):
        kind = _KINDS.get(stem.suffix.lower()) or _kind_by_content(first)
        seen = Seen(folder, files, paths, days, kind)
        if kind == "csv":
            seen = _csv(seen, first)
    rows = [row for row, _ in zip(read_rows(seen, first), range(SAMPLE_LINES), strict=False)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        raise ConfigError(f"{first} holds no row that can be read as {kind}")
    return Seen(**{**vars(seen), "columns": seen.columns or columns, "rows": rows})


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Around the reading of a file that may hold anything.

    Raises:
        ConfigError: whatever was raised, in a line that names the file.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # zlib.error, ArrowInvalid, csv.Error and their like share no base class
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise ConfigError(f"{path} cannot be read: {reason or type(error).__name__}") from error


def read_rows(seen: Seen, path: Path) -> Iterator[dict[str, str]]:
    """A file's rows by column, every value as text; what cannot be read is left out.

    Raises:
        ConfigError: the file cannot be read to where its rows are wanted.
    """
    with _readable(path):
        yield from _rows(seen, path)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; one that is too long for a log is an error."""
    while line := stream.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"it has a line of more than {LONGEST_LINE:,} bytes (ingest.gates.max_line_bytes)")
        yield line


def _rows(seen: Seen, path: Path) -> Iterator[dict[str, str]]:
    if seen.format == "parquet":
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(10_000):
                for row in batch.to_pylist():
                    yield {name: _text(value) for name, value in row.items()}
        return
    with open_file(str(path)) as stream:
        lines = (line.decode(seen.encoding, "replace").rstrip("\r\n") for line in _lines(stream))
        if seen.format == "json":
            yield from _json_rows(lines)
            return
        if seen.has_header:
            next(lines, None)
        for line in lines:
            try:
                values = csv_fields(line, seen.delimiter)
            except csv.Error:  # a field of more than 128 KiB
                continue
            if len(values) == len(seen.columns):
                yield dict(zip(seen.columns, values, strict=True))


def _json_rows(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield {_printable(name): _printable(_text(part)) for name, part in value.items()}


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str).strip('"')


def _printable(text: str) -> str:
    """Without half characters, which JSON can write and nothing can print."""
    return text.encode("utf-8", "replace").decode()


def find_files(path: Path) -> tuple[Path, str, list[Path], tuple[date, date] | None]:
    """The folder, the pattern of its most frequent kind of file, these files, and the days that their names span."""
    if path.is_file():
        return path.parent, path.name, [path], None
    by_pattern: dict[str, dict[Path, date | None]] = {}
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        if file.is_file() and not any(part.startswith((".", "_")) for part in relative.parts):
            pattern, day = _with_day(relative.as_posix())
            by_pattern.setdefault(pattern, {})[file] = day
    if not by_pattern:
        raise ConfigError(f"{path} holds no files")
    dated = max(by_pattern, key=lambda pattern: len(by_pattern[pattern]))
    if "{day" in dated:
        days = sorted(day for day in by_pattern[dated].values() if day)
        return path, dated, list(by_pattern[dated]), (days[0], days[-1])
    sizes: dict[str, int] = {}
    for name in by_pattern:
        sizes[_suffix(name)] = sizes.get(_suffix(name), 0) + (path / name).stat().st_size
    suffix = max(sizes, key=lambda each: sizes[each])
    paths = [path / name for name in by_pattern if _suffix(name) == suffix]
    deep = "**/" if any(file.parent != path for file in paths) else ""
    return path, paths[0].name if len(paths) == 1 and not deep else f"{deep}*{suffix}", paths, None


def _suffix(name: str) -> str:
    suffixes = Path(name).suffixes
    return "".join(suffixes[-2:] if suffixes and suffixes[-1] in _PACKED else suffixes[-1:])


def _with_day(name: str) -> tuple[str, date | None]:
    for found in _DAY.finditer(name):
        parts = [part for part in found.groups() if part]
        try:
            day = date(*map(int, parts))
        except ValueError:
            continue
        if not FIRST_YEAR <= day.year <= LAST_YEAR:  # a number of another kind
            continue
        spelled = _SPELLED[next(i for i in range(3) if found.group(3 * i + 1))]
        before, after = (_VARYING.sub("*", part) for part in (name[: found.start()], name[found.end() :]))
        return before + spelled + after, day
    return name, None


def _kind_by_content(path: Path) -> str:
    with path.open("rb") as stream:
        if stream.read(4) == b"PAR1":
            return "parquet"
    with open_file(str(path)) as stream:
        return "json" if next(_lines(stream), b"").lstrip(b"\xef\xbb\xbf \t").startswith(b"{") else "csv"


def _csv(seen: Seen, path: Path) -> Seen:
    with open_file(str(path)) as stream:
        lines = [line for line in islice(_lines(stream), SAMPLE_LINES) if line.strip()]
    if not lines:
        raise ConfigError(f"{path} holds no line")
    encoding = "utf-8"
    try:
        text = [line.decode("utf-8").rstrip("\r\n") for line in lines]
    except UnicodeDecodeError:
        encoding = "iso-8859-1"
        text = [line.decode(encoding).rstrip("\r\n") for line in lines]
    delimiter = max(DELIMITERS, key=lambda each: _steadiness(text, each))
    names = csv_fields(text[0], delimiter)
    has_header = len(set(names)) == len(names) and all(_is_a_name(name) for name in names)
    columns = names if has_header else [f"column_{number}" for number in range(1, len(names) + 1)]
    found = {"delimiter": delimiter, "encoding": encoding, "has_header": has_header, "columns": columns}
    return Seen(**{**vars(seen), **found})


def _steadiness(lines: list[str], delimiter: str) -> tuple[float, int]:
    """The share of lines with as many columns as most have, where there are at least two; then how many."""
    counts = [len(csv_fields(line, delimiter)) for line in lines]
    most = max(set(counts), key=counts.count)
    return (counts.count(most) / len(counts), most) if most > 1 else (0.0, 0)


def _is_a_name(text: str) -> bool:
    return bool(re.match(r"^[^\W\d]", text.strip())) and not re.search(r"\d{4}", text)
