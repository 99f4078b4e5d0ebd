"""A context as a job gets it, for tests that run steps themselves."""

from pyspark.sql import SparkSession

from learn_spark.core.config import Config
from learn_spark.core.ledger import Ledger
from learn_spark.core.progress import Progress
from learn_spark.core.steps import Context, Marks
from learn_spark.core.tables import Tables
from learn_spark.pipeline import STEPS


def make_context(spark: SparkSession, config: Config) -> Context:
    """Tables come into being when they are first read or written."""
    tables = Tables(spark, config.lake.root)
    ledger = Ledger(spark, tables)
    return Context(config, spark, tables, ledger, Marks(config, STEPS, ledger.recorded), Progress(spark))
