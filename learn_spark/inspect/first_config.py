"""A first config of unknown files. No Spark."""

import logging
import math
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import yaml

from learn_spark.errors import ConfigError
from learn_spark.inspect.guess import MOST_EVENT_TYPES, Guess, day_of, guess
from learn_spark.inspect.look import Seen, look_at, read_rows
from learn_spark.lake.days import ONE_DAY

_log = logging.getLogger(__name__)
MOST_ROWS = 1_000_000
SHORTEST_DAYS = 6
SAMPLES = 3
_WANTED = ("purchase", "buy", "order", "pay", "like", "click")


def first_config(path: Path) -> str:
    """Looks at a log file, or a folder of them, and logs what it finds.

    Args:
        path: what to look at.

    Returns:
        The config as YAML.

    Raises:
        ConfigError: no file, or none that holds a log.
    """
    seen = look_at(path)
    found = guess(seen)
    for line in _findings(seen):
        _log.info(line)
    if found is None:
        raise ConfigError(f"{seen.paths[0]} has no column of times, or no two further ones: map it by hand")
    text = _config(seen, found)
    for line in found.said:
        _log.info(line)
    return text


def _findings(seen: Seen) -> Iterator[str]:
    kind = seen.format
    if kind == "csv":
        header = "with a header line" if seen.has_header else "without a header line"
        kind = f"csv, delimiter {seen.delimiter!r}, {seen.encoding}, {header}"
    days = f", days {seen.days[0]} .. {seen.days[1]}" if seen.days else ""
    yield f"{len(seen.paths)} files {seen.files} in {seen.folder}{days}: {kind}"
    for name in seen.columns:
        values = [row.get(name, "") for row in seen.rows]
        empty = sum(not value.strip() for value in values) / len(values)
        samples = list(dict.fromkeys(value[:40] for value in values if value.strip()))[:SAMPLES]
        yield f"  {name}: {' | '.join(samples) or 'nothing'}{f' ({empty:.0%} empty)' if empty else ''}"


def _config(seen: Seen, found: Guess) -> str:
    first, last, kinds, rejected = _scan(seen, found)
    if not found.event_types:
        found.event_types = [kind for kind, _ in kinds.most_common(MOST_EVENT_TYPES)]
    if seen.days:
        first, last = seen.days
    named = [kind for kind in found.event_types if any(word in kind.lower() for word in _WANTED)]
    csv = {"delimiter": seen.delimiter, "encoding": seen.encoding} if seen.format == "csv" else {}
    ingest = {
        "path": str(seen.folder),
        "files": seen.files,
        "format": seen.format,
        **csv,
        **({} if seen.has_header else {"columns": seen.columns}),
        "start": first,
        "event_types": found.event_types,
        **({"gates": {"max_reject_share": rejected}} if rejected > 0.05 else {}),
        "mapping": found.mapping,
    }
    build = Path.cwd() / "build" / seen.folder.name
    windows, target_days = _windows(first, last, found)
    values = {
        "lake": {"root": str(build / "lake")},
        "output": {"dir": str(build)},
        "ingest": ingest,
        "windows": windows,
        "sequences": {
            "target_days": target_days,
            "as_of_every_days": max(1, min(7, target_days // 2)),
            "history_events": list(found.event_types),
            "target_events": named or list(found.event_types),
        },
        "cvr": {"validation_days": max(1, min(3, (windows["cvr_end"] - windows["towers_end"]).days // 3))},
    }
    head = "# A first guess from the files themselves: check every line, above all the mapping and the event types.\n"
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return head + text


def _scan(seen: Seen, found: Guess) -> tuple[date, date, Counter[str], float]:
    """First and last day, event types, and the largest share of a day's rows that lacks an id, a title or a time."""
    each = max(1000, MOST_ROWS // len(seen.paths))
    needed = [str(found.mapping[name]["column"]) for name in ("user_id", "item_id", "title")]
    time, kind = str(found.mapping["event_ts"]["column"]), str(found.mapping["event_type"].get("column", ""))
    lines: Counter[date | None] = Counter()
    bad: Counter[date | None] = Counter()
    kinds: Counter[str] = Counter()
    cut = 0
    for path in seen.paths:
        for row, number in zip(read_rows(seen, path), range(each + 1), strict=False):
            if number == each:
                cut += 1
                break
            moment = found.read_time(row.get(time, ""))
            day = day_of(moment) if moment else None
            lines[day] += 1
            bad[day] += moment is None or not all(row.get(name, "").strip() for name in needed)
            if kind:
                kinds[row.get(kind, "").strip()] += 1
    if cut:
        found.said.append(
            f"of {cut} files only the first {each:,} rows were read: the log may hold more days and types"
        )
    del kinds[""]
    days = sorted(day for day in lines if day)
    if lines[None]:
        found.said.append(f"{lines[None]} of {lines.total()} rows have no time")
        lines[days[0]] += lines.pop(None)
        bad[days[0]] += bad.pop(None)
    share = max(bad[day] / lines[day] for day in days)
    if bad.total():
        found.said.append(
            f"{bad.total()} of {lines.total()} rows lack a time, an id or a title; at most {share:.0%} of a day"
        )
    return days[0], days[-1], kinds, min(1.0, math.ceil(share * 100) / 100)


def _windows(first: date, last: date, found: Guess) -> tuple[dict[str, date], int]:
    """Staggered windows that end with the log, and targets' days that fit into them."""
    end = last + ONE_DAY
    if (end - first).days < SHORTEST_DAYS:
        found.said.append(f"{(end - first).days} days are too few for training and testing: the windows reach beyond")
        end = first + SHORTEST_DAYS * ONE_DAY
    span = (end - first).days
    target_days = min(28, max(1, span // 10))
    tail = max(3, target_days, min(90, span // 6))
    towers_end = end - timedelta(tail)
    windows = {
        "first_as_of": first + timedelta(max(1, min(60, span // 10))),
        "towers_end": towers_end,
        "cvr_end": towers_end + timedelta(tail // 3),
        "ranker_train_end": towers_end + timedelta(2 * tail // 3),
        "end": end,
    }
    return windows, target_days
