"""The raw log's files: which ones belong to a day, which day a path names, and whether files have changed."""

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache, reduce
from glob import iglob
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from urllib.parse import quote

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from learn_spark.config.formats import DAY, DAY_PARTS, PART_OF_PATH, FilesSettings
from learn_spark.config.ingest import IngestSettings
from learn_spark.config.load import Config
from learn_spark.config.sources import SourceSettings
from learn_spark.errors import ConfigError
from learn_spark.lake.days import ONE_DAY
from learn_spark.storage import Location, Place

_log = logging.getLogger(__name__)

_DEFAULT_DAY = "%Y-%m-%d"
_DIGITS = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}"}
_ANY_DIGITS = {"%Y": "????", "%m": "??", "%d": "??"}
_DIGEST_BYTES = 16
PATH = "_path"  # the path of a line's file, as a URL
FEW_FILES = 64


def source_files(settings: FilesSettings, days: Iterable[date]) -> dict[date, list[Place]]:
    """The files of each day's delivery, sorted by name. Without {day} in the layout, each day has all of them.

    For a table, the file is the table's folder. Days without a file are left out. The folder is listed once, and names
    of other days are not kept.

    Raises:
        ConfigError: no day at all has a file.
    """
    asked = set(days)
    is_any, found = False, defaultdict(list)
    for named, name, _ in listed(settings):
        is_any = True
        for day in asked if named is None else asked & {named}:
            found[day].append(settings.path / name)
    if not is_any:
        raise ConfigError(
            f"no file matches {settings.path}/{settings.files or ''} on any day:"
            f" check {settings.section}.path and files"
        )
    return {day: sorted(found[day], key=str if isinstance(settings.path, Location) else None) for day in sorted(found)}


def catalogue_files(settings: IngestSettings, days: Iterable[date]) -> dict[date, list[Place]]:
    """Files of the item catalogue for these days; files that name no day belong to `ingest.start`."""
    if settings.items is None:
        return {}
    own = [day for day in days if settings.items.by_day or day == settings.start]
    return source_files(settings.items, own) if own else {}


def newest_file(settings: FilesSettings) -> Place | None:
    """The newest file over all days; None for a table, or if there are no files."""
    found = [(day or date.min, name) for day, name, _ in listed(settings)] if settings.files else []
    return settings.path / max(found)[1] if found else None


class SourceFiles:
    """The files that each day is made from, as they are now: other names, sizes or modification times are other input.

    In a store a file's tag takes the place of its time, so that a copied bucket is the same input.

    A delivery is compared with the deliveries of the `late_days` before it, so their files count, too. A catalogue's
    files count for their own day, or for the first day if they name none. Only one digest per day is kept, however many
    files there are. Raw logs are rarely kept for ever: files that are gone count as they were when their day was
    recorded.
    """

    def __init__(self, config: Config, recorded: Mapping[date, str | None]) -> None:
        """Lists the files; `recorded` is what `state` returned for days that are done."""
        self._settings = config.ingest
        self._logs = _digests(*self._settings.each())
        self._catalogue = _digests(self._settings.items) if self._settings.items else {}
        self._recorded = recorded

    def state(self, day: date) -> str:
        """The day's own files, logs and catalogue, as JSON."""
        return json.dumps(self._files(day))

    def identity(self, day: date) -> object:
        """Everything that the day is made from, also the files of the days before that it is compared with."""
        return [self._files(each)[0] for each in _days_read(self._settings, day)], self._files(day)[1]

    def _files(self, day: date) -> list[str | None]:
        settings = self._settings
        now = [self._logs.get(day if settings.by_day else None), None]
        if settings.items and (settings.items.by_day or day == settings.start):
            now[1] = self._catalogue.get(day if settings.items.by_day else None)
        was = self._recorded.get(day)
        return [digest or before for digest, before in zip(now, json.loads(was) if was else now, strict=True)]


def _days_read(settings: IngestSettings, day: date) -> list[date]:
    first = max(settings.start, day - timedelta(days=settings.late_days)) if settings.by_day else day
    return [first + ONE_DAY * number for number in range((day - first).days + 1)]


def _digests(*sources: SourceSettings) -> dict[date | None, str]:
    """A number per day that changes with the day's files. It is a sum, so it needs no order and no list of the files.

    A lookup's files count only if they are laid out by day exactly when the source's are: files that all days share
    belong to no single day.
    """
    lookups = (each for source in sources for each in source.lookups.values() if each.by_day == source.by_day)
    digests: dict[date | None, int] = defaultdict(int)
    for day, name, state in chain.from_iterable(map(listed, (*sources, *lookups))):
        digest = blake2b(repr((name, *state)).encode("utf-8", "surrogateescape"), digest_size=_DIGEST_BYTES).digest()
        digests[day] = (digests[day] + int.from_bytes(digest, "big")) % 256**_DIGEST_BYTES
    return {day: f"{digest:x}" for day, digest in digests.items()}


