"""What a step is, and what it works with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from threading import RLock
from typing import TYPE_CHECKING, Protocol

from pyspark.sql import SparkSession

from learn_spark.config.load import Config
from learn_spark.lake.days import spans
from learn_spark.lake.tables import Tables
from learn_spark.runs.ledger import Ledger, StepResult
from learn_spark.runs.progress import Progress

if TYPE_CHECKING:
    from learn_spark.runs.fingerprints import Marks


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
        version: of its code, and of the commands of `models` that it runs: raise it when rows would differ.
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
    version: int = 1
    source: Callable[[Config, Mapping[date, str | None]], Source] | None = None
    trains: bool = False
    overlaps: bool = False


@dataclass(frozen=True)
class Context:
    """What a step works with; `mark` names what it makes and finds what it needs.

    `publishing` is held by whoever writes, where runs overlap.
    """

    config: Config
    spark: SparkSession
    tables: Tables
    ledger: Ledger
    mark: "Marks"
    progress: Progress
    publishing: RLock = field(default_factory=RLock)

    def made_as(self, step: str, day: date) -> str:
        """The fingerprint in the names of what a step makes for a day: the expected one, or an adopted day's own."""
        mark, row = self.mark(step, day), self.ledger.recorded().get((step, day))
        return row.made_as if row and row.made_as and row.fingerprint == mark and not row.is_stale else mark

    def touch(self, step: str, days: Iterable[date]) -> None:
        """Marks stale what was made from these days of a step, whose rows are about to change.

        Before they change: whenever the run is killed, its next try finds the marks or sets them.
        """
        days = list(days)
        rows = self.mark.touched_by([(step, day) for day in days], self.ledger.recorded()) if days else []
        if rows:
            self.ledger.mark_stale(rows)
            self.progress.say(f"late events of {spans(days)} make {len(rows)} recorded days of steps stale")
