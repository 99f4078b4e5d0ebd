"""Peak resident memory of this process and everything below it: driver, JVM, Python workers, trainers."""

import os
import threading
from types import TracebackType
from typing import Self

import psutil

SAMPLE_SECONDS = 0.5


class PeakMemory:
    """Samples the process tree in a thread while the `with` block runs.

    Pages that processes share count once a process, so the figure is an upper bound; peaks shorter than half
    a second may be missed.
    """

    def __init__(self, sample_seconds: float = SAMPLE_SECONDS) -> None:
        self._seconds = sample_seconds
        self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="peak-memory")

    @property
    def peak_mb(self) -> int:
        """The peak so far, MiB."""
        self._sample()
        return self._peak >> 20

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds):
            self._sample()

    def _sample(self) -> None:
        root = psutil.Process(os.getpid())
        resident = 0
        for process in [root, *root.children(recursive=True)]:
            try:
                resident += process.memory_info().rss
            except psutil.Error:  # ended in between
                continue
        self._peak = max(self._peak, resident)
