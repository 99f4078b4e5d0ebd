"""The lock of a lake in a store: a lease that its holder renews, and checks before each commit.

`_lease/` has a file for each holder so far, such as `epochs/00000012`. If several processes try to create the same
file, the store lets only one of them succeed, so each number has one holder; the newest holder has the lake. It writes
`beat/00000012` again and again. A process that finds this file older than `TTL`, by the store's own clock, creates the
next number. So no machine's clock matters, and a holder that was stopped for that long finds a newer number than its
own and commits nothing more.

A lease cannot check and commit in one request. A holder that is stopped right between the two, for longer than `TTL`,
may still commit once. `Tables` marks commits so that Delta refuses this one if the new holder has already committed to
the same table.
"""

import itertools
import json
import os
import socket
import threading
import time
import uuid
from datetime import datetime, timedelta

from learn_spark.errors import LearnError, TemporaryError
from learn_spark.storage import Location

FOLDER = "_lease"
TTL = 60.0  # seconds that a holder may be silent
_RELEASED = "released"


class Lease:
    """One process's hold on a lake, or on a kind of its artifacts, from `take` to `release`.

    Args:
        root: what is held.
        ttl: seconds that a holder may be silent; None: `TTL`.
        busy: the error's text if another process holds it.

    Attributes:
        epoch: the number of this hold.
    """

    def __init__(self, root: Location, ttl: float | None = None, busy: str = "") -> None:
        self._root, self._folder, self._ttl = root, root / FOLDER, ttl or TTL
        self._busy = busy or f"another run works on the lake {root}"
        self.epoch = -1
        self._beaten_at = 0.0
        self._is_lost = False
        self._commits = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="Lease")

    def take(self) -> None:
        """Takes the lake, and renews the lease in a thread from then on.

        Raises:
            TemporaryError: another process holds it, and has renewed its lease.
        """
        newest = _newest(self._folder)
        if newest >= 0 and (holder := living_holder(self._root, self._ttl)):
            raise self._taken(holder)
        self.epoch = newest + 1
        us = {"host": socket.gethostname(), "pid": os.getpid()}
        started = _now()
        try:
            _epoch_file(self._folder, self.epoch).create(json.dumps(us).encode())
        except FileExistsError:
            raise self._taken("who took it at this moment") from None
        self._beat("held")
        self._beaten_at = started
        self._thread.start()

    def check(self) -> None:
        """Checks, before a commit, that this process still has the lake.

        Raises:
            TemporaryError: the lease is over, or another process has the lake.
        """
        self._is_lost |= _now() - self._beaten_at > self._ttl or _epoch_file(self._folder, self.epoch + 1).exists()
        if self._is_lost:
            raise TemporaryError(
                f"{self._root}: this run did not answer for {self._ttl:.0f} s or more, so its lock is another run's:"
                " nothing more is written; try again when that has ended"
            )

    def next_commit(self) -> int:
        """A number for a commit, above all numbers that this holder and earlier ones have given."""
        return (self.epoch << 32) + next(self._commits)

    def release(self) -> None:
        """Ends the lease, so that another process can have the lake at once."""
        self._stop.set()
        self._thread.join()
        if not self._is_lost:
            self._beat(_RELEASED)

    def _taken(self, holder: str) -> TemporaryError:
        return TemporaryError(f"{self._busy} ({holder}); try again when it has ended")

    def _keep(self) -> None:
        while not self._stop.wait(self._ttl / 4) and not self._is_lost:
            started = _now()
            try:
                self.check()
                self._beat("held")
            except (LearnError, OSError):  # the next beat, or the next check, will tell
                continue
            self._beaten_at = started

    def _beat(self, state: str) -> None:
        _beat_file(self._folder, self.epoch).write_bytes(json.dumps({"state": state}).encode())


def living_holder(root: Location, ttl: float | None = None) -> str | None:
    """The process that holds a lake and has renewed its lease, in words; None if there is none."""
    folder = root / FOLDER
    newest = _newest(folder)
    if newest < 0:
        return None
    epoch, beat = _epoch_file(folder, newest), _beat_file(folder, newest)
    try:
        if json.loads(beat.read_bytes())["state"] == _RELEASED:
            return None
        last = beat.entry().modified
    except FileNotFoundError:  # the holder has just begun
        last = epoch.entry().modified
    if _store_time(folder) - last > timedelta(seconds=ttl or TTL):
        return None
    try:
        holder = json.loads(epoch.read_bytes())
    except ValueError:  # HDFS makes a file before it has its content
        return "a process that is starting"
    return f"process {holder['pid']} on {holder['host']}"


def newest_epoch(root: Location) -> int:
    """The newest holder's number, which changes with each process that takes the lake; -1 before the first."""
    return _newest(root / FOLDER)


def _newest(folder: Location) -> int:
    return max((int(file.name) for file in (folder / "epochs").glob("*")), default=-1)


def _epoch_file(folder: Location, number: int) -> Location:
    return folder / "epochs" / f"{number:08d}"


def _beat_file(folder: Location, number: int) -> Location:
    return folder / "beat" / f"{number:08d}"


def _store_time(folder: Location) -> datetime:
    """The time by the store's clock."""
    probe = folder / "clock" / uuid.uuid4().hex
    probe.write_bytes(b"")
    try:
        return probe.entry().modified
    finally:
        probe.unlink(missing_ok=True)


def _now() -> float:
    """Seconds of a clock that runs on while this process, or its machine, sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
