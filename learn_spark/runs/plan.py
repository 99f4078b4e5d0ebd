"""Which days of a plan are missing, stale or refused."""

from collections.abc import Iterable
from datetime import date

from learn_spark.config.load import Config
from learn_spark.errors import ConfigError
from learn_spark.lake.days import spans
from learn_spark.runs.fingerprints import Marks
from learn_spark.runs.ledger import Recorded, Rows
from learn_spark.runs.steps import Step

Plan = list[tuple[Step, list[date]]]


def missing(plan: Plan, config: Config, mark: Marks, recorded: Rows, restate: bool = False) -> Plan:
    """The part of a plan that the ledger does not have, or has as stale.

    Raises:
        ConfigError: where a day was done from other code, config or input and `restate` is off, or where it
            needs what is neither done nor in the plan.
    """
    todo: Plan = []
    planned: set[tuple[str, date]] = set()
    for step, days in plan:
        wanted = wanted_days(step, days, mark, recorded, restate)
        planned.update((step.name, d) for d in wanted)
        lacking = [need for day in wanted if (need := unmet_need(step, day, config, mark, recorded, planned))]
        if lacking:
            raise ConfigError(lacking[0])
        if wanted:
            todo.append((step, wanted))
    return todo


def wanted_days(step: Step, days: Iterable[date], mark: Marks, recorded: Rows, restate: bool) -> list[date]:
    """Those days that are not recorded, stale, or to be restated.

    Raises:
        ConfigError: where a day was done from other code, config or input and `restate` is off.
    """
    days = list(days)
    rows = {day: recorded.get((step.name, day)) for day in days}
    other = [day for day in days if _is_other(rows[day], mark(step.name, day))]
    if other and not restate:
        raise ConfigError(
            f"{step.name} of {spans(other)} was made from other code, config or input than now;"
            f" add --restate to make it anew, or use another lake.root;"
            f" after an upgrade `learn-spark adopt` takes over what holds"
        )
    return [day for day in days if rows[day] is None or rows[day].is_stale or day in set(other)]


def with_stale_days(plan: Plan, recorded: Rows) -> Plan:
    """The plan with earlier days of its steps that late events made stale: later days are made from them."""
    stale = [(name, day) for (name, day), row in recorded.items() if row.is_stale]
    return [
        (step, sorted({*days, *(day for name, day in stale if name == step.name and day < max(days))}))
        for step, days in plan
    ]


def unmet_need(
    step: Step,
    day: date,
    config: Config,
    mark: Marks,
    recorded: Rows,
    planned: Iterable[tuple[str, date]] = (),
) -> str | None:
    """Says what a day needs and neither the ledger nor the plan has; None where all is there."""
    for need in step.needs(config, day):
        row = recorded.get(need)
        if need in planned or (row is not None and not row.is_stale and not _is_other(row, mark(*need))):
            continue
        state = "is not done"
        if row is not None:
            state = "late events made stale" if row.is_stale else "was made from other code, config or input"
        return f"{step.name} of {day} needs {need[0]} of {need[1]}, which {state}: run it first"
    return None


def _is_other(row: Recorded | None, mark: str) -> bool:
    return row is not None and row.fingerprint != mark
