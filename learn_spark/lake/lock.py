"""One process at a time per folder: local file systems have no safe concurrent Delta commit."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from learn_spark.errors import ConfigError, TemporaryError

Unlock = Callable[[], None]


def lake_lock(root: Path) -> AbstractContextManager[Unlock]:
    """Locks a lake for one driver; errors as of `folder_lock`."""
    return folder_lock(root, "lake.root", f"another run works on the lake {root}")


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
        handle = (folder / ".lock").open("a+")
    except OSError as error:
        raise ConfigError(f"{name} {folder} cannot be written: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TemporaryError(f"{busy}; try again when it has ended") from None
        yield handle.close
