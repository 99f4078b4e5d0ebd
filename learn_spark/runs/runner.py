"""Running a plan: step by step, in runs of days, each recorded when done, under one lock a lake."""

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import count
from threading import Event

from learn_spark.errors import ConfigError, LearnError
from learn_spark.lake.days import spans
from learn_spark.runs.plan import Plan, unmet_need, wanted_days, with_stale_days
from learn_spark.runs.steps import Context, Step


@dataclass(frozen=True)
class RunOptions:
    """How a plan is run.

    Attributes:
        restate: make anew what other code, config or input made.
        step_days: days of a step at once; None for all.
        max_parallel: runs of a step at once, where it allows that.
        keep_going: after a failure do what does not need the failed days.
        follow_late: do earlier days that late events made stale as well.
    """

    restate: bool = False
    step_days: int | None = None
    max_parallel: int = 1
    keep_going: bool = False
    follow_late: bool = False


@dataclass(frozen=True)
class Failure:
    """Days of a step that failed, or were left out because what they need failed."""

    step: str
    days: list[date]
    error: LearnError

    def __str__(self) -> str:
        return f"{self.step} of {spans(self.days)}: {self.error}"


@dataclass(frozen=True)
class RunReport:
    """A run: its id, what it did, and what failed (only with `keep_going`)."""

    run_id: str
    done: Plan
    failures: list[Failure]


def run_plan(plan: Plan, context: Context, options: RunOptions) -> RunReport:
    """Runs the steps in order. What is missing is asked anew before each: late events may have made days stale.

    Raises:
        LearnError: what a step raises, unless `keep_going`.
    """
    report = RunReport(uuid.uuid4().hex[:12], [], [])
    for number, (step, asked) in enumerate(plan, start=1):
        days = _days_now(step, asked, context, options)
        size = options.step_days or max(len(days), 1)
        chunks = [days[start : start + size] for start in range(0, len(days), size)]
        label = f"[{number}/{len(plan)}] {step.name}"
        failures = _run_chunks(step, chunks, label, report.run_id, context, options)
        report.failures.extend(failures)
        failed = {day for failure in failures for day in failure.days}
        report.done.append((step, [day for day in days if day not in failed]))
    return report


def _days_now(step: Step, asked: Sequence[date], context: Context, options: RunOptions) -> list[date]:
    recorded = context.ledger.recorded()
    if options.follow_late:
        ((_, asked),) = with_stale_days([(step, list(asked))], recorded)
    return wanted_days(step, asked, context.mark, recorded, options.restate)


def _run_chunks(
    step: Step, chunks: list[list[date]], label: str, run_id: str, context: Context, options: RunOptions
) -> list[Failure]:
    """Runs pieces of a step, overlapping where it allows that; unless `keep_going`, the first failure ends it."""
    stopped = Event()

    def run(number: int, chunk: list[date]) -> Failure | None:
        failure = None if stopped.is_set() else _run_chunk(step, chunk, label, f"{run_id}.{number}", context)
        if failure and not options.keep_going:
            stopped.set()
        return failure

    with ThreadPoolExecutor(max_workers=options.max_parallel if step.overlaps else 1) as pool:
        failures = [failure for failure in pool.map(run, count(1), chunks) if failure]
    if failures and not options.keep_going:
        raise failures[0].error
    return failures


def _run_chunk(step: Step, days: list[date], label: str, run_id: str, context: Context) -> Failure | None:
    """Does those of the days whose needs are there; says which failed."""
    recorded = context.ledger.recorded()
    ready: list[date] = []
    blocked: dict[date, str] = {}
    for day in days:
        lacking = unmet_need(step, day, context.config, context.mark, recorded, {(step.name, d) for d in ready})
        if lacking:
            blocked[day] = lacking
        else:
            ready.append(day)
    try:
        if ready:
            _run_days(step, ready, label, run_id, context)
    except LearnError as error:
        return Failure(step.name, days, error)
    return Failure(step.name, list(blocked), ConfigError(next(iter(blocked.values())))) if blocked else None


def _run_days(step: Step, days: list[date], label: str, run_id: str, context: Context) -> None:
    context.progress.begin(label, spans(days))
    started = time.monotonic()
    input_versions = context.tables.versions(step.reads)
    result = step.run(context, days)
    seconds = round(time.monotonic() - started, 2)
    marks = {day: context.mark(step.name, day) for day in days}
    sources = {day: context.mark.source_state(step, day) for day in days}
    with context.publishing:
        written = context.tables.versions(step.writes)
        context.ledger.record(step.name, marks, run_id, result, input_versions, written, seconds, sources)
    context.progress.end(f"{result.rows_in:,} rows in, {result.rows_out:,} out, {seconds:.1f} s")
