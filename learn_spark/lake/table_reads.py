"""How a Delta table is read: which of its files there are, and by whose Parquet reader.

Delta finds a version's files by Spark jobs over its log: on a small table they cost more than its rows. The checksum
that Delta writes beside each commit holds the files themselves where they are few, and so does the driver then.
"""

from typing import Any

from pyspark.sql import DataFrame, SparkSession

from learn_spark.lake.jvm import jvm_class

_SOURCES = "org.apache.spark.sql.execution.datasources"
_SMALL_BYTES = 64 << 20  # of a larger table, Delta's index knows the size of what a filter leaves, which joins go by


def planned(table: DataFrame, is_native: bool) -> DataFrame:
    """The same rows of the same version, read at less cost; `table` itself where only Delta can read it.

    Where the checksum of a small table names its files, Spark needs no job to find them, and they are those of now:
    later commits do not change what the frame holds. Else Delta's index says which files there are, and skips those
    that a filter rules out; Comet still needs Spark's own reader, as it leaves Delta's to Spark.

    The table's protocol says who can read its files: one that needs more than reader version 1 has deletion vectors,
    mapped columns, widened types or another feature that changes what a file's bytes mean. Columns that a file lacks
    are null for both readers.

    Args:
        table: what `format("delta").load` gave, with nothing on top.
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
    """An index of the files that the checksum of a small table names; None where it does not name them."""
    found = snapshot.checksumOpt()
    if found.isEmpty() or found.get().tableSizeBytes() > _SMALL_BYTES or found.get().allFiles().isEmpty():
        return None
    log, files = snapshot.deltaLog(), found.get().allFiles().get()
    index = jvm_class(spark, "org.apache.spark.sql.delta.files.TahoeBatchFileIndex")
    return index(spark._jsparkSession, "read", files, log, log.dataPath(), snapshot, False)
