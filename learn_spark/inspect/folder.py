"""Finds the tables in a folder: files of one name pattern and one layout are one table. No Spark."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from fnmatch import fnmatchcase
from itertools import chain, islice
from os.path import commonprefix
from pathlib import Path

from learn_spark.errors import ConfigError
from learn_spark.inspect.columns import columns_of
from learn_spark.inspect.layout import Layout, Row, read_rows, readable
from learn_spark.inspect.sniff import layout_of

FIRST_YEAR, LAST_YEAR = 1971, 2099
SAMPLED_FILES, SAMPLED_ROWS = 20, 20_000
MOST_LAYOUTS = 300  # most undated files whose first lines are read
_DAY = re.compile(r"(?<!\d)(?:(\d{4})-(\d{2})-(\d{2})|(\d{4})_(\d{2})_(\d{2})|(\d{4})(\d{2})(\d{2}))(?!\d)")
_VARYING = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<!bz)\d+")  # what differs between the parts of a day
_PARTITION = re.compile(r"(?:^|(?<=/))([^/=]+)=([^/]*)(?=/)")
_SPELLED = ("{day}", "{day:%Y_%m_%d}", "{day:%Y%m%d}")
_PACKED = (".gz", ".bz2", ".zst", ".zip", ".xz")
_NO_TABLE = (".md", ".txt.asc", ".pdf", ".png", ".jpg", ".html", ".py", ".sql", ".yaml", ".yml", ".sh", ".ipynb")


@dataclass(frozen=True)
class Seen:
    """One table that was found.

    Attributes:
        folder, files: `ingest.path` and `ingest.files`.
        paths: every file that `files` matches, in order.
        days: first and last day in the files' names, None if the names have no day.
        layout: how the files are read.
        rows: rows of some of the files; every value as text, "" if there is none.
        from_path: columns whose values are in the files' paths, as `event_type=view/`.
        drift: columns that some of the files lack.
        unread: why some of the files could not be read.
        line_ids: columns that had a different value in each line before the lines' lists were exploded.
    """

    folder: Path
    files: str
    paths: list[Path]
    days: tuple[date, date] | None
    layout: Layout
    rows: list[Row]
    from_path: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    line_ids: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns' names in order of appearance, those of the paths last."""
        return list(dict.fromkeys([*self.layout.columns, *(name for row in self.rows for name in row)]))

    @property
    def size(self) -> int:
        """Bytes of all files, packed as they are."""
        return sum(path.stat().st_size for path in self.paths)


@dataclass
class FolderContent:
    """The tables of a folder, the largest first, and the files that are no table, with the reasons."""

    tables: list[Seen]
    left_out: dict[str, str] = field(default_factory=dict)


def look_at(path: Path) -> FolderContent:
    """Looks at a file, or at all files below a folder.

    Raises:
        ConfigError: nothing can be read.
    """
    with readable(path):
        if not path.exists():
            raise ConfigError(f"{path} does not exist")
        if (path / "_delta_log").is_dir():
            raise ConfigError(
                f"{path} is a Delta table, and inspect reads files without Spark: write format: delta, files: null,"
                " path: the table, and map its columns"
            )
        if path.is_file():
            return FolderContent([_seen(path.parent, path.name, {path: None}, layout_of(path))])
        content = FolderContent([])
        errors: list[ConfigError] = []
        for group in _groups(path, content, errors):
            try:
                content.tables.append(_seen(path, *group))
            except ConfigError as error:
                errors.append(error)
                content.left_out[group[0]] = str(error)
    if not content.tables:
        raise errors[0] if errors else ConfigError(f"{path} holds no files")
    content.tables.sort(key=lambda seen: seen.size, reverse=True)
    return content


Group = tuple[str, dict[Path, date | None], Layout]


def _groups(folder: Path, content: FolderContent, errors: list[ConfigError]) -> Iterator[Group]:
    """Patterns with their files and layout: files with a day in the name by their names, others by their content."""
    dated, undated = patterns(folder)
    for pattern, files in dated.items():
        largest = max(islice(files, 50), key=lambda file: file.stat().st_size)
        try:
            yield pattern, dict(files), layout_of(largest)
        except ConfigError as error:
            errors.append(error)
            content.left_out[pattern] = str(error)
    by_shape: dict[object, list[tuple[Path, Layout]]] = defaultdict(list)
    alike: dict[str, Layout] = {}
    for number, file in enumerate(undated):
        name = file.relative_to(folder).as_posix()
        if file.suffix.lower() in _NO_TABLE:
            content.left_out[name] = "no table by its name"
            continue
        try:
            known = alike.get(_VARYING.sub("*", name)) if number > MOST_LAYOUTS else None
            layout = known or layout_of(file)
        except ConfigError as error:
            errors.append(error)
            content.left_out[name] = str(error)
            continue
        if len(layout.columns) < 2:
            content.left_out[name] = "its lines have no columns"
            errors.append(ConfigError(f"{file} has no column of times, or no two further ones: map it by hand"))
            continue
        alike[_VARYING.sub("*", name)] = layout
        by_shape[_suffix(name), layout.shape].append((file, layout))
    for found in by_shape.values():
        for files in _apart(folder, found):
            paths = [file for file, _ in files]
            largest = max(files, key=lambda pair: pair[0].stat().st_size)
            yield common_pattern(folder, paths, undated), dict.fromkeys(paths), largest[1]


def _apart(folder: Path, found: list[tuple[Path, Layout]]) -> Iterator[list[tuple[Path, Layout]]]:
    """Splits files into tables: files of JSON lines that share hardly any keys are different tables."""
    rest = list(found)
    while rest:
        keys = set(rest[0][1].columns)
        alike = [
            pair
            for pair in rest
            if pair[1].format != "json" or len(keys & set(pair[1].columns)) * 2 > min(len(keys), len(pair[1].columns))
        ]
        yield alike
        rest = [pair for pair in rest if pair not in alike]


