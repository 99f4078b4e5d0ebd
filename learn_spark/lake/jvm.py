"""Classes of Spark's JVM, for what PySpark does not offer."""

from typing import Any

from pyspark.sql import SparkSession


def jvm_class(spark: SparkSession, name: str) -> Any:  # noqa: ANN401 - what py4j's gateway has is known when it runs
    """A class by its whole name, as `org.apache.spark.sql.SaveMode`.

    At once: of `jvm.org.apache…` py4j looks for each part among the classes of 300 jars, before it takes it for a
    package, in milliseconds per part.
    """
    return getattr(spark._jvm, name)


def jvm_object(spark: SparkSession, name: str) -> Any:  # noqa: ANN401 - as above
    """Scala's object of this name."""
    return getattr(jvm_class(spark, f"{name}$"), "MODULE$")
