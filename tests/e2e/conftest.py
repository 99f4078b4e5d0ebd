"""Whole runs have a session for the commands that are no process of their own, and copies of a finished lake."""

import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.contexts import spark  # noqa: F401 - a fixture
from tests.builders.journey import finished_journey


@pytest.fixture(scope="module")
def finished(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A copy of the journey's folder for the tests of one file; commands run here, on `spark`."""
    return Path(shutil.copytree(finished_journey()[0], tmp_path_factory.mktemp("finished") / "copy"))
