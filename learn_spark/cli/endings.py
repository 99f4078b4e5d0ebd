"""How a command ends before its time: by a signal, or because its JVM is gone."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pyspark.sql import SparkSession

from learn_spark.bridge.launch import end_trainers
from learn_spark.errors import LearnError
from learn_spark.lake.session import is_alive
from learn_spark.runs.periodic import Periodic

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_handled: set[signal.Signals] = set()  # the signals that `signals_taken` handles


class Interrupted(LearnError):
    """A signal ended the command: Ctrl-C, a scheduler, a terminal that was closed."""

    def __init__(self, error: KeyboardInterrupt) -> None:
        number = error.number if isinstance(error, _Signalled) else signal.SIGINT
        super().__init__("interrupted; the same command goes on where it stopped")
        self.exit_code = 128 + number


class JvmGone(LearnError):
    """Spark's JVM ended while the command ran."""


class _Signalled(KeyboardInterrupt):
    """Raised in the main thread by a signal; a KeyboardInterrupt, since no `except Exception` catches that."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class JvmWatch(Periodic):
    """Ends the trainers when the driver has lost its JVM: their results could not be recorded."""

    def __init__(self, spark: SparkSession) -> None:
        super().__init__(seconds=1.0)
        self._spark = spark

    def tick(self) -> None:
        """Checks whether the JVM is alive."""
        if not is_alive(self._spark):
            end_trainers()


@contextmanager
def signals_taken() -> Iterator[None]:
    """Inside the block, a signal raises KeyboardInterrupt in the main thread; a second one ends the process at once.

    Children need no signal: the JVM and the trainers end when their stdin, which this process holds, is closed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {
        number: signal.getsignal(number) for number in _SIGNALS
    }
    _handled.update(number for number, handler in former.items() if handler is not signal.SIG_IGN)  # ignored by nohup
    for number in _handled:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        _handled.clear()
        for number, handler in former.items():
            signal.signal(number, handler)


def _raise(number: int, _: FrameType | None) -> None:
    for each in _handled:
        signal.signal(each, _leave)
    raise _Signalled(number)


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)
