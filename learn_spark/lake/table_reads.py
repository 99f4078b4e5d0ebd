"""Plans how a Delta table is read: how its files are found, and which Parquet reader reads them.

Delta finds a version's files by Spark jobs over its log, which cost more than reading the rows of a small table. If the
files are few, the checksum that Delta writes beside each commit lists them, and the driver takes them from there.
"""

from typing import Any

from pyspark.sql import DataFrame, SparkSession

from learn_spark.lake.jvm import jvm_class

_SOURCES = "org.apache.spark.sql.execution.datasources"
_SMALL_BYTES = 64 << 20  # for a larger table, Delta's index gives joins its size after a filter


def planned(table: DataFrame, is_native: bool) -> DataFrame:
    """The same rows of the same version, read at less cost; `table` itself if only Delta can read it.

    If the checksum of a small table lists its files, Spark needs no job to find them, and the frame stays as it is:
    later commits do not change its rows. Else Delta's index says which files there are, and skips those that a filter
    rules out. For Comet the files are read by Spark's own reader, since Comet does not replace Delta's.

    The table's protocol says who can read its files: a table that needs more than reader version 1 has deletion
    vectors, mapped columns, widened types or another feature that changes what a file's bytes mean. Columns that a file
    lacks are null for both readers.

    Args:
        table: what `format("delta").load` returned, with nothing on top.
        is_native: whether Comet is to read it.
    """
    spark = table.sparkSession
    session: Any = spark._jsparkSession
    frame: Any = table._jdf
    relation = frame.queryExecution().analyzed().collectLeaves().head().relation()
    index = relation.location()
    if index.protocol().minReaderVersion() > 1:
        return table
    few = few_files(spark, index.getSnapshot())
    if few is None and not is_native:
        return table
    plain = jvm_class(spark, f"{_SOURCES}.HadoopFsRelation")(
        few or index,
        relation.partitionSchema(),
        relation.dataSchema(),
        relation.bucketSpec(),
        jvm_class(spark, f"{_SOURCES}.parquet.ParquetFileFormat")(),
        relation.options(),
        session,
    )
    return DataFrame(session.baseRelationToDataFrame(plain), spark)


def few_files(spark: SparkSession, snapshot: Any) -> Any | None:  # noqa: ANN401 - Delta's own objects
    """An index of the files that a small table's checksum lists; None if the table is larger, or nothing lists them."""
    found = snapshot.checksumOpt()
    if found.isEmpty() or found.get().tableSizeBytes() > _SMALL_BYTES or found.get().allFiles().isEmpty():
        return None
    log, files = snapshot.deltaLog(), found.get().allFiles().get()
    index = jvm_class(spark, "org.apache.spark.sql.delta.files.TahoeBatchFileIndex")
    return index(spark._jsparkSession, "read", files, log, log.dataPath(), snapshot, False)
