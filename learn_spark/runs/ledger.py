"""What has been done: one row per step and day, with the fingerprint of everything that the day was made from."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from learn_spark.lake.clock import time_after
from learn_spark.lake.days import days_predicate
from learn_spark.lake.frames import frame_of
from learn_spark.lake.identity import read_identity
from learn_spark.lake.schemas import INTERVALS
from learn_spark.lake.tables import Tables

DONE, STALE = "done", "stale"


@dataclass(frozen=True)
class StepResult:
    """What a step did.

    Attributes:
        rows_in, rows_out: rows read and written.
        details: the step's own figures for summary and report; JSON values.
    """

    rows_in: int
    rows_out: int
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """A row of the ledger; stale if late events changed what the day was made from.

    `made_as` is the fingerprint under which an adopted day was made, and which is in the names of what was made.
    `wrote` are the tables' versions at the end of the work, `finished_at`, in seconds since 1970.

    Rows and seconds are those of the whole piece of a run that did the day, the same in all days of the piece; only the
    piece's last day has its details.
    """

    step: str
    day: date
    fingerprint: str
    run_id: str
    rows_in: int
    rows_out: int
    seconds: float
    details: dict[str, Any]
    is_stale: bool = False
    source: str | None = None
    made_as: str | None = None
    wrote: Mapping[str, int] = field(default_factory=dict)
    finished_at: float = 0.0

    @property
    def name(self) -> str:
        """The fingerprint that is in the names of what was made."""
        return self.made_as or self.fingerprint

    @property
    def run(self) -> str:
        """The run's id without the piece."""
        return self.run_id.partition(".")[0]


Rows = Mapping[tuple[str, date], Recorded]


def fingerprint_of(*parts: object) -> str:
    """16 hex digits of anything that JSON can hold (other values by their text)."""
    text = json.dumps(parts, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pieces(rows: Iterable[Recorded]) -> list[list[Recorded]]:
    """Groups ledger rows by run piece. Rows, seconds and details belong to the piece, so count them once per group."""
    found: dict[tuple[str, str], list[Recorded]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.day):
        found[row.step, row.run_id].append(row)
    return list(found.values())


class Ledger:
    """The `intervals` table."""

    def __init__(self, spark: SparkSession, tables: Tables) -> None:
        self._spark = spark
        self._tables = tables
        self._version = -1
        self._rows: dict[tuple[str, date], Recorded] = {}

    def recorded(self) -> dict[tuple[str, date], Recorded]:
        """All rows by step and day; they grow with steps and days, never with users or items.

        Read anew only if the table has a newer version than at the last call.
        """
        version = self._tables.version(INTERVALS.name)
        if version != self._version:
            self._rows, self._version = self._read(version), version
        return dict(self._rows)

    def seen(self) -> dict[str, int]:
        """The newest version recorded of each table; of a table that was made anew, the newest recorded since then."""
        if not self._tables.exists(INTERVALS.name):
            return {}
        identity = read_identity(self._tables.root)
        known = identity.tables if identity else {}
        seen: dict[str, int] = {}
        for row in self.recorded().values():
            for name, version in row.wrote.items():
                if name not in known or row.finished_at >= known[name].made_at:
                    seen[name] = max(version, seen.get(name, -1))
        return seen

    def _read(self, version: int) -> dict[tuple[str, date], Recorded]:
        found = [_recorded(row) for row in self._tables.read(INTERVALS.name, version).collect()]
        return {(row.step, row.day): row for row in found}

    def record(
        self,
        step: str,
        fingerprints: Mapping[date, str],
        run_id: str,
        result: StepResult,
        input_versions: Mapping[str, int],
        output_versions: Mapping[str, int],
        seconds: float,
        sources: Mapping[date, str | None] | None = None,
    ) -> None:
        """Marks days of a step as done, in place of what was recorded for them; the last gets the details.

        `sources`: what `Fingerprints.source_state` returns for the days.
        """
        common = (
            DONE,
            run_id,
            dict(input_versions),
            dict(output_versions),
            result.rows_in,
            result.rows_out,
            seconds,
        )
        details, now, last = json.dumps(result.details, default=str), self._time(), max(fingerprints)
        rows = [
            (step, day, fingerprint, *common, details if day == last else "{}", now, (sources or {}).get(day), None)
            for day, fingerprint in fingerprints.items()
        ]
        before = self._version
        self._tables.put_rows(INTERVALS.name, rows)
        if self._tables.version(INTERVALS.name) == before + 1:  # only this commit is new: its rows need not be read
            written = [_recorded(Row(*INTERVALS.names)(*row)) for row in rows]
            self._rows.update({(row.step, row.day): row for row in written})
            self._version = before + 1

    def _time(self) -> datetime:
        """A time after all recorded ones, and after tables were made anew, so that `seen` knows which came first."""
        identity = read_identity(self._tables.root)
        made = [known.made_at for known in identity.tables.values()] if identity else []
        recorded = [row.finished_at for row in self.recorded().values()]
        return time_after(datetime.fromtimestamp(seconds, UTC) for seconds in [*made, *recorded])

    def forget(self, step: str, days: Collection[date]) -> None:
        """Removes what is recorded for days of a step, because another run replaced part of what they made."""
        if days:
            self._tables.delete(INTERVALS.name, _rows_of(step, days))

    def adopt(self, fingerprints: Mapping[tuple[str, date], str]) -> None:
        """Gives rows other fingerprints, in one commit; what was made keeps its names."""
        if not fingerprints:
            return
        renamed = [(step, day, fingerprint) for (step, day), fingerprint in fingerprints.items()]
        renamed_df = F.broadcast(frame_of(self._spark, renamed, "step string, day date, new string"))
        steps = sorted({step for step, _ in fingerprints})
        rows = self._tables.read(INTERVALS.name).where(F.col("step").isin(steps))
        rows = rows.withColumns({name: F.lit(None) for name in INTERVALS.names if name not in rows.columns})
        was = F.when(F.col("new").isNotNull(), F.coalesce("made_as", "fingerprint")).otherwise(F.col("made_as"))
        rows = rows.join(renamed_df, on=["step", "day"], how="left").withColumns(
            {"made_as": was, "fingerprint": F.coalesce("new", "fingerprint")}
        )
        named = ", ".join(f"'{step}'" for step in steps)
        self._tables.overwrite_where(INTERVALS.name, rows, f"step IN ({named})")

    def mark_stale(self, rows: Iterable[tuple[str, date]]) -> None:
        """Marks rows of steps and days as stale, so that the same command, without other options, makes them again."""
        days: dict[str, list[date]] = defaultdict(list)
        for step, day in rows:
            days[step].append(day)
        if days:
            named = " OR ".join(f"({_rows_of(step, its)})" for step, its in days.items())
            self._tables.update(INTERVALS.name, named, {"status": f"'{STALE}'"})


def _recorded(row: Row) -> Recorded:
    return Recorded(
        row.step,
        row.day,
        row.fingerprint,
        row.run_id,
        row.rows_in,
        row.rows_out,
        row.seconds,
        json.loads(row.details),
        row.status == STALE,
        getattr(row, "source", None),  # older lakes lack the column until their next row
        getattr(row, "made_as", None),
        row.output_versions,
        row.finished_at.timestamp(),
    )


def _rows_of(step: str, days: Iterable[date]) -> str:
    return f"step = '{step}' AND ({days_predicate('day', days)})"
