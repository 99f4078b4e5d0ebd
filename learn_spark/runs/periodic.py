"""A background thread that repeats a small task while the work runs."""

import threading
from types import TracebackType
from typing import Self


class Periodic:
    """As a context manager, calls `tick` every `seconds` in its own thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=type(self).__name__)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def tick(self) -> None:
        """The task; runs in the thread."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.tick()
