"""Small logs as users really have them: one stream of events, written in many formats."""

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 60
FIRST = ("Amber", "Brisk", "Copper", "Dusky", "Ember", "Frosty", "Gilded", "Hollow")
SECOND = ("Lantern", "Voyager", "Anchor", "Kettle", "Willow", "Bridge", "Compass", "Ladder")


@dataclass(frozen=True)
class Event:
    """A user's event on an item."""

    user: int
    item: int
    time: datetime
    kind: str

    @property
    def title(self) -> str:
        """The item's name, derived from its number."""
        return f"{FIRST[self.item % 8]} {SECOND[self.item // 8 % 8]}"


def field_events(count: int = 600, users: int = 30, items: int = 60, seed: int = 1) -> list[Event]:
    """Events over sixty days, ordered by time; a fifth of them are purchases."""
    chance = random.Random(seed)
    times = sorted(START + timedelta(seconds=chance.randrange(DAYS * 86_400)) for _ in range(count))
    kinds = ["view", "view", "view", "cart", "purchase"]
    return [Event(chance.randrange(users), chance.randrange(items), time, chance.choice(kinds)) for time in times]


def write_table(path: Path, header: Iterable[str] | None, rows: Iterable[Iterable[object]], sep: str = ",") -> Path:
    """Writes a csv file as most programs do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ([sep.join(header)] if header else []) + [sep.join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_lines(path: Path, rows: Iterable[object]) -> Path:
    """Writes JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def plain_log(path: Path, spell: Callable[[datetime], object] = lambda time: f"{time:%Y-%m-%d %H:%M:%S}") -> Path:
    """Writes a csv file with a header; `spell` formats its times."""
    rows = ((f"u{e.user}", f"i{e.item}", spell(e.time), e.kind, e.title) for e in field_events())
    return write_table(path, ("user_id", "item_id", "when", "action", "title"), rows, sep="|")


SPELLINGS: dict[str, Callable[[datetime], object]] = {
    "2024-03-05 10:20:30": lambda t: f"{t:%Y-%m-%d %H:%M:%S}",
    "2024-03-05": lambda t: f"{t:%Y-%m-%d}",
    "2024-03-05 10": lambda t: f"{t:%Y-%m-%d %H}",
    "2024-03-05 10:20": lambda t: f"{t:%Y-%m-%d %H:%M}",
    "2024-03-05T10:20:30Z": lambda t: f"{t:%Y-%m-%dT%H:%M:%SZ}",
    "2024-03-05T10:20:30.123Z": lambda t: f"{t:%Y-%m-%dT%H:%M:%S}.123Z",
    "2024-03-05 10:20:30 UTC": lambda t: f"{t:%Y-%m-%d %H:%M:%S} UTC",
    "2024-03-05 10:20:30+00": lambda t: f"{t:%Y-%m-%d %H:%M:%S}+00",
    "2024-03-05 10:20:30.123456+00:00": lambda t: f"{t:%Y-%m-%d %H:%M:%S}.123456+00:00",
    "2024-03-05T10:20:30+0000": lambda t: f"{t:%Y-%m-%dT%H:%M:%S}+0000",
    "2024-03-05 10:20:30,123": lambda t: f"{t:%Y-%m-%d %H:%M:%S},123",
    "2024/03/05 10:20:30": lambda t: f"{t:%Y/%m/%d %H:%M:%S}",
    "03/25/2024": lambda t: f"{t:%m/%d/%Y}",
    "03/25/2024 10:20": lambda t: f"{t:%m/%d/%Y %H:%M}",
    "3/25/2024 1:02:30 AM": lambda t: f"{t.month}/{t.day}/{t.year} {t:%I:%M:%S %p}",
    "25/03/2024 10:20:30": lambda t: f"{t:%d/%m/%Y %H:%M:%S}",
    "25.03.2024 10:20": lambda t: f"{t:%d.%m.%Y %H:%M}",
    "25-03-2024 10:20": lambda t: f"{t:%d-%m-%Y %H:%M}",
    "20240325": lambda t: f"{t:%Y%m%d}",
    "20240325102030": lambda t: f"{t:%Y%m%d%H%M%S}",
    "20240325T102030Z": lambda t: f"{t:%Y%m%dT%H%M%SZ}",
    "25/Mar/2024:10:20:30 +0000": lambda t: f"{t:%d/%b/%Y:%H:%M:%S} +0000",
    "[25/Mar/2024:10:20:30 +0000]": lambda t: f"[{t:%d/%b/%Y:%H:%M:%S} +0000]",
    "Mon, 25 Mar 2024 10:20:30 +0000": format_datetime,
    "Mon, 25 Mar 2024 10:20:30 GMT": lambda t: format_datetime(t, usegmt=True),
    "Mon Mar 25 10:20:30 +0000 2024": lambda t: f"{t:%a %b %d %H:%M:%S} +0000 {t:%Y}",
    "25 Mar 2024 10:20": lambda t: f"{t:%d %b %Y %H:%M}",
    "25-Mar-2024 10:20:30": lambda t: f"{t:%d-%b-%Y %H:%M:%S}",
    "Mar 25, 2024": lambda t: f"{t:%b %d, %Y}",
    "03 25, 2024": lambda t: f"{t:%m} {t.day}, {t.year}",
    "seconds": lambda t: int(t.timestamp()),
    "seconds with a fraction": lambda t: f"{t.timestamp():.3f}",
    "milliseconds": lambda t: int(t.timestamp() * 1e3),
    "microseconds": lambda t: int(t.timestamp()) * 10**6,
    "nanoseconds": lambda t: int(t.timestamp()) * 10**9,
}