def listed(settings: FilesSettings) -> Iterator[tuple[date | None, str, tuple[int | str, ...]]]:
    """Yields each file's day (None if `files` has no {day}), its name below `path`, and its state.

    A table has no state here: its version is its state.

    Names that begin with . or _ (checksums, _SUCCESS, _temporary) are skipped, unless the pattern has such a name.
    """
    if settings.files is None:
        if settings.path.is_dir():
            yield None, "", ()
        return
    pattern = PART_OF_PATH.sub("*", DAY.sub(lambda found: _spelled(found[1], _ANY_DIGITS), settings.files))
    is_asked = _is_hidden(pattern)
    in_path = re.compile(day_pattern(settings))
    forms = [form or _DEFAULT_DAY for form in DAY.findall(settings.files)]
    path = settings.path
    for name, state in _in_store(path, pattern) if isinstance(path, Location) else _in_folder(path, pattern):
        if _is_hidden(name) and not is_asked:
            continue
        days = {_parsed(text, form) for text, form in zip(_groups(in_path, name), forms, strict=True)}
        if not forms or (len(days) == 1 and None not in days):
            yield next(iter(days), None), name, state


def _in_store(path: Location, pattern: str) -> Iterator[tuple[str, tuple[int | str, ...]]]:
    for name, entry in path.matching(pattern).items():
        yield name, (entry.size, entry.tag)


def _in_folder(path: Path, pattern: str) -> Iterator[tuple[str, tuple[int | str, ...]]]:
    for name in iglob(pattern, root_dir=path, recursive=True, include_hidden=True):
        stat = _state(os.path.join(path, name))
        if stat is None:
            _log.warning("ingest: %s/%s is gone since it was listed", path, name)
        elif S_ISREG(stat.st_mode) or S_ISLNK(stat.st_mode):
            yield name, (stat.st_size, stat.st_mtime_ns)


def _state(path: str) -> os.stat_result | None:
    """The stat of a file, or of a broken link, which the check will report; None if it is gone."""
    for look in (os.stat, os.lstat):
        try:
            return look(path)
        except OSError:
            continue
    return None


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _groups(pattern: re.Pattern[str], name: str) -> tuple[str, ...]:
    found = pattern.search(name)
    return found.groups() if found else ("",) * pattern.groups


@lru_cache(maxsize=4096)
def _parsed(text: str, form: str) -> date | None:
    try:
        return datetime.strptime(text, form).date()
    except ValueError:
        return None


def _spelled(form: str, parts: dict[str, str]) -> str:
    return re.sub("%[Ymd]", lambda found: parts[found[0]], form or _DEFAULT_DAY)


def day_pattern(settings: FilesSettings) -> str:
    """A regular expression whose first group is the day in a file's path, spelled as `files` spells it."""
    return _pattern(settings, None)


def part_pattern(settings: FilesSettings, name: str) -> str:
    """A regular expression whose one group is what stands for `{name}` in a file's path."""
    return _pattern(settings, name)


def _pattern(settings: FilesSettings, name: str | None) -> str:
    """A pattern of the end of a file's path; its groups are the days or, with a name, the first part of that name."""
    parts = []
    for part in re.split(r"(\{[^{}]*\}|\*|\?)", settings.files or ""):
        spelled = DAY.fullmatch(part)
        if spelled:
            digits = _spelled(re.escape(spelled[1] or _DEFAULT_DAY), _DIGITS)
            parts.append(digits if name else f"({digits})")
        elif PART_OF_PATH.fullmatch(part):
            is_asked = part == f"{{{name}}}" and "([^/]*)" not in parts
            parts.append("([^/]*)" if is_asked else "[^/]*")
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part))
    return "".join(parts) + "$"


def plain(name: Column) -> Column:
    """Decodes a path or name of Spark's `_metadata`, which is part of a URL, to what the file system calls it."""
    return F.url_decode(F.regexp_replace(name, r"\+", "%2B"))


def urls_of(lines: DataFrame, paths: Sequence[str]) -> list[str]:
    """The values of `_path` by which a frame that reads these files names them; empty if there are many files."""
    if len(paths) > FEW_FILES:
        return []
    local = [re.sub("^file:/+", "file:/", url) for url in lines.inputFiles()]  # as `_metadata.file_path` spells them
    return local or [quote(path) for path in paths]


def told_by_file(urls: Sequence[str], told: Callable[[Column], Column]) -> Column:
    """What `told` derives from the path of a line's file; for the files in `urls`, once per file, not per line."""
    url = F.col(PATH)
    pairs = ((url == each, told(plain(F.lit(each)))) for each in urls)
    return reduce(lambda rest, pair: F.when(*pair).otherwise(rest), pairs, told(plain(url)))


def literal(paths: Sequence[str]) -> list[str]:
    """Escapes the characters for which Spark would take a path for a pattern."""
    return [re.sub(r"[\\\[\]{}*?]", r"\\\g<0>", path) for path in paths]


def load_day(settings: FilesSettings, path: Column) -> Column:
    """The delivery day that a path names; null if `files` has no {day}."""
    if not settings.by_day:
        return F.lit(None).cast("date")
    spelled = DAY.findall(settings.files or "")[0] or _DEFAULT_DAY
    return F.to_date(F.regexp_extract(path, day_pattern(settings), 1), _spelled(spelled, DAY_PARTS))
