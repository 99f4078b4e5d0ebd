"""One process at a time per folder: local file systems have no safe concurrent Delta commit."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from learn_spark.errors import ConfigError, TemporaryError

Unlock = Callable[[], None]


LOCK = ".lock"


@contextmanager
def lake_lock(root: Path) -> Iterator[Unlock]:
    """Locks a lake for one driver that may write to it.

    Raises:
        ConfigError: as of `folder_lock`; or a folder in it cannot be written, which is said before hours of work.
        TemporaryError: as of `folder_lock`.
    """
    with folder_lock(root, "lake.root", _busy(root)) as unlock:
        for folder in sorted(root.iterdir()):
            if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
                raise ConfigError(f"lake.root: nothing can be written into {folder}")
        yield unlock


@contextmanager
def without_writers(root: Path) -> Iterator[None]:
    """Keeps those that write to a lake away while its tables are read together; writes nothing itself.

    Raises:
        TemporaryError: one of them works on it.
    """
    try:
        handle = (root / LOCK).open()
    except OSError:  # nobody has written to it, or this user cannot
        yield
        return
    with handle:
        _lock(handle.fileno(), fcntl.LOCK_SH, _busy(root))
        yield


@contextmanager
def folder_lock(folder: Path, name: str, busy: str) -> Iterator[Unlock]:
    """Locks `folder`, created if missing.

    The lock ends when the block exits, the process dies, or the yielded function is called.

    Args:
        folder: the file `.lock` in it is what is locked.
        name: what the folder is, for the error that it cannot be written.
        busy: the error's text where another process has the lock.

    Raises:
        ConfigError: the folder cannot be written.
        TemporaryError: another process has the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("a+")
    except OSError as error:
        raise ConfigError(f"{name} {folder} cannot be written: {error.strerror}") from error
    with handle:
        _lock(handle.fileno(), fcntl.LOCK_EX, busy)
        yield handle.close


def _busy(root: Path) -> str:
    return f"another run works on the lake {root}"


def _lock(handle: int, kind: int, busy: str) -> None:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TemporaryError(f"{busy}; try again when it has ended") from None
