"""Runs a plan: step by step, in pieces of days, each recorded when it is done, under one lock per lake."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import date
from threading import Event

from learn_spark.errors import ConfigError, LearnError
from learn_spark.lake.days import spans
from learn_spark.runs.plan import Plan, Planned, Standing
from learn_spark.runs.steps import Context, Step

_CANCEL_SECONDS = 0.2  # between two attempts to cancel other threads' jobs


@dataclass(frozen=True)
class RunOptions:
    """How a plan is run.

    Attributes:
        step_days: how many days of a step are one piece; None for all.
        max_parallel: how many pieces of a step run at the same time, if the step allows that.
        keep_going: after a failure, do what does not need the failed days.
    """

    step_days: int | None = None
    max_parallel: int = 1
    keep_going: bool = False


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
    done: list[Planned]
    failures: list[Failure]


@dataclass(frozen=True)
class _Chunk:
    """Days of a step that are to run at once; their fingerprints are those from before the work."""

    step: Step
    fingerprints: Mapping[date, str]
    label: str
    run_id: str


def run_plan(plan: Plan, context: Context, options: RunOptions) -> RunReport:
    """Runs the steps in order. What is missing is decided anew before each, since late events may make days stale.

    Raises:
        LearnError: what a step's check raises, before any work; what a step raises, unless `keep_going`.
    """
    now = Standing.of(context)
    for planned in plan:
        if planned.step.check and plan.due(planned, now):
            planned.step.check(context.config)
    report = RunReport(uuid.uuid4().hex[:12], [], [])
    for number, planned in enumerate(plan, start=1):
        step, days = planned.step, plan.due(planned, Standing.of(context))
        size = options.step_days or max(len(days), 1)
        parts = [days[start : start + size] for start in range(0, len(days), size)]
        label = f"[{number}/{len(plan)}] {step.name}"
        chunks = [
            _Chunk(step, {day: context.fingerprint(step.name, day) for day in part}, label, f"{report.run_id}.{piece}")
            for piece, part in enumerate(parts, start=1)
        ]
        failures = _run_chunks(chunks, context, options)
        report.failures.extend(failures)
        failed = {day for failure in failures for day in failure.days}
        report.done.append(Planned(step, [day for day in days if day not in failed]))
    return report


def _run_chunks(chunks: list[_Chunk], context: Context, options: RunOptions) -> list[Failure]:
    """Runs pieces of a step, overlapping if the step allows that; unless `keep_going`, the first failure ends it."""
    stopped = Event()

    def run(chunk: _Chunk) -> Failure | None:
        failure = None if stopped.is_set() else _run_chunk(chunk, context)
        if failure and not options.keep_going:
            stopped.set()
        return failure

    may_overlap = options.max_parallel > 1 and len(chunks) > 1 and all(chunk.step.overlaps for chunk in chunks)
    found = _in_threads(run, chunks, context, options, stopped) if may_overlap else map(run, chunks)
    failures = [failure for failure in found if failure]
    if failures and not options.keep_going:
        raise failures[0].error
    return failures


def _in_threads(
    run: Callable[[_Chunk], Failure | None],
    chunks: list[_Chunk],
    context: Context,
    options: RunOptions,
    stopped: Event,
) -> list[Failure | None]:
    """Runs pieces side by side; if the main thread is interrupted, cancels all Spark jobs, so that the others end.

    A thread may be between two jobs when jobs are cancelled, so that is repeated until no thread is left.
    """
    with ThreadPoolExecutor(max_workers=options.max_parallel) as pool:
        futures = [pool.submit(run, chunk) for chunk in chunks]
        try:
            return [future.result() for future in futures]
        except BaseException as error:
            stopped.set()
            while not isinstance(error, Exception) and wait(futures, timeout=_CANCEL_SECONDS).not_done:
                context.spark.sparkContext.cancelAllJobs()
            raise


def _run_chunk(chunk: _Chunk, context: Context) -> Failure | None:
    """Does those days whose needs are done; returns the days that failed or cannot run."""
    step, days = chunk.step, list(chunk.fingerprints)
    piece = Plan.piece(step, days, Standing.of(context))
    try:
        _take_back_other(step, piece.ready, context)
        if piece.ready:
            _run_days(chunk, piece.ready, context)
    except LearnError as error:
        return Failure(step.name, days, error)
    except Exception as error:
        error.add_note(f"{step.name} of {spans(piece.ready)}")
        raise
    if piece.blocked:
        return Failure(step.name, list(piece.blocked), ConfigError(next(iter(piece.blocked.values()))))
    return None


def _take_back_other(step: Step, days: Sequence[date], context: Context) -> None:
    """Marks those days as stale that other code, config or input made, before the step replaces their rows.

    So a restatement that is killed leaves no day that counts as done for the former config.
    """
    with context.publishing:
        now = Standing.of(context)
        other = [day for day in days if now.is_other((step.name, day)) and not now.rows[step.name, day].is_stale]
        if step.writes:
            context.invalidate(step.name, other, scope="own")


def _run_days(chunk: _Chunk, days: list[date], context: Context) -> None:
    step = chunk.step
    context.progress.begin(chunk.label, spans(days))
    started = time.monotonic()
    input_versions = context.tables.versions(step.reads)
    result = step.run(context, days)
    context.tables.artifacts.publish()
    seconds = round(time.monotonic() - started, 2)
    fingerprints = {day: chunk.fingerprints[day] for day in days}
    sources = {day: context.fingerprint.source_state(step, day) for day in days}
    with context.publishing:
        written = context.tables.versions(step.writes)
        context.ledger.record(step.name, fingerprints, chunk.run_id, result, input_versions, written, seconds, sources)
    context.progress.end(f"{result.rows_in:,} rows in, {result.rows_out:,} out, {seconds:.1f} s")