def patterns(folder: Path) -> tuple[dict[str, dict[Path, date]], list[Path]]:
    """Files whose names hold a day, by pattern; and the others."""
    dated: dict[str, dict[Path, date]] = {}
    undated: list[Path] = []
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        if file.is_file() and not any(part.startswith((".", "_")) for part in relative.parts):
            pattern, day = _with_day(relative.as_posix())
            if day:
                dated.setdefault(pattern, {})[file] = day
            else:
                undated.append(file)
    return dated, undated


def common_pattern(folder: Path, paths: list[Path], others: list[Path]) -> str:
    """A pattern that matches these files and none of the others; the first file's name if there is none."""
    names = [path.relative_to(folder).as_posix() for path in paths]
    if len(names) == 1:
        return names[0]
    own = set(names)
    foreign = [name for path in others if (name := path.relative_to(folder).as_posix()) not in own]
    deep = "**/" if any("/" in name for name in names) else ""
    tries = [f"{deep}*{_suffix(names[0])}", *{_VARYING.sub("*", name) for name in names}, _by_parts(names)]
    fitting = (each for each in tries if each and all(_matches(each, name) for name in names))
    return next((each for each in fitting if not any(_matches(each, name) for name in foreign)), names[0])


def _by_parts(names: list[str]) -> str:
    """A pattern of what the names have in common, folder by folder; empty if their depths differ."""
    parts = [name.split("/") for name in names]
    if len({len(each) for each in parts}) > 1:
        return ""
    return "/".join(_common(list(each)) for each in zip(*parts, strict=True))


def _common(names: list[str]) -> str:
    """`a_1.csv`, `a_22.csv` -> `a_*.csv`."""
    if len(set(names)) == 1:
        return names[0]
    begin = commonprefix(names)
    end = commonprefix([name[len(begin) :][::-1] for name in names])[::-1]
    return f"{begin}*{end}"


def _matches(pattern: str, name: str) -> bool:
    """Whether a pattern matches a name as in ingest: a star stays within a folder."""
    if pattern.startswith("**/"):
        return fnmatchcase(name.rsplit("/", 1)[-1], pattern[3:])
    ours, theirs = pattern.split("/"), name.split("/")
    return len(ours) == len(theirs) and all(map(fnmatchcase, theirs, ours))


def _suffix(name: str) -> str:
    suffixes = Path(name).suffixes
    return "".join(suffixes[-2:] if suffixes and suffixes[-1].lower() in _PACKED else suffixes[-1:])


def _with_day(name: str) -> tuple[str, date | None]:
    for found in _DAY.finditer(name):
        parts = [part for part in found.groups() if part]
        try:
            day = date(*map(int, parts))
        except ValueError:
            continue
        if not FIRST_YEAR <= day.year <= LAST_YEAR:  # some other number
            continue
        spelled = _SPELLED[next(i for i in range(3) if found.group(3 * i + 1))]
        before, after = (_starred(part) for part in (name[: found.start()], name[found.end() :]))
        return before + spelled + after, day
    return name, None


def _starred(part: str) -> str:
    """A part of a path with stars for what differs between files of one kind: partitions and numbers."""
    return _VARYING.sub("*", re.sub(r"(?<=/)([^/=]+)=[^/]*(?=/)", r"\1=*", part))


def exploded(seen: Seen, layout: Layout) -> Seen:
    """The table with a row per element of its lists, as the layout says."""
    table = _seen(seen.folder, seen.files, dict.fromkeys(seen.paths), layout, seen.days)
    own = [name for name, column in columns_of(seen.columns, seen.rows).items() if column.is_own_id]
    return replace(table, line_ids=tuple(own))


def _seen(
    folder: Path,
    files: str,
    days: dict[Path, date | None],
    layout: Layout,
    span: tuple[date, date] | None = None,
) -> Seen:
    paths = sorted(days)
    sampled = [paths[round(n * (len(paths) - 1) / max(1, SAMPLED_FILES - 1))] for n in range(SAMPLED_FILES)]
    sampled = list(dict.fromkeys(sampled)) if len(paths) > 1 else paths
    largest = max(paths[:50], key=lambda file: file.stat().st_size)
    rows: list[Row] = []
    columns: list[set[str]] = []
    partitions: dict[str, None] = {}
    unread: list[str] = []
    for path in dict.fromkeys([largest, *sampled]):
        named = dict(_PARTITION.findall(path.relative_to(folder).as_posix()))
        try:
            own = list(islice(read_rows(layout, path), SAMPLED_ROWS // len(sampled)))
        except ConfigError as error:
            if path == largest:
                raise
            unread.append(str(error))
            continue
        columns.append(set(chain.from_iterable(own[:100])))
        extra = {key: value for key, value in named.items() if not _DAY.search(value) and key not in layout.columns}
        partitions.update(dict.fromkeys(extra))
        rows += [row | extra for row in own] if extra else own
    if not rows:
        raise ConfigError(f"{largest} holds no row that can be read as {layout.format}")
    everywhere = set.intersection(*columns) if columns else set()
    union = list(dict.fromkeys(chain.from_iterable(rows)))
    drift = tuple(name for name in union if name not in everywhere and name not in partitions)
    known = sorted(day for day in days.values() if day)
    span = (known[0], known[-1]) if known else span
    drift = () if layout.format == "json" else drift
    return Seen(folder, files, paths, span, layout, rows, tuple(partitions), drift, tuple(unread))
