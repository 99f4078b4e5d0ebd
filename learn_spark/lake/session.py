"""The one place that builds a Spark session."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

from delta import configure_spark_with_delta_pip
from pyspark.errors import PySparkRuntimeError
from pyspark.sql import SparkSession

from learn_spark.config.load import Config
from learn_spark.errors import ConfigError
from learn_spark.lake.schemas import TABLES

DELTA_EXTENSION = "io.delta.sql.DeltaSparkSessionExtension"
DELTA_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
_LOG_PATTERN = "%d{yy/MM/dd HH:mm:ss} %p %c{1}: %m%n%ex"
# No dictionary encoding for vectors: floats do not repeat, and trying cost 20% of the write.
_VECTOR_TYPES = {"array<float>": ".list.element", "binary": ""}
_PLAIN_VECTORS = {
    f"spark.hadoop.parquet.enable.dictionary#{column.name}{_VECTOR_TYPES[column.type]}": "false"
    for table in TABLES.values()
    for column in table.columns
    if column.type in _VECTOR_TYPES
}


def build_session(config: Config, app_name: str, log: Path | None = None) -> SparkSession:
    """A session with Delta, UTC and ANSI mode; under `spark-submit`, that command's master and memory win.

    Args:
        config: the run's.
        app_name: what Spark's pages call it.
        log: gets the errors that Spark logs in this process, with their stacks, instead of the terminal; created when
            there is one.

    Raises:
        ConfigError: where Java, Delta's jars or a port is missing; the line says which and what to do.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if config.spark.master and config.spark.master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.appName(f"learn-spark {app_name}")
    for key, value in _settings(config).items():
        builder = builder.config(key, value)
    if not _is_submitted():
        if config.spark.master:
            builder = builder.master(config.spark.master)
        builder = configure_spark_with_delta_pip(builder.config("spark.driver.memory", config.spark.driver_memory))
    try:
        spark = builder.getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        java = _jvm(spark).java.lang
        java.Class.forName(DELTA_EXTENSION, True, java.Thread.currentThread().getContextClassLoader())
    except Exception as error:
        raise ConfigError(_explain(error)) from error
    if log is not None:
        _log_to(spark, log)
    return spark


def _jvm(spark: SparkSession) -> Any:  # noqa: ANN401 - what py4j's gateway has is known when it runs
    return spark._jvm


def _log_to(spark: SparkSession, file: Path) -> None:
    """Lets the driver's JVM, which in local mode is the executors' too, log to a file alone."""
    log4j = _jvm(spark).org.apache.logging.log4j
    context = log4j.LogManager.getContext(False)
    layout = log4j.core.layout.PatternLayout.newBuilder().withPattern(_LOG_PATTERN).build()
    appender = log4j.core.appender.FileAppender.newBuilder().withFileName(str(file)).withCreateOnDemand(True)
    appender = appender.setName(str(file)).setLayout(layout).build()
    appender.start()
    root = context.getConfiguration().getRootLogger()
    for name in list(root.getAppenders()):
        root.removeAppender(name)
    root.addAppender(appender, None, None)
    context.updateLoggers()


def _is_submitted() -> bool:
    """True under `spark-submit`: the JVM is already there, so jars and memory cannot be set any more."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def _settings(config: Config) -> dict[str, str]:
    partitions = str(config.spark.shuffle_partitions)
    return {
        "spark.sql.extensions": DELTA_EXTENSION,
        "spark.sql.catalog.spark_catalog": DELTA_CATALOG,
        "spark.sql.warehouse.dir": str(config.lake.root / "_warehouse"),  # unused; not in the working directory
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.legacy.parquet.nanosAsLong": "true",  # pandas writes them; ingest makes times of them
        "spark.sql.shuffle.partitions": partitions,
        "spark.databricks.delta.snapshotPartitions": str(min(int(partitions), 50)),
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": partitions,  # tasks of a VACUUM; else 10,000
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.python.sql.dataFrameDebugging.enabled": "false",  # else a stack trace for each column expression
        **_PLAIN_VECTORS,
        "spark.ui.enabled": str(config.spark.ui).lower(),
        "spark.ui.showConsoleProgress": "false",
        **config.spark.conf,
    }


def _explain(error: Exception) -> str:
    text = str(error)
    if isinstance(error, PySparkRuntimeError) and "JAVA_GATEWAY_EXITED" in text:
        return (
            "Spark's JVM did not start: install Java 17 or 21 and set JAVA_HOME"
            " (`make setup` does both on Debian);"
            f" JAVA_HOME is {os.environ.get('JAVA_HOME', 'not set')}"
        )
    if "DeltaSparkSessionExtension" in text or "ClassNotFoundException" in text:
        return (
            "Delta's jars are not on Spark's class path: run `make setup`, or add "
            "--packages io.delta:delta-spark_2.13:<version> to spark-submit"
        )
    if "BindException" in text or "Address already in use" in text:
        host = socket.gethostname()
        return f"Spark found no free port on {host}: set spark.port.maxRetries or free one ({text[:200]})"
    return f"Spark did not start: {' '.join(text.split())[:500]}"
