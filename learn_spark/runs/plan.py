"""A plan: steps with days. Only this module decides what of it is missing, refused or ready."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from typing import NamedTuple

from learn_spark.config.load import Config
from learn_spark.errors import ConfigError
from learn_spark.lake.days import spans
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.runs.ledger import Rows
from learn_spark.runs.steps import EVALUATE_FEATURES, Context, Step, StepDay, StepName


class Planned(NamedTuple):
    """A step and its days."""

    step: Step
    days: Sequence[date]


@dataclass(frozen=True)
class Standing:
    """The ledger's rows at one moment, and the fingerprints by which this code, config and input would make the days.

    `lost` says whether a recorded day's result no longer exists.
    """

    config: Config
    fingerprint: Fingerprints
    rows: Rows
    lost: Callable[[StepDay], bool] = lambda pair: False

    @classmethod
    def of(cls, context: Context) -> Standing:
        """The standing by the ledger as it is now; a step is asked what it has lost when that first matters."""
        rows, fingerprint = context.ledger.recorded(), context.fingerprint

        @cache
        def of_step(name: StepName) -> Collection[date]:
            look = fingerprint.steps[name].lost
            if look is None:
                return ()
            own = [(day, row) for (step, day), row in rows.items() if step == name and not row.is_stale]
            return look(context, [day for day, row in own if row.fingerprint == fingerprint(name, day)])

        return cls(context.config, fingerprint, rows, lambda pair: pair[1] in of_step(pair[0]))

    def is_other(self, pair: StepDay) -> bool:
        """Whether a day is recorded, but was made from other code, config or input than now."""
        return pair in self.rows and self.rows[pair].fingerprint != self.fingerprint(*pair)

    def is_open(self, pair: StepDay) -> bool:
        """Whether a day is not recorded, is stale, or has lost what it made."""
        return pair not in self.rows or self.rows[pair].is_stale or self.lost(pair)

    def lacking(self, step: Step, day: date, coming: Collection[StepDay] = ()) -> str | None:
        """Says which need of a day is neither done nor `coming`; None if all are."""
        for need in step.needs(self.config, day):
            if need in coming or not (self.is_open(need) or self.is_other(need)):
                continue
            state = "is not done"
            if need in self.rows:
                if self.rows[need].is_stale:
                    state = "late events made stale"
                elif self.is_other(need):
                    state = "was made from other code, config or input"
                else:
                    state = "has lost what it made (`learn-spark repair` makes it again)"
            return f"{step.name} of {day} needs {need[0]} of {need[1]}, which {state}: run it first"
        return None


class Piece(NamedTuple):
    """Days of a step that run at once, and why others cannot."""

    ready: list[date]
    blocked: dict[date, str]


@dataclass(frozen=True)
class Plan:
    """Steps in the DAG's order with the days that are asked of them.

    `--dry-run` prints `missing`, the runner does `due` step by step: the same decision, taken anew before each step,
    since late events may have made more days stale on the way.

    Attributes:
        steps: each with its days.
        restate: make anew what other code, config or input made; without it such a day is an error.
        follow_late: add the steps' earlier days that late events made stale, or whose result is lost, as later days are
            made from them.
    """

    steps: Sequence[Planned]
    restate: bool = False
    follow_late: bool = False

    def __iter__(self) -> Iterator[Planned]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def has(self, name: StepName) -> bool:
        """Whether the step is in the plan."""
        return any(step.name == name for step, _ in self)

    def missing(self, now: Standing) -> Plan:
        """The part that the ledger does not have, or has as stale.

        Raises:
            ConfigError: as for `due`; or a day needs another one that is neither done nor in the plan.
        """
        todo: list[Planned] = []
        coming: set[StepDay] = set()
        for planned in self:
            step, days = planned.step, self.due(planned, now)
            coming.update((step.name, day) for day in days)
            for day in days:
                if lacking := now.lacking(step, day, coming):
                    raise ConfigError(lacking)
            if days:
                todo.append(Planned(step, days))
        return replace(self, steps=todo)

    def due(self, planned: Planned, now: Standing) -> list[date]:
        """The days of a step that are not recorded, stale, lost, or to be restated.

        Raises:
            ConfigError: a day was made from other code, config or input, and `restate` is off.
        """
        step, days = planned.step, list(planned.days)
        if self.follow_late:
            late = [day for name, day in now.rows if name == step.name and day < max(days)]
            days = sorted({*days, *(day for day in late if now.is_open((step.name, day)))})
        other = {day for day in days if now.is_other((step.name, day))}
        if other and not self.restate:
            raise ConfigError(
                f"{step.name} of {spans(other)} was made from other code, config or input than now;"
                f" add --restate to make it anew, or use another lake.root;"
                f" after an upgrade `learn-spark adopt` takes over what holds"
            )
        return [day for day in days if day in other or now.is_open((step.name, day))]

    @staticmethod
    def piece(step: Step, days: Sequence[date], now: Standing) -> Piece:
        """Which of some due days can run now: a day may need earlier days of the same piece."""
        found = Piece([], {})
        for day in days:
            lacking = now.lacking(step, day, {(step.name, ready) for ready in found.ready})
            if lacking:
                found.blocked[day] = lacking
            else:
                found.ready.append(day)
        return found

    def lines(self, expected: Mapping[str, int | None]) -> list[str]:
        """The plan in words: days, tables and, where known, the rows that each step will write."""
        lines = ["plan (what the ledger does not have):"] if self.steps else ["plan: nothing is missing"]
        for number, (step, days) in enumerate(self, start=1):
            rows = expected.get(step.name)
            size = f"about {rows:,} rows " if rows is not None else ""
            result = "report and summary" if step.name == EVALUATE_FEATURES else "a model"
            lines.append(f"  {number}. {step.name:<18} {len(days):4d} days  {spans(days)}")
            lines.append(f"     {size}-> {', '.join(step.writes) or result}")
        return lines
