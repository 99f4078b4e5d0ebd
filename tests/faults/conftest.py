"""Faults on purpose, for minutes: `make faults` runs them, `make test` does not."""

import shutil
from pathlib import Path

import pytest

from tests.builders.commands import run_here
from tests.builders.contexts import spark  # noqa: F401 - a fixture
from tests.builders.journey import finished  # noqa: F401 - a fixture
from tests.builders.shared import shared

NIGHTS = ("run_backfill", "--start", "2011-11-27", "--end", "2011-11-29")


@pytest.fixture(scope="module")
def night(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A copy of the journey's lake with two nights more, in a release of their own."""

    def make(folder: Path) -> None:
        shutil.copytree(finished, folder)
        done = run_here(folder, *NIGHTS)
        assert done.code == 0, done.err[-3000:]

    return Path(shutil.copytree(shared("night", make), tmp_path_factory.mktemp("night") / "copy"))
