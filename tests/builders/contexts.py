"""The tests' Spark session, and a context like that of a job, for tests that run steps directly."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from learn_spark.config.load import Config, load_config
from learn_spark.lake.session import build_session
from learn_spark.lake.tables import Tables, is_lake
from learn_spark.pipeline import STEPS
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.runs.ledger import Ledger
from learn_spark.runs.progress import Progress
from learn_spark.runs.steps import Context
from learn_spark.storage import Place
from tests.builders.shared import shared
from tests.builders.transfer import upload

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """One small, quiet session per xdist worker. Its Python workers start with their libraries already loaded."""
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(Path(__file__).parent / "preloaded"), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        session = build_session(load_config(CONF / "test.yaml"), "tests")
    yield session
    session.stop()


def make_context(spark: SparkSession, config: Config) -> Context:
    """A context on the existing lake, or else on a new empty one."""
    tables = make_tables(spark, config.lake.root)
    ledger = Ledger(spark, tables)
    return Context(config, spark, tables, ledger, Fingerprints(config, STEPS, ledger.recorded), Progress(spark))


def make_tables(spark: SparkSession, root: Place) -> Tables:
    """The lake's tables. If there is no lake, it copies an empty one, which is many times faster than making one."""
    if not (any(root.glob("*/_delta_log")) if isinstance(root, Path) else is_lake(root)):
        empty = shared("empty-lake", lambda folder: Tables(spark, folder).create_all())
        if isinstance(root, Path):
            shutil.copytree(empty, root, dirs_exist_ok=True)  # Spark may already have made its warehouse there
        else:
            upload(empty, root)
    return Tables(spark, root)
