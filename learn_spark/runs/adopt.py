"""Adoption: recorded days get today's fingerprints if only the way of describing code and config has changed.

A day is still valid if an earlier scheme, applied to the present config and input, gives the fingerprint that the
ledger has. What was made keeps its names: the ledger says under which fingerprint it was made. So an adoption is one
commit to one table.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date

from learn_spark.config.load import Config
from learn_spark.errors import ConfigError
from learn_spark.lake.days import spans
from learn_spark.runs.earlier import EARLIER
from learn_spark.runs.fingerprints import VERSIONS, Fingerprints, Scheme, settings_of
from learn_spark.runs.ledger import Rows
from learn_spark.runs.steps import Step

Day = tuple[str, date]


@dataclass
class Adoption:
    """What an adoption does with the ledger's rows.

    Attributes:
        current: rows that need no adoption.
        adopted: rows that are adopted, with their fingerprints from now on.
        refused: rows that are not, with the reasons.
    """

    current: list[Day] = field(default_factory=list)
    adopted: dict[Day, str] = field(default_factory=dict)
    refused: dict[Day, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A line per step and outcome."""
        told = [f"current  {part}" for part in _by_step(self.current)]
        told += [f"adopted  {part}" for part in _by_step(self.adopted)]
        for reason in dict.fromkeys(self.refused.values()):
            told += [
                f"refused  {part}: {reason}" for part in _by_step(d for d, r in self.refused.items() if r == reason)
            ]
        return told


def plan_adoption(
    config: Config, steps: Mapping[str, Step], fingerprints: Fingerprints, rows: Rows, accepted: Collection[str] = ()
) -> Adoption:
    """Decides on every recorded day, after the days that it is made from.

    Args:
        config: what the days should have been made with.
        steps: by name, in the DAG's order.
        fingerprints: today's.
        rows: the ledger's.
        accepted: steps whose recorded days are valid, whatever config, input or version they were made with.

    Raises:
        ConfigError: there is an unknown step among `accepted`.
    """
    unknown = sorted(set(accepted) - steps.keys())
    if unknown:
        raise ConfigError(f"--accept names {', '.join(unknown)}; there are {', '.join(steps)}")

    def given(need: Day) -> str | None:
        """The recorded fingerprint of a day that another one needs; None if it is today's: then the scheme gives it."""
        row = rows.get(need)
        return row.fingerprint if row is not None and row.fingerprint != fingerprints(*need) else None

    older = range(1, max(step.version for step in steps.values()))
    schemes = [VERSIONS, *EARLIER, *(Scheme(lambda step, n=n: n, settings_of, n) for n in older)]
    formulas = [(Fingerprints(config, steps, lambda: rows, scheme, given), scheme.version) for scheme in schemes]

    def made_by(day: Day) -> set[int | None]:
        """The versions whose formula gives the fingerprint that the ledger has; None stands for the present ones."""
        return {version for formula, version in formulas if formula(*day) == rows[day].fingerprint}

    reasons = {name: _reason(step, rows, fingerprints) for name, step in steps.items()}
    plan = Adoption()
    plan.refused |= {day: "there is no such step" for day in rows if day[0] not in steps}
    for day in _in_order(rows, steps):
        fingerprint, row = fingerprints(*day), rows[day]
        lacking = next((need[0] for need in steps[day[0]].needs(config, day[1]) if need in plan.refused), None)
        if row.fingerprint == fingerprint:
            plan.current.append(day)
        elif lacking:
            plan.refused[day] = f"made from days of {lacking} that are refused"
        elif day[0] in accepted or made_by(day) & {None, steps[day[0]].version}:
            plan.adopted[day] = fingerprint
        elif made_by(day):
            newest = max(version or 0 for version in made_by(day))
            plan.refused[day] = f"made by version {newest} of the step, which is {steps[day[0]].version} now"
        else:
            plan.refused[day] = reasons[day[0]]
    return plan


def _in_order(rows: Rows, steps: Mapping[str, Step]) -> list[Day]:
    order = list(steps)
    return sorted((day for day in rows if day[0] in steps), key=lambda day: (order.index(day[0]), day[1]))


def _reason(step: Step, rows: Rows, fingerprints: Fingerprints) -> str:
    """Why days of a step are refused, told for all of them together: a day depends on the days before it."""
    own = [row for row in rows.values() if row.step == step.name] if step.source else []
    changed = [row.day for row in own if fingerprints.source_state(step, row.day) != row.source]
    if changed:
        return (
            f"raw files have other names, sizes or times than when they were read ({len(changed)} days, {changed[0]} …)"
        )
    return f"made with other settings ({', '.join(step.sections)}) or by other code"


def _by_step(days: Iterable[Day]) -> list[str]:
    found: dict[str, list[date]] = {}
    for step, day in days:
        found.setdefault(step, []).append(day)
    return [f"{step}: {len(its)} days, {spans(its)}" for step, its in found.items()]
