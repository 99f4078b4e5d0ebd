"""Frame transforms that several stages share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.conversion import LocalDataToArrowConversion
from pyspark.sql.types import StructType

BUCKETS = 256


@contextmanager
def setting(spark: SparkSession, key: str, value: str) -> Iterator[None]:
    """Changes a setting of the session inside the block."""
    before = spark.conf.get(key, None)
    spark.conf.set(key, value)
    try:
        yield
    finally:
        spark.conf.set(key, before) if before is not None else spark.conf.unset(key)


def only_row(df: DataFrame) -> Row:
    """The row of a frame that has exactly one, such as an aggregate without groups.

    The whole frame is collected: if Spark needs only a part of a Python worker's output, it ends the worker, and the
    model that the worker has loaded is lost.
    """
    (row,) = df.collect()
    return row


def frame_of(spark: SparkSession, rows: Sequence[Sequence[Any]], ddl: str) -> DataFrame:
    """A frame of rows on the driver; passed as Arrow, since PySpark sends a list through a Python worker first."""
    if not rows:
        return spark.createDataFrame([], ddl)
    schema = StructType.fromDDL(ddl)
    assert isinstance(schema, StructType), ddl
    return spark.createDataFrame(LocalDataToArrowConversion.convert(list(rows), schema, False), schema)


def zero_padded(values: Column, length: int) -> Column:
    """Lists of at most `length` numbers, padded on the right with zeros to `length`."""
    return F.concat(values, F.array_repeat(F.lit(0), F.lit(length) - F.size(values)))


def tasks_for(spark: SparkSession, rows: int, most: int, least: int) -> int:
    """How many tasks to use for `rows` rows: about `most` rows per task; for few rows one task per core, but at least
    `least` rows per task.

    Spark does not change an explicit number of tasks at run time, and only then does Comet hand its batches to Python
    unchanged. The number stays within `spark.shuffle_partitions`.
    """
    cores, limit = spark.sparkContext.defaultParallelism, int(str(spark.conf.get("spark.sql.shuffle.partitions")))
    return min(limit, max(rows // most, min(cores, rows // least), 1))


def counted(frames: Mapping[str, DataFrame], *by: str) -> dict[tuple[Any, ...], int]:
    """Counts rows of several frames in one query, by name and the values of `by`; groups without rows are left out."""
    named = [df.select(F.lit(name).alias("of"), *by) for name, df in frames.items()]
    rows = reduce(DataFrame.unionByName, named).groupBy("of", *by).count().collect()
    return {tuple(row)[:-1]: row["count"] for row in rows}


def with_dense_number(df: DataFrame, key: Sequence[str], name: str, first: int, after: Sequence[str] = ()) -> DataFrame:
    """Numbers rows first, first + 1, … in parallel and without gaps; equal frames get equal numbers.

    Rows are numbered within hash buckets of the key; a bucket begins where the ones before it end. Only the
    buckets' sizes pass through one task.

    Args:
        df: rows with a unique key.
        key: its columns.
        name: the new int column.
        first: the first number.
        after: columns of few values (such as a day) by which the numbers are ordered first.
    """
    bucket = [*after, "_bucket"]
    bucketed = _bucketed(df, key)
    before = Window.orderBy(*bucket).rowsBetween(Window.unboundedPreceding, -1)
    starts = (
        bucketed.groupBy(*bucket)
        .count()
        .withColumn("_start", F.coalesce(F.sum("count").over(before), F.lit(0)))
        .drop("count")
    )
    within = F.row_number().over(Window.partitionBy(*bucket).orderBy(*key))
    numbered = bucketed.join(F.broadcast(starts), on=bucket, how="inner")
    return numbered.withColumn(name, (F.col("_start") + within + (first - 1)).cast("int")).drop("_bucket", "_start")


def with_number_of_few(
    df: DataFrame, key: Sequence[str], name: str, first: int, after: Sequence[str] = ()
) -> DataFrame:
    """The same numbers as `with_dense_number`, for rows that one task can sort."""
    number = F.row_number().over(Window.orderBy(*after, "_bucket", *key))
    return _bucketed(df, key).withColumn(name, (number + (first - 1)).cast("int")).drop("_bucket")


def _bucketed(df: DataFrame, key: Sequence[str]) -> DataFrame:
    return df.withColumn("_bucket", F.pmod(F.xxhash64(*key), F.lit(BUCKETS)))
