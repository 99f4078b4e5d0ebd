"""Folders that are made once per test run, by the first test that needs them; all workers read or copy them."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

PLACE = "LEARN_TESTS_SHARED"


def open_place() -> str | None:
    """Makes the parent folder of this run's shared folders; returns None if an outer run has already made it."""
    if PLACE in os.environ:
        return None
    os.environ[PLACE] = mkdtemp(prefix="learn-tests-")
    return os.environ[PLACE]


def close_place(place: str | None) -> None:
    if place is not None:
        shutil.rmtree(place, ignore_errors=True)
        del os.environ[PLACE]


def shared(name: str, make: Callable[[Path], object]) -> Path:
    """The shared folder of this name. If there is none yet, `make(folder)` fills it while other workers wait."""
    folder = Path(os.environ[PLACE]) / name
    made = folder.with_name(f"{name}.made")
    with folder.with_name(f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # left by a failed attempt
            make(folder)
            made.touch()
    return folder
