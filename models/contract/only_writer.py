"""Makes a training process the only one that writes to its folder, and ends it with the process that started it."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.contract.failures import Busy

ENDS_WITH_STDIN = "LEARN_ENDS_WITH_STDIN"
LOCK = ".lock"
_PATIENCE = 10.0  # seconds: a process whose starter was killed needs a moment to end


def end_with_starter() -> None:
    """Ends this process once its stdin is closed, if stdin is a pipe of its starter; torchrun passes the pipe on."""
    if os.environ.get(ENDS_WITH_STDIN) == "1":
        threading.Thread(target=_end_with_stdin, daemon=True, name="ends with its starter").start()


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


@contextmanager
def only_writer(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Keeps other processes from writing to a folder at the same time; removes half-written files of killed ones.

    Args:
        folder: made if it is missing.
        patience: seconds to wait for another process to end.

    Raises:
        Busy: another process still writes to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        deadline = time.monotonic() + patience
        while not _locked(handle):
            if time.monotonic() > deadline:
                raise Busy(f"another process writes {folder}; try again when it has ended")
            time.sleep(0.1)
        for left in folder.glob(".*.partial"):
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
