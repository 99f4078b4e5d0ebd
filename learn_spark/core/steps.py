"""Running steps by the ledger: what is missing, what is stale, what it was made from, under one lock."""

import fcntl
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pyspark.sql import SparkSession

from learn_spark import __version__
from learn_spark.core.config import Config
from learn_spark.core.days import spans
from learn_spark.core.errors import ConfigError, TemporaryError
from learn_spark.core.ledger import Ledger, Recorded, StepResult, fingerprint
from learn_spark.core.progress import Progress
from learn_spark.core.tables import Tables

# Settings that change where or how fast a step runs, never what it makes.
_NOT_IDENTITY = {
    "ingest": {"path", "max_reject_share", "max_bad_files"},
    "embedding": {"threads", "workers", "device", "batch_tokens"},
    "towers": {"train": {"threads"}},
    "cvr": {"train": {"threads"}},
    "stream": {"verify_sha256"},
    "features": {"batch_rows"},
    "evaluation": {"threads"},
}


@dataclass(frozen=True)
class Step:
    """A job's work as the ledger sees it.

    Attributes:
        name: the job.
        run: does the given days at once and says what it did.
        sections: config sections that its result depends on.
        needs: the (step, day) pairs that a day is made from.
        reads: tables whose versions are recorded as inputs.
        source: identity of a day's input from outside the lake, if any.
    """

    name: str
    run: Callable[["Context", Sequence[date]], StepResult]
    sections: tuple[str, ...]
    needs: Callable[[Config, date], Iterable[tuple[str, date]]]
    reads: tuple[str, ...] = ()
    source: Callable[[Config, date], object] | None = None


Plan = list[tuple[Step, list[date]]]


class Marks:
    """Expected fingerprints: code version, config sections, outside input, and the marks of a day's needs."""

    def __init__(self, config: Config, steps: Mapping[str, Step]) -> None:
        self._config = config
        self._steps = steps
        self._known: dict[tuple[str, date], str] = {}
        self._sections: dict[str, object] = {}

    def __call__(self, name: str, day: date) -> str:
        if (name, day) not in self._known:
            step = self._steps[name]
            source = step.source(self._config, day) if step.source else None
            upstream = [self(*need) for need in step.needs(self._config, day)]
            sections = {section: self._section(section) for section in step.sections}
            self._known[name, day] = fingerprint(__version__, name, day, sections, source, upstream)
        return self._known[name, day]

    def _section(self, name: str) -> object:
        if name not in self._sections:
            section = getattr(self._config, name)
            self._sections[name] = section.model_dump(mode="json", exclude=_NOT_IDENTITY.get(name))
        return self._sections[name]


@dataclass(frozen=True)
class Context:
    """What a step works with; `mark` names what it makes and finds what it needs."""

    config: Config
    spark: SparkSession
    tables: Tables
    ledger: Ledger
    mark: Marks
    progress: Progress


def missing(
    plan: Plan,
    config: Config,
    mark: Marks,
    recorded: Mapping[tuple[str, date], Recorded],
    restate: bool = False,
) -> Plan:
    """The part of a plan that the ledger does not have.

    Raises:
        ConfigError: where a day was done from other code, config or input and `restate` is off, or where it
            needs what is neither done nor in the plan.
    """
    todo: Plan = []
    planned: set[tuple[str, date]] = set()
    for step, days in plan:
        stale = [d for d in days if _is_stale(recorded.get((step.name, d)), mark(step.name, d))]
        if stale and not restate:
            raise ConfigError(
                f"{step.name} of {spans(stale)} was made from other code, config or input than now;"
                f" add --restate to make it anew, or use another lake.root"
            )
        wanted = [d for d in days if (step.name, d) not in recorded or d in set(stale)]
        planned.update((step.name, d) for d in wanted)
        for day in wanted:
            _check_needs(step, day, config, mark, recorded, planned)
        if wanted:
            todo.append((step, wanted))
    return todo


def _is_stale(row: Recorded | None, mark: str) -> bool:
    return row is not None and row.fingerprint != mark


def _check_needs(
    step: Step,
    day: date,
    config: Config,
    mark: Marks,
    recorded: Mapping[tuple[str, date], Recorded],
    planned: set[tuple[str, date]],
) -> None:
    for need in step.needs(config, day):
        row = recorded.get(need)
        if need not in planned and (row is None or _is_stale(row, mark(*need))):
            state = "is not done" if row is None else "was made from other code, config or input"
            raise ConfigError(f"{step.name} of {day} needs {need[0]} of {need[1]}, which {state}: run it first")


def run_plan(todo: Plan, context: Context) -> str:
    """Runs the steps in order, each recorded when done; returns the run id."""
    run_id = uuid.uuid4().hex[:12]
    for number, (step, days) in enumerate(todo, start=1):
        context.progress.begin(f"[{number}/{len(todo)}] {step.name}", spans(days))
        started = time.monotonic()
        input_versions = context.tables.versions(step.reads)
        result = step.run(context, days)
        seconds = round(time.monotonic() - started, 2)
        marks = {day: context.mark(step.name, day) for day in days}
        context.ledger.record(step.name, marks, run_id, result, input_versions, seconds)
        context.progress.end(f"{result.rows_in:,} rows in, {result.rows_out:,} out, {seconds:.1f} s")
    return run_id


@contextmanager
def lake_lock(root: Path) -> Iterator[None]:
    """One driver at a time on a lake: local file systems have no safe concurrent Delta commit.

    Raises:
        TemporaryError: if another driver holds it; the lock ends with the process that holds it.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = (root / ".lock").open("a+")
    except OSError as error:
        raise ConfigError(f"lake.root {root} cannot be written: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TemporaryError(f"another run works on the lake {root}; try again when it has ended") from None
        yield
