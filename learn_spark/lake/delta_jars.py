"""Delta's jars: where they are, and whether they fit the Spark that runs."""

from pathlib import Path
from typing import Any

import pyspark
from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession

from learn_spark.errors import ConfigError

# How versions of Spark begin, those of the Delta that goes with them, and its package.
_FITTING = (
    ("4.0.", "4.0.", "io.delta:delta-spark_2.13:4.0.1"),
    ("4.1.0", "4.1.0", "io.delta:delta-spark_4.1_2.13:4.1.0"),
    ("4.1.1", "4.1.0", "io.delta:delta-spark_4.1_2.13:4.1.0"),
)
_TOLD = ", ".join(f"{ours}{'x' * ours.endswith('.')} with {its}{'x' * its.endswith('.')}" for ours, its, _ in _FITTING)
UNFIT = f"do not fit together; Spark and Delta that do: {_TOLD}"
EXTENSION = "io.delta.sql.DeltaSparkSessionExtension"


def with_delta(builder: SparkSession.Builder) -> SparkSession.Builder:
    """Adds Delta's package where PySpark's own folder of jars lacks it: `make setup` puts it there."""
    if any((Path(pyspark.__file__).parent / "jars").glob("*delta-spark_*.jar")):
        return builder
    return configure_spark_with_delta_pip(builder)


def require_fitting(spark: SparkSession) -> None:
    """Looks at what the JVM has loaded, which under spark-submit is the cluster's.

    Raises:
        ConfigError: Delta is not on its class path, or is one for another Spark; names the pairs that fit.
    """
    delta = _delta_version(spark)
    fitting = [(its, package) for ours, its, package in _FITTING if spark.version.startswith(ours)]
    if delta and any(delta.startswith(its) for its, _ in fitting):
        return
    if fitting and not delta:
        raise ConfigError(
            "Delta's jars are not on Spark's class path: run `make setup`, or give spark-submit"
            f" --packages {fitting[0][1]}"
        )
    raise ConfigError(f"Spark {spark.version} and Delta {delta or '(none)'} {UNFIT}")


def _delta_version(spark: SparkSession) -> str | None:
    jvm: Any = spark._jvm
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    try:
        jvm.java.lang.Class.forName(EXTENSION, False, loader)
        return str(
            jvm.java.lang.Class.forName("io.delta.package$", True, loader).getField("MODULE$").get(None).VERSION()
        )
    except Exception as error:
        if "ClassNotFoundException" in str(error):
            return None
        raise
