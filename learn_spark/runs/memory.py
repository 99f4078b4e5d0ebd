"""Peak resident memory of a process and everything below it: driver, JVM, Python workers, trainers."""

import os

import psutil

from learn_spark.runs.periodic import Periodic

SAMPLE_SECONDS = 0.5


class PeakMemory(Periodic):
    """Samples the process tree in a thread while the `with` block runs.

    Pages that processes share count once per process, so the figure is an upper bound; peaks shorter than the
    sampling interval may be missed. A child that was just forked has its parent's pages until it starts its own program
    or writes, so both count once; otherwise each `chmod` that Hadoop starts would count as a second JVM.
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
        """Takes a sample."""
        resident, sizes = 0, dict[int, int]()
        for process in self._tree():  # parents first
            try:
                memory, parent = process.memory_info(), process.ppid()
            except psutil.Error:  # ended in between
                continue
            sizes[process.pid] = memory.vms
            if sizes.get(parent) != memory.vms:
                resident += memory.rss
        self._peak = max(self._peak, resident)

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._pid)
            return [root, *root.children(recursive=True)]
        except psutil.Error:  # ended
            return []
