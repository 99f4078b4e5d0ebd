"""Classes of Spark's JVM, for what PySpark does not offer."""

from typing import Any

from pyspark.sql import SparkSession


def jvm_class(spark: SparkSession, name: str) -> Any:  # noqa: ANN401 - what py4j's gateway has is known when it runs
    """A class by its full name, such as `org.apache.spark.sql.SaveMode`.

    The full name is looked up at once. For `jvm.org.apache…`, py4j would search the classes of 300 jars for each part
    before it takes the part for a package; that takes milliseconds per part.
    """
    return getattr(spark._jvm, name)


def jvm_object(spark: SparkSession, name: str) -> Any:  # noqa: ANN401 - as above
    """The Scala object of this name."""
    return getattr(jvm_class(spark, f"{name}$"), "MODULE$")
