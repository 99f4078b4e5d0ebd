"""Peak memory of a process and everything below it: driver, JVM, Python workers, trainers."""

import os
from collections.abc import Callable, Iterable

import psutil

from learn_spark.runs.periodic import Periodic

SAMPLE_SECONDS = 0.5


class PeakMemory(Periodic):
    """Samples the process tree in a thread while the `with` block runs.

    Pages that processes share, as Spark's Python workers share what they were forked with, are divided among them (the
    proportional set size of Linux; elsewhere they count once per process). Peaks shorter than the sampling interval may
    be missed.
    """

    def __init__(self, sample_seconds: float = SAMPLE_SECONDS, pid: int | None = None) -> None:
        """Watches the tree below `pid`, by default this process."""
        super().__init__(sample_seconds)
        self._pid = os.getpid() if pid is None else pid
        self._peak = 0

    @property
    def peak_mb(self) -> int:
        """The peak so far, MiB."""
        self.tick()
        return self._peak >> 20

    def tick(self) -> None:
        """Takes a sample; shares are asked for, which takes longer, only where there may be a new peak."""
        tree = self._tree()
        if _sum(_resident, tree) > self._peak:
            self._peak = max(self._peak, _sum(_proportional, tree))

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._pid)
            return [root, *root.children(recursive=True)]
        except psutil.Error:  # ended
            return []


def _sum(measure: Callable[[psutil.Process], int], processes: Iterable[psutil.Process]) -> int:
    total = 0
    for process in processes:
        try:
            total += measure(process)
        except psutil.Error:  # ended in between
            continue
    return total


def _resident(process: psutil.Process) -> int:
    return process.memory_info().rss


def _proportional(process: psutil.Process) -> int:
    info = process.memory_full_info()
    return getattr(info, "pss", info.rss)
