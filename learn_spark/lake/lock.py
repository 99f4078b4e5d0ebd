"""One process at a time: local file systems have no safe concurrent Delta commit."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from learn_spark.errors import ConfigError, TemporaryError

Release = Callable[[], None]


def lake_lock(root: Path) -> AbstractContextManager[Release]:
    """One driver at a time on a lake; errors as of `folder_lock`."""
    return folder_lock(root, "lake.root", f"another run works on the lake {root}")


@contextmanager
def folder_lock(folder: Path, name: str, busy: str) -> Iterator[Release]:
    """Holds a folder, made if missing, until the block ends or its process, or what it gives is called.

    Args:
        folder: gets the file `.lock`.
        name: what the folder is, for the error that it cannot be written.
        busy: what to say where another process holds it.

    Raises:
        ConfigError: the folder cannot be written.
        TemporaryError: another process holds it.
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
