"""Fixtures for deliberate faults. These tests take minutes: `make faults` runs them, `make test` does not."""

import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.commands import run_here
from tests.builders.contexts import spark  # noqa: F401 - a fixture
from tests.builders.journey import finished, finished_journey  # noqa: F401 - a fixture
from tests.builders.kills import commits_of
from tests.builders.shared import shared

NIGHTS = ("run_backfill", "--start", "2011-11-27", "--end", "2011-11-29")
NEXT = ("run_backfill", "--start", "2011-11-29", "--end", "2011-11-30")


@pytest.fixture(scope="session")
def night() -> Path:
    """The journey's lake after two more nights, which have a release of their own, with a list of their commits.

    The folder is shared: copy it to write.
    """

    def make(folder: Path) -> None:
        shutil.copytree(finished_journey()[0], folder)
        commits_of(folder, *NIGHTS)

    return shared("night", make)


@pytest.fixture(scope="session")
def next_night(night: Path, spark: SparkSession) -> Path:  # noqa: F811
    """The lake of `night` after one more night."""

    def make(folder: Path) -> None:
        shutil.copytree(night, folder)
        done = run_here(folder, *NEXT)
        assert done.code == 0, done.err[-3000:]

    return shared("next_night", make)
