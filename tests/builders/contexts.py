"""A context as a job gets it, for tests that run steps themselves."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from pyspark.sql import SparkSession

from learn_spark.config.load import Config
from learn_spark.lake.tables import Tables
from learn_spark.pipeline import STEPS
from learn_spark.runs.fingerprints import Marks
from learn_spark.runs.ledger import Ledger
from learn_spark.runs.progress import Progress
from learn_spark.runs.steps import Context


def make_context(spark: SparkSession, config: Config) -> Context:
    """On the lake that is there, else an empty one."""
    tables = make_tables(spark, config.lake.root)
    ledger = Ledger(spark, tables)
    return Context(config, spark, tables, ledger, Marks(config, STEPS, ledger.recorded), Progress(spark))


def make_tables(spark: SparkSession, root: Path) -> Tables:
    """The lake's tables; where there is no lake, a copy of an empty one, which is many times faster than to make it."""
    if not root.exists():
        shutil.copytree(_empty_lake(spark).name, root, dirs_exist_ok=True)  # Spark may have made its warehouse there
    return Tables(spark, root)


@cache
def _empty_lake(spark: SparkSession) -> TemporaryDirectory:
    folder = TemporaryDirectory()
    Tables(spark, Path(folder.name)).create_all()
    return folder
