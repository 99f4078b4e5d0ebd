"""One process at a time per lake: a file's lock on a file system, a lease in a store.

Local file systems have no safe concurrent Delta commit, and neither has S3 with the log store that Delta uses there.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from learn_spark.errors import ConfigError, TemporaryError
from learn_spark.lake.lease import Lease, living_holder, newest_epoch
from learn_spark.storage import Location, Place

Unlock = Callable[[], None]
Check = Callable[[], None]


LOCK = ".lock"


_leases: dict[str, Lease] = {}  # that this process holds, by root


@contextmanager
def lake_lock(root: Place) -> Iterator[Unlock]:
    """Locks a lake for one driver that may write to it.

    Raises:
        ConfigError: as for `folder_lock`; or a folder in the lake cannot be written, checked here before hours of work.
        TemporaryError: as for `folder_lock`.
    """
    if not isinstance(root, Path):
        with _leased(root) as unlock:
            yield unlock
        return
    with folder_lock(root, "lake.root", _busy(root)) as unlock:
        for folder in sorted(root.iterdir()):
            if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
                raise ConfigError(f"lake.root: nothing can be written into {folder}")
        yield unlock


@contextmanager
def _leased(root: Location) -> Iterator[Unlock]:
    lease = Lease(root)
    lease.take()
    _leases[root.uri] = lease

    def unlock() -> None:
        if _leases.pop(root.uri, None):
            lease.release()

    try:
        yield unlock
    finally:
        unlock()


@contextmanager
def artifacts_lock(folder: Place, busy: str) -> Iterator[Check]:
    """Locks a kind of artifacts for hours of work; nightly runs can go on meanwhile, since they have the lake's lock.

    Args:
        folder: of the kind, in the lake.
        busy: the error's text if another process has the lock.

    Yields:
        A function that checks, before something is sent to a store, that this process still has the lock.

    Raises:
        ConfigError, TemporaryError: as for `folder_lock`.
    """
    if isinstance(folder, Path):
        with folder_lock(folder, f"the folder of {folder.name}", busy):
            yield lambda: None
        return
    lease = Lease(folder, busy=busy)
    lease.take()
    try:
        yield lease.check
    finally:
        lease.release()


def held_epoch(root: Location) -> int | None:
    """The lease's number under which this process may write to a lake in a store; None if it may not."""
    return _leases[root.uri].epoch if root.uri in _leases else None


def lease_of(root: Place) -> Lease | None:
    """The lease under which this process writes to a lake, to be checked before each commit; None for a local lake.

    Raises:
        TemporaryError: this process holds no lease.
    """
    if isinstance(root, Path):
        return None
    if root.uri not in _leases:
        raise TemporaryError(f"{root}: nothing is written without the lake's lock, and this process does not hold it")
    return _leases[root.uri]


@contextmanager
def without_writers(root: Place) -> Iterator[None]:
    """Keeps writers away from a lake while its tables are read together; writes nothing itself.

    A lake in a store has no lock for readers: if a writer has come meanwhile, an error says so at the end.

    Raises:
        TemporaryError: a writer works on the lake, or has begun to.
    """
    if not isinstance(root, Path):
        before = newest_epoch(root)
        if living_holder(root):
            raise TemporaryError(f"{_busy(root)}; try again when it has ended")
        yield
        if newest_epoch(root) != before:
            raise TemporaryError(f"{_busy(root)} since this one began; try again when it has ended")
        return
    try:
        handle = (root / LOCK).open()
    except OSError:  # nobody has written to it yet, or this user cannot open it
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
        folder: the file `.lock` in it is locked.
        name: what the folder is, for the error that it cannot be written.
        busy: the error's text if another process has the lock.

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


def _busy(root: Place) -> str:
    return f"another run works on the lake {root}"


def _lock(handle: int, kind: int, busy: str) -> None:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TemporaryError(f"{busy}; try again when it has ended") from None
