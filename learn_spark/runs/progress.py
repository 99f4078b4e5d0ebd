"""Progress as log lines: a step's begin and end, between them a sign of life with Spark's task counts."""

import logging
import sys
import time

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from learn_spark.runs.periodic import Periodic

_log = logging.getLogger(__name__)
TERMINAL_SECONDS = 10
PLAIN_SECONDS = 60


class Progress(Periodic):
    """Logs what runs; as a context manager it also says every so often that it still runs."""

    def __init__(self, spark: SparkSession) -> None:
        super().__init__(seconds=1.0)
        self._tracker = spark.sparkContext.statusTracker()
        self._started = time.monotonic()
        self._current = ""
        self._quiet_until = time.monotonic()
        self._period = TERMINAL_SECONDS if sys.stderr.isatty() else PLAIN_SECONDS

    def begin(self, what: str, detail: str) -> None:
        self._current = what
        self.say(f"{what}: {detail}")

    def end(self, detail: str) -> None:
        self.say(f"{self._current} done: {detail}")
        self._current = ""

    def say(self, text: str) -> None:
        elapsed = int(time.monotonic() - self._started)
        _log.info("%3d:%02d  %s", elapsed // 60, elapsed % 60, text)
        self._quiet_until = time.monotonic() + self._period

    def tick(self) -> None:
        """Says that the step still works, if nothing else was said for a while."""
        if self._current and time.monotonic() >= self._quiet_until:
            self.say(f"{self._current} still works{self._tasks()}")

    def _tasks(self) -> str:
        done = total = 0
        try:
            for stage_id in self._tracker.getActiveStageIds():
                stage = self._tracker.getStageInfo(stage_id)
                if stage is not None:
                    done += stage.numCompletedTasks
                    total += stage.numTasks
        except (Py4JError, OSError):  # the JVM is gone: the step's own error says so
            return ""
        return f": {done} of {total} Spark tasks" if total else ""
