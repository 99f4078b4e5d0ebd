"""Counts, across tasks, what the model has read so far, and reports the pace."""

from dataclasses import dataclass
from time import monotonic

from pyspark import Accumulator, AccumulatorParam
from pyspark.sql import SparkSession

from learn_spark.runs.periodic import Periodic
from learn_spark.runs.progress import Progress

PACE_SECONDS = 20.0


@dataclass(frozen=True)
class Span:
    """Where and when a task ran: a GPU's address or a device's name, seconds since 1970."""

    device: str
    started: float
    ended: float


@dataclass(frozen=True)
class Work:
    """Texts and real tokens (no padding) that the model read, and where and when its tasks ran."""

    texts: int = 0
    tokens: int = 0
    spans: tuple[Span, ...] = ()

    @property
    def device_seconds(self) -> float:
        return sum(span.ended - span.started for span in self.spans)


class _WorkParam(AccumulatorParam[Work]):
    def zero(self, value: Work) -> Work:
        return Work()

    def addInPlace(self, value1: Work, value2: Work) -> Work:  # noqa: N802 (Spark's name)
        return Work(value1.texts + value2.texts, value1.tokens + value2.tokens, value1.spans + value2.spans)


def counted_work(spark: SparkSession) -> Accumulator[Work]:
    """An accumulator of work, still empty; a task's share is added when the task ends."""
    return spark.sparkContext.accumulator(Work(), _WorkParam())


class Pace(Periodic):
    """Says every so often how many of `total` texts are done, how fast, and how long the rest will take."""

    def __init__(self, progress: Progress, work: Accumulator[Work], total: int) -> None:
        super().__init__(PACE_SECONDS)
        self._progress, self._work, self._total = progress, work, total
        self._started = monotonic()
        self._said = 0

    def tick(self) -> None:
        """Prints a line if more texts are done than at the last line."""
        work = self._work.value
        if work.texts > self._said:
            self._said = work.texts
            self._progress.say(pace_line(work, self._total, monotonic() - self._started))


def pace_line(work: Work, total: int, seconds: float) -> str:
    """`65,536 of 1,000,000 texts, 480 texts/s, 5,700 tokens/s, 32.0 min left`."""
    rate = work.texts / seconds
    left = (total - work.texts) / rate
    return (
        f"{work.texts:,} of {total:,} texts, {rate:,.0f} texts/s, {work.tokens / seconds:,.0f} tokens/s,"
        f" {left / 60:,.1f} min left"
    )
