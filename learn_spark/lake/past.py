"""Removes a table's past from its log: everything that the log says about earlier versions.

Delta's log has the least and the greatest value of each file's first columns in clear text, so ids stay in commits,
checkpoints and checksums for as long as these files exist.
"""

import re

from pyspark.sql import SparkSession

from learn_spark.lake.identity import LOG, newest_version
from learn_spark.lake.jvm import jvm_class
from learn_spark.lake.live_files import delta_log, forget_logs, newest_snapshot
from learn_spark.storage import Place

_VERSION = re.compile(r"\.?(\d{20})\.")


def cut_log(spark: SparkSession, table: Place) -> int:
    """Writes a checkpoint of the newest version and deletes the log's files of older ones; returns how many.

    If this is interrupted, the log still reads the same: the checkpoint comes first, then the oldest files are deleted.
    """
    log, newest = table / LOG, newest_version(table.parent, table.name)
    _checkpoint(spark, table)
    assert any(log.glob(f"{newest:020d}.checkpoint*.parquet")), f"{log} got no checkpoint of version {newest}"
    gone = [file for file in log.glob("*") if (found := _VERSION.match(file.name)) and int(found[1]) < newest]
    for file in sorted(gone, key=str):
        file.unlink()
    forget_logs(spark)
    return len(gone)


def _checkpoint(spark: SparkSession, table: Place) -> None:
    log = delta_log(spark, table)
    log.checkpoint(newest_snapshot(spark, log), jvm_class(spark, "scala.Option").empty())
