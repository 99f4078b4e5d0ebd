"""The jars of Delta and of the store's client: where they are, and whether they fit the Spark that runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyspark
from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession

from learn_spark.errors import ConfigError
from learn_spark.lake.jvm import jvm_class
from learn_spark.storage import Location

# How versions of Spark begin, how versions of Delta that fit them begin, and Delta's package.
_FITTING = (
    ("4.0.", "4.0.", "io.delta:delta-spark_2.13:4.0.1"),
    ("4.1.0", "4.1.0", "io.delta:delta-spark_4.1_2.13:4.1.0"),
    ("4.1.1", "4.1.0", "io.delta:delta-spark_4.1_2.13:4.1.0"),
)
_TOLD = ", ".join(f"{ours}{'x' * ours.endswith('.')} with {its}{'x' * its.endswith('.')}" for ours, its, _ in _FITTING)
UNFIT = f"do not fit together; Spark and Delta that do: {_TOLD}"
# The newest SDK that works with stores other than Amazon's: from 2.30 on it sends checksums that these do not know.
_SDK, _SDK_VERSION = "software.amazon.awssdk", "2.29.52"
_SDK_MODULES = ("s3", "s3-transfer-manager", "sts", "apache-client", "netty-nio-client")
STORE_CLIENT = "org.apache.hadoop.fs.s3a.S3AFileSystem"
STORE_EXCLUDES = (f"{_SDK}:bundle", "org.wildfly.openssl:wildfly-openssl")
EXTENSION = "io.delta.sql.DeltaSparkSessionExtension"


def with_delta(builder: SparkSession.Builder) -> SparkSession.Builder:
    """Adds Delta's package if PySpark's own folder of jars lacks it; `make setup` puts it there."""
    if any((Path(pyspark.__file__).parent / "jars").glob("*delta-spark_*.jar")):
        return builder
    return configure_spark_with_delta_pip(builder)


def require_fitting(spark: SparkSession) -> None:
    """Checks the Delta that the JVM has loaded, which under spark-submit is the cluster's.

    Raises:
        ConfigError: Delta is not on the class path, or is for another Spark; the message names the pairs that fit.
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


def require_store_clients(spark: SparkSession, places: Iterable[Path | Location]) -> None:
    """Checks that the JVM can reach these stores; Spark itself has Hadoop's client for HDFS.

    Raises:
        ConfigError: Hadoop's client for S3 is needed and not on the class path; the message names the packages.
    """
    place = next((place for place in places if isinstance(place, Location) and place.scheme == "s3a"), None)
    if place is not None and _class(spark, STORE_CLIENT) is None:
        hadoop = str(jvm_class(spark, "org.apache.hadoop.util.VersionInfo").getVersion())
        raise ConfigError(
            f"{place}: Hadoop's client for S3 is not on Spark's class path: run `make setup`, or give spark-submit"
            f" --packages {','.join(store_packages(hadoop))} --exclude-packages {','.join(STORE_EXCLUDES)}"
        )


def store_packages(hadoop: str) -> list[str]:
    """The packages of Spark's client for S3; of the SDK's 550 MB only the modules that it uses, 12 MB."""
    return [f"org.apache.hadoop:hadoop-aws:{hadoop}", *(f"{_SDK}:{name}:{_SDK_VERSION}" for name in _SDK_MODULES)]


def _delta_version(spark: SparkSession) -> str | None:
    if _class(spark, EXTENSION) is None:
        return None
    return str(_class(spark, "io.delta.package$").getField("MODULE$").get(None).VERSION())


def _class(spark: SparkSession, name: str) -> Any:  # noqa: ANN401 - a class of the JVM, or None
    loader = jvm_class(spark, "java.lang.Thread").currentThread().getContextClassLoader()
    try:
        return jvm_class(spark, "java.lang.Class").forName(name, True, loader)
    except Exception as error:
        if "ClassNotFoundException" in str(error):
            return None
        raise
