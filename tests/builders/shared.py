"""Folders that whoever needs them first makes, once per test run; all workers read or copy them."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

PLACE = "LEARN_TESTS_SHARED"


def open_place() -> str | None:
    """Makes the place of this run's shared folders; None where an outer run has made it already."""
    if PLACE in os.environ:
        return None
    os.environ[PLACE] = mkdtemp(prefix="learn-tests-")
    return os.environ[PLACE]


def close_place(place: str | None) -> None:
    if place is not None:
        shutil.rmtree(place, ignore_errors=True)
        del os.environ[PLACE]


def shared(name: str, make: Callable[[Path], object]) -> Path:
    """The shared folder of this name; where there is none yet, `make(folder)` fills it while the others wait."""
    folder = Path(os.environ[PLACE]) / name
    made = folder.with_name(f"{name}.made")
    with folder.with_name(f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a failed try left
            make(folder)
            made.touch()
    return folder
