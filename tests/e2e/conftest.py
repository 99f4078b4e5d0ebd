"""One journey over a few weeks of the shipped logs, run once as a user would; the tests look at what it left."""

from pathlib import Path

import pytest

from tests.builders.commands import Done, run_job


@pytest.fixture(scope="session")
def journey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("journey")
    done = run_job(folder, "run_pipeline")
    assert done.code == 0, done.err[-5000:]
    return folder, done
