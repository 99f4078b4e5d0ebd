"""Faults on purpose, for minutes: `make faults` runs them, `make test` does not."""

import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.contexts import spark  # noqa: F401 - a fixture
from tests.builders.journey import finished_journey


@pytest.fixture(scope="module")
def finished(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A copy of the journey's folder for the tests of one file."""
    return Path(shutil.copytree(finished_journey()[0], tmp_path_factory.mktemp("finished") / "copy"))
