"""What a step is and what it was made from; which days of a plan are missing, stale or refused."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from threading import RLock
from typing import Protocol

from pyspark.sql import SparkSession

from learn_spark import __version__
from learn_spark.core.config import Config
from learn_spark.core.days import spans
from learn_spark.core.errors import ConfigError
from learn_spark.core.ledger import Ledger, Recorded, StepResult, fingerprint
from learn_spark.core.progress import Progress
from learn_spark.core.tables import Tables
from models.settings import NOT_LEARNED

# Settings that change where or how fast a step runs, never what it makes.
NOT_IDENTITY = {
    "ingest": dict.fromkeys(["path", "max_reject_share", "max_bad_files", "empty_day", "min_day_share"], True)
    | {"items": {"path"}},
    "embedding": {
        *("threads", "workers", "device", "batch_tokens", "gpu_per_task", "bucket_texts"),
        *("max_bad_share", "max_duplicate_share", "min_effective_rank", "min_neighbour_overlap"),
    },
    "towers": {"train": NOT_LEARNED},
    "cvr": {"train": NOT_LEARNED},
    "stream": {"verify_sha256"},
    "features": {
        *("batch_rows", "max_age_days", "keep_releases", "vacuum_hours"),
        *("min_users", "min_content_coverage", "min_effective_rank", "max_mean_cosine", "min_row_share"),
        *("min_remade_share", "min_pair_auc", "max_centroid_shift", "min_neighbour_overlap", "min_model_overlap"),
    },
    "evaluation": {"threads"},
}


def identity(section: str, settings: Mapping[str, object]) -> dict[str, object]:
    """A config section's settings, as plain values, without those that never change what is made."""
    return _without(settings, NOT_IDENTITY.get(section, {}))


def _without(settings: Mapping[str, object], names: Collection[str] | Mapping[str, object]) -> dict[str, object]:
    inner = names if isinstance(names, Mapping) else dict.fromkeys(names, True)
    return {
        name: _without(value, inner[name]) if name in inner and isinstance(value, Mapping) else value
        for name, value in settings.items()
        if inner.get(name) is not True
    }


class Source(Protocol):
    """Input from outside the lake, as it is now."""

    def state(self, day: date) -> str:
        """What the ledger keeps of the input that is this day's own."""
        ...

    def identity(self, day: date) -> object:
        """All input that the day is made from; JSON values."""
        ...


@dataclass(frozen=True)
class Step:
    """A job's work as the ledger sees it.

    Attributes:
        name: the job.
        run: does the given days at once and says what it did.
        sections: config sections that its result depends on.
        needs: the (step, day) pairs that a day is made from.
        reads, writes: tables whose versions are recorded.
        source: looks at the input from outside the lake, if any; told what the ledger keeps of it by day.
        trains: it makes a model, which late events do not make stale.
        overlaps: runs over different days may overlap.
    """

    name: str
    run: Callable[["Context", Sequence[date]], StepResult]
    sections: tuple[str, ...]
    needs: Callable[[Config, date], Iterable[tuple[str, date]]]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    source: Callable[[Config, Mapping[date, str | None]], Source] | None = None
    trains: bool = False
    overlaps: bool = False


Plan = list[tuple[Step, list[date]]]
Rows = Mapping[tuple[str, date], Recorded]


class Marks:
    """Expected fingerprints: code version, config sections, outside input, and the marks of a day's needs.

    Args:
        config: the run's.
        steps: by name.
        recorded: the ledger's rows, for outside input that is gone; asked once.
    """

    def __init__(self, config: Config, steps: Mapping[str, Step], recorded: Callable[[], Rows] = dict) -> None:
        self._config = config
        self._steps = steps
        self._recorded = recorded
        self._known: dict[tuple[str, date], str] = {}
        self._sections: dict[str, object] = {}
        self._sources: dict[str, Source] = {}

    def __call__(self, name: str, day: date) -> str:
        if (name, day) not in self._known:
            step = self._steps[name]
            source = self._source(step).identity(day) if step.source else None
            upstream = [self(*need) for need in step.needs(self._config, day)]
            sections = {section: self._section(section) for section in step.sections}
            self._known[name, day] = fingerprint(__version__, name, day, sections, source, upstream)
        return self._known[name, day]

    def touched_by(
        self, changed: Iterable[tuple[str, date]], rows: Iterable[tuple[str, date]]
    ) -> list[tuple[str, date]]:
        """Those of `rows` that were made from `changed`, directly or not; models, and what only they use, are not."""
        reached = dict.fromkeys(changed, True)

        def reaches(pair: tuple[str, date]) -> bool:
            if pair not in reached:
                step = self._steps[pair[0]]
                needs = () if step.trains else step.needs(self._config, pair[1])
                reached[pair] = any(reaches(need) for need in needs)
            return reached[pair]

        start = set(reached)
        return [pair for pair in sorted(rows) if pair not in start and reaches(pair)]

    def source_state(self, step: Step, day: date) -> str | None:
        """What the ledger keeps of the outside input of a step's day."""
        return self._source(step).state(day) if step.source else None

    def _source(self, step: Step) -> Source:
        if step.name not in self._sources:
            known = {day: row.source for (name, day), row in self._recorded().items() if name == step.name}
            self._sources[step.name] = step.source(self._config, known)
        return self._sources[step.name]

    def _section(self, name: str) -> object:
        if name not in self._sections:
            self._sections[name] = identity(name, getattr(self._config, name).model_dump(mode="json"))
        return self._sections[name]


@dataclass(frozen=True)
class Context:
    """What a step works with; `mark` names what it makes and finds what it needs.

    `publishing` is held by whoever writes, where runs overlap.
    """

    config: Config
    spark: SparkSession
    tables: Tables
    ledger: Ledger
    mark: Marks
    progress: Progress
    publishing: RLock = field(default_factory=RLock)

    def touch(self, step: str, days: Iterable[date]) -> None:
        """Marks stale what was made from these days of a step, whose rows are about to change.

        Before they change: whenever the run is killed, its next try finds the marks or sets them.
        """
        days = list(days)
        rows = self.mark.touched_by([(step, day) for day in days], self.ledger.recorded()) if days else []
        if rows:
            self.ledger.mark_stale(rows)
            self.progress.say(f"late events of {spans(days)} make {len(rows)} recorded days of steps stale")


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
            f" add --restate to make it anew, or use another lake.root"
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
