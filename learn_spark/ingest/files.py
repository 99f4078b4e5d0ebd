"""The raw log's files: which belong to a day, and what day a path names."""

import re
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from pathlib import Path

from pyspark.sql import Column
from pyspark.sql import functions as F

from learn_spark.core.config import Config
from learn_spark.core.days import ONE_DAY
from learn_spark.core.ingest_settings import DAY, DAY_PARTS, IngestSettings, SourceSettings

_DEFAULT_DAY = "%Y-%m-%d"
_DIGITS = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}"}


def source_files(settings: SourceSettings, day: date) -> list[Path]:
    """The files of a day's delivery, by name; all files of a layout without {day}; a table's folder.

    What begins with . or _ (checksums, _SUCCESS, _temporary) is no data, unless the pattern says so itself.
    """
    if settings.files is None:
        return [settings.path] if settings.path.is_dir() else []
    pattern = settings.files.format(day=day) if settings.by_day else settings.files
    is_asked = any(part.startswith((".", "_")) for part in Path(pattern).parts)
    found = (path for path in settings.path.glob(pattern) if path.is_file())
    return sorted(path for path in found if is_asked or not _is_hidden(path.relative_to(settings.path)))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def source_identity(config: Config, day: date) -> list[tuple[str, int, int]]:
    """Name, size and modification time of each file that a day is made from: another delivery is another input.

    A delivery is read against those of the `late_days` before it. A catalogue's files count for their own day, and
    for the first one where they name none.
    """
    settings = config.ingest
    found = dict.fromkeys(path for each in _days_read(settings, day) for path in source_files(settings, each))
    files = list(_stats(settings, found))
    if settings.items is not None:
        files += _stats(settings.items, catalogue_files(settings, [day]))
    return files


def catalogue_files(settings: IngestSettings, days: Iterable[date]) -> list[Path]:
    """Files of the item catalogue for these days: those that name no day belong to `ingest.start`."""
    if settings.items is None:
        return []
    own = [day for day in days if settings.items.by_day or day == settings.start]
    return list(dict.fromkeys(path for day in own for path in source_files(settings.items, day)))


def _days_read(settings: IngestSettings, day: date) -> list[date]:
    if not settings.by_day:
        return [day]
    first = max(settings.start, day - timedelta(days=settings.late_days))
    return [first + ONE_DAY * number for number in range((day - first).days + 1)]


def _stats(settings: SourceSettings, paths: Iterable[Path]) -> Iterator[tuple[str, int, int]]:
    for path in paths:
        if settings.format == "delta":
            yield (path.name, 0, 0)  # a table's state is its version, not the folder's
        else:
            stat = path.stat()
            yield (path.relative_to(settings.path).as_posix(), stat.st_size, stat.st_mtime_ns)


def day_pattern(settings: SourceSettings) -> str:
    """A regular expression whose first group is the day in a file's path, spelled as `files` spells it."""
    parts = []
    for part in re.split(r"(\{day(?::[^{}]*)?\}|\*|\?)", settings.files or ""):
        spelled = DAY.fullmatch(part)
        if spelled:
            digits = re.sub("%[Ymd]", lambda found: _DIGITS[found[0]], re.escape(spelled[1] or _DEFAULT_DAY))
            parts.append(f"({digits})")
        else:
            # Spark's paths are URLs
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part).replace(r"\ ", "(?: |%20)"))
    return "".join(parts) + "$"


def load_day(settings: SourceSettings, path: Column) -> Column:
    """The delivery day that a path names; null where `files` holds no {day}."""
    if not settings.by_day:
        return F.lit(None).cast("date")
    spelled = DAY.search(settings.files or "")[1] or _DEFAULT_DAY
    java = re.sub("%[Ymd]", lambda found: DAY_PARTS[found[0]], spelled)
    return F.to_date(F.regexp_extract(path, day_pattern(settings), 1), java)
