"""Peak resident memory of this process and everything below it: driver, JVM, Python workers, trainers."""

import os

import psutil

from learn_spark.core.periodic import Periodic

SAMPLE_SECONDS = 0.5


class PeakMemory(Periodic):
    """Samples the process tree in a thread while the `with` block runs.

    Pages that processes share count once a process, so the figure is an upper bound; peaks shorter than half
    a second may be missed.
    """

    def __init__(self, sample_seconds: float = SAMPLE_SECONDS) -> None:
        super().__init__(sample_seconds)
        self._peak = 0

    @property
    def peak_mb(self) -> int:
        """The peak so far, MiB."""
        self.tick()
        return self._peak >> 20

    def tick(self) -> None:
        """Takes a sample."""
        root = psutil.Process(os.getpid())
        resident = 0
        for process in [root, *root.children(recursive=True)]:
            try:
                resident += process.memory_info().rss
            except psutil.Error:  # ended in between
                continue
        self._peak = max(self._peak, resident)
