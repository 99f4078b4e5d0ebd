"""What a step is, and what it works with."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from threading import RLock
from typing import TYPE_CHECKING, Final, Literal, Protocol

from pyspark.sql import SparkSession

from learn_spark.config.load import Config
from learn_spark.lake.days import spans
from learn_spark.lake.tables import Tables
from learn_spark.runs.ledger import Ledger, StepResult
from learn_spark.runs.progress import Progress

if TYPE_CHECKING:
    from learn_spark.runs.fingerprints import Fingerprints

INGEST_EVENTS: Final = "ingest_events"
BUILD_SEQUENCES: Final = "build_sequences"
EMBED_ITEMS: Final = "embed_items"
TRAIN_TOWERS: Final = "train_towers"
TRAIN_CVR: Final = "train_cvr"
WRITE_FEATURES: Final = "write_features"
EVALUATE_FEATURES: Final = "evaluate_features"
StepName = Literal[
    "ingest_events",
    "build_sequences",
    "embed_items",
    "train_towers",
    "train_cvr",
    "write_features",
    "evaluate_features",
]
StepDay = tuple[StepName, date]
Scope = Literal["downstream", "own", "forgotten"]


def towers_day(config: Config) -> StepDay:
    """The step and day whose ledger row stands for the towers."""
    return TRAIN_TOWERS, config.windows.towers_end


def cvr_day(config: Config) -> StepDay:
    """The step and day whose ledger row stands for the conversion model."""
    return TRAIN_CVR, config.windows.cvr_end


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
    """One stage of the pipeline, as the ledger sees it.

    Attributes:
        name: also the name of its command and job file.
        run: does the given days at once and returns what it did.
        sections: config sections that its result depends on.
        needs: the steps and days that a day is made from.
        named: settings elsewhere in the config that those sections name; empty if they name none.
        reads, writes: tables whose versions are recorded.
        version: of its code, and of the commands of `models` that it runs: raise it when rows would differ.
        source: makes a view of the input from outside the lake, if any, from what the ledger keeps of it per day.
        check: raises, before any work of a run, if something that the step will need is missing.
        lost: those of recorded days whose result no longer exists, whatever the ledger says.
        trains: it makes a model; late events do not make models stale.
        overlaps: runs over different days may overlap.
    """

    name: StepName
    run: Callable[["Context", Sequence[date]], StepResult]
    sections: tuple[str, ...]
    needs: Callable[[Config, date], Iterable[StepDay]]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    version: int = 1
    named: Callable[[Config], Mapping[str, object]] | None = None
    source: Callable[[Config, Mapping[date, str | None]], Source] | None = None
    check: Callable[[Config], None] | None = None
    lost: Callable[["Context", Collection[date]], Collection[date]] | None = None
    trains: bool = False
    overlaps: bool = False


@dataclass(frozen=True)
class Context:
    """What a step works with.

    Attributes:
        fingerprint: gives the fingerprint of a step's day; it names what the step makes and finds what it needs.
        publishing: the lock that a run holds while it writes, since runs may overlap.
    """

    config: Config
    spark: SparkSession
    tables: Tables
    ledger: Ledger
    fingerprint: "Fingerprints"
    progress: Progress
    publishing: RLock = field(default_factory=RLock)

    def made_as(self, step: StepName, day: date) -> str:
        """The fingerprint in the names of what a step makes for a day: the expected one, or an adopted day's own."""
        fingerprint, row = self.fingerprint(step, day), self.ledger.recorded().get((step, day))
        return (
            row.made_as if row and row.made_as and row.fingerprint == fingerprint and not row.is_stale else fingerprint
        )

    def invalidate(self, step: StepName, days: Iterable[date], scope: Scope = "downstream") -> None:
        """Takes back what the ledger says is done; this is the only way to do so.

        Call it before the rows change. A run that is killed in between then leaves days that are made once more,
        never days that wrongly count as done.

        Args:
            step: the step whose rows are about to change.
            days: the days whose rows change; days that are not recorded are left out.
            scope: `downstream` marks stale what was made from the days, but not the days themselves; `own` marks the
                days themselves stale, so that the next run makes them again; `forgotten` removes their ledger rows,
                for days of another config that are replaced in part.
        """
        changed = [(step, day) for day in days]
        recorded = self.ledger.recorded() if changed else {}
        own = [pair for pair in changed if pair in recorded]
        if scope == "forgotten":
            self.ledger.forget(step, [day for _, day in own])
            return
        stale = own if scope == "own" else self.fingerprint.touched_by(changed, recorded)
        if stale:
            self.ledger.mark_stale(stale)
        if stale and scope == "downstream":
            touched = spans([day for _, day in changed])
            self.progress.say(f"late events of {touched} make {len(stale)} recorded days of steps stale")
