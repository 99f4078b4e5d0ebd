"""One Spark session for all tests, small and quiet; configs and lakes of their own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from learn_spark.config.load import Config, load_config
from learn_spark.lake.session import build_session

CONF = Path(__file__).parent.parent / "conf"


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = build_session(load_config(CONF / "test.yaml"), "tests")
    yield session
    session.stop()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """conf/test.yaml with lake and output in the test's own folder."""
    return load_config(CONF / "test.yaml", [f"lake.root={tmp_path}/lake", f"output.dir={tmp_path}/output"])
