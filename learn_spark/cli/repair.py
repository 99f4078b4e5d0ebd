"""The command that finds what is lost or damaged in a lake, and makes it again."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from pyspark.sql import functions as F

from learn_spark.cli.command import Call, Command, Outcome, Summary, with_config, with_plan
from learn_spark.cli.runs import steps_done
from learn_spark.errors import NOTHING_TO_DO, ConfigError
from learn_spark.features.mending import (
    Hurt,
    clear,
    days_hurt,
    find_hurt,
    mend_ledger,
    require_codebook,
    require_same,
    require_sources,
)
from learn_spark.lake.days import ONE_DAY, DayRange, spans
from learn_spark.lake.frames import only_row
from learn_spark.lake.lock import lake_lock
from learn_spark.lake.schemas import INTERVALS
from learn_spark.lake.tables import is_lake
from learn_spark.pipeline import STEPS, Days, as_plan, backfill_days, pipeline_days
from learn_spark.runs.plan import Plan, Standing
from learn_spark.runs.runner import RunOptions, run_plan
from learn_spark.runs.steps import Context, Step, StepDay


@dataclass(frozen=True)
class RepairSummary(Summary):
    """What was found, the days that are made again, and what the run did."""

    hurt: Sequence[str]
    plan: dict[str, list[str]]
    steps: dict[str, object] | None = None


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--deep", action="store_true", help="read every row of the tables, not footers alone")


def _repair(call: Call) -> Outcome:
    root = call.config.lake.root
    if not is_lake(root):
        raise ConfigError(f"there is no lake at {root}")
    with lake_lock(root), call.context(repairs=True) as context:
        hurt = find_hurt(context, call.args.deep)
        print(*(f"hurt: {line}" for line in hurt.lines()), sep="\n", end="\n" if hurt.lines() else "", flush=True)
        if hurt.has(INTERVALS.name):
            if call.args.dry_run:
                print("the ledger is hurt: which days have to be made again is known once it is repaired", flush=True)
                return Outcome(RepairSummary(hurt.lines(), {}))
            mend_ledger(context, hurt, call.args.deep)
        return _made_again(call, context, hurt)


def _made_again(call: Call, context: Context, hurt: Hurt) -> Outcome:
    require_codebook(context, hurt)
    days = days_hurt(context, hurt)
    if not call.args.restate:
        require_same(context, days)
    plan = _plan(context, hurt, days, call.args.restate)
    require_sources(context, days | _unrecorded(context, plan) if hurt.has(INTERVALS.name) else days)
    todo = _todo(plan, context, days)
    now = Standing.of(context)
    for step, its in todo:
        if own := [day for day in its if (step.name, day) not in days and now.lost((step.name, day))]:
            print(f"hurt: {step.name} of {spans(own)} has lost what it made", flush=True)
    listed = {step.name: [str(day) for day in its] for step, its in todo}
    print(*todo.lines({}), sep="\n", flush=True)
    if call.args.dry_run:
        return Outcome(RepairSummary(hurt.lines(), listed), 0 if hurt.lines() or listed else NOTHING_TO_DO)
    if not hurt.lines() and not listed:
        context.progress.say("nothing is lost or damaged")
        return Outcome(RepairSummary([], {}), NOTHING_TO_DO)
    clear(context, hurt, days)
    context.tables.create_all()
    plan.missing(Standing.of(context))
    report = run_plan(plan, context, RunOptions())
    return Outcome(RepairSummary(hurt.lines(), listed, steps_done(report, context)))


def _plan(context: Context, hurt: Hurt, days: set[StepDay], restate: bool) -> Plan:
    """All recorded days of this config (with `restate`: of any), and the days that a damaged ledger may have lost.

    The runner does only those of them that are missing.
    """
    now, asked = Standing.of(context), Days()
    for step in STEPS.values():
        pairs: list[StepDay] = [(step.name, day) for name, day in now.rows if name == step.name]
        asked[step.name] = [pair[1] for pair in pairs if restate or pair in days or not now.is_other(pair)]
    if hurt.has(INTERVALS.name):
        last = only_row(context.tables.read("interactions").agg(F.max("load_day")))[0]
        whole = [pipeline_days(context.config)]
        if last is not None:
            whole.append(backfill_days(context.config, DayRange(context.config.ingest.start, last + ONE_DAY)))
        for more in whole:
            for name, its in more.items():
                if _has_run(context, STEPS[name]):
                    asked[name].extend(its)
    return as_plan({step: sorted(set(its)) for step, its in asked.items()}, restate=restate)


def _has_run(context: Context, step: Step) -> bool:
    """Whether a step has left any results; asked when the ledger cannot tell."""
    if step.trains and step.lost:
        return not step.lost(context, [date.min])

    def is_filled(table: str) -> bool:
        return context.tables.exists(table) and context.tables.version(table) > 0

    return any(map(is_filled, step.writes)) if step.writes else all(map(is_filled, step.reads))


def _unrecorded(context: Context, plan: Plan) -> set[StepDay]:
    now = Standing.of(context)
    return {(step.name, day) for step, its in plan for day in its if (step.name, day) not in now.rows}


def _todo(plan: Plan, context: Context, days: set[StepDay]) -> Plan:
    """What the runner will do once `days` count as lost."""
    now = Standing.of(context)
    ours = Standing(now.config, now.fingerprint, now.rows, lambda pair: pair in days or now.lost(pair))
    return plan.missing(ours)


COMMANDS = (
    Command(
        "repair",
        "Finds lost and damaged files of tables, models, snapshots and matrix, and makes again what was in them.",
        (_arguments, with_plan, with_config),
        _repair,
    ),
)
