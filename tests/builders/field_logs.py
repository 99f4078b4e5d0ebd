"""Small logs as people really have them: one stream of events, written in many ways."""

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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
        """The item's name: it follows from its number."""
        return f"{FIRST[self.item % 8]} {SECOND[self.item // 8 % 8]}"


def field_events(count: int = 600, users: int = 30, items: int = 60, seed: int = 1) -> list[Event]:
    """Events in the order of their times, a fifth of them purchases, on each of sixty days."""
    chance = random.Random(seed)
    times = sorted(START + timedelta(seconds=chance.randrange(DAYS * 86_400)) for _ in range(count))
    kinds = ["view", "view", "view", "cart", "purchase"]
    return [Event(chance.randrange(users), chance.randrange(items), time, chance.choice(kinds)) for time in times]


def write_table(path: Path, header: Iterable[str] | None, rows: Iterable[Iterable[object]], sep: str = ",") -> Path:
    """A csv, as most programs write one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ([sep.join(header)] if header else []) + [sep.join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_lines(path: Path, rows: Iterable[object]) -> Path:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def plain_log(path: Path, spell: Callable[[datetime], object] = lambda time: f"{time:%Y-%m-%d %H:%M:%S}") -> Path:
    """A csv with a header whose times are spelled in some way."""
    rows = ((f"u{e.user}", f"i{e.item}", spell(e.time), e.kind, e.title) for e in field_events())
    return write_table(path, ("user_id", "item_id", "when", "action", "title"), rows, sep="|")
