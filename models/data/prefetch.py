"""Runs a generator ahead of its consumer, in a thread of its own."""

import queue
import threading
from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.1


def prefetched(source: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """The items of `source`, made by a thread that is up to `depth` items ahead.

    `source` runs and is closed in that thread; its errors are raised here. This generator ends or closes only after
    the thread has ended.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
    is_closed = threading.Event()

    def put(value: tuple[T] | BaseException | None) -> None:
        while not is_closed.is_set():
            try:
                return ready.put(value, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def work() -> None:
        try:
            with closing(source):
                for item in source:
                    put((item,))
                    if is_closed.is_set():
                        return
        except BaseException as error:  # the consumer raises it
            put(error)
        else:
            put(None)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            value = ready.get()
            if value is None:
                return
            if isinstance(value, BaseException):
                raise value
            yield value[0]
    finally:
        is_closed.set()
        thread.join()
