"""A Delta table's files read as plain Parquet: what Delta's own reader reads, Comet leaves to Spark."""

from typing import Any

from pyspark.sql import DataFrame


def as_parquet(table: DataFrame) -> DataFrame:
    """The same rows of the same version by Spark's own Parquet reader; `table` itself where only Delta can read it.

    Delta's index still says which files there are, and skips those that a filter rules out. Its protocol says who can
    read them: a table that needs more than reader version 1 has deletion vectors, mapped columns, widened types or
    another feature that changes what a file's bytes mean. Columns that a file lacks are null for both readers.

    Args:
        table: what `format("delta").load` gave, with nothing on top.
    """
    spark, frame = table.sparkSession, _jvm(table._jdf)
    relation = frame.queryExecution().analyzed().collectLeaves().head().relation()
    if relation.location().protocol().minReaderVersion() > 1:
        return table
    datasources = _jvm(spark._jvm).org.apache.spark.sql.execution.datasources
    plain = datasources.HadoopFsRelation(
        relation.location(),
        relation.partitionSchema(),
        relation.dataSchema(),
        relation.bucketSpec(),
        datasources.parquet.ParquetFileFormat(),
        relation.options(),
        spark._jsparkSession,
    )
    return DataFrame(_jvm(spark._jsparkSession).baseRelationToDataFrame(plain), spark)


def _jvm(value: Any) -> Any:  # noqa: ANN401 - what the JVM's objects have is known when it runs
    return value
