"""Which files a read of a table opens, how it finds them, and which reader reads them."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from learn_spark.lake import table_reads
from learn_spark.lake.frames import setting
from learn_spark.lake.live_files import forget_logs
from learn_spark.lake.schemas import TABLES
from learn_spark.lake.table_reads import planned
from learn_spark.lake.tables import Tables
from tests.builders.contexts import make_tables

pytestmark = pytest.mark.spark

FIRST, NAME = date(2011, 9, 1), "user_history"


def histories(spark: SparkSession, first: int, stop: int) -> DataFrame:
    """One row per day, and so one file per day."""
    rows = [(f"u{n}", FIRST + timedelta(days=n), [1], [1], None) for n in range(first, stop)]
    return spark.createDataFrame(rows, TABLES[NAME].columns_ddl)


@pytest.fixture
def tables(spark: SparkSession, tmp_path: Path) -> Tables:
    made = make_tables(spark, tmp_path / "lake")
    made.append(NAME, histories(spark, 0, 60))  # more files than Delta itself would name beside a commit
    return made


def users(df: DataFrame) -> set[str]:
    return {row.user_id for row in df.collect()}


def jobs(spark: SparkSession) -> int:
    return len(spark.sparkContext.statusTracker().getJobIdsForGroup())


def index_of(df: DataFrame) -> str:
    plan: Any = df._jdf.queryExecution().analyzed()
    return plan.collectLeaves().head().relation().location().getClass().getSimpleName()


def test_the_files_of_a_small_table_are_found_without_a_job(spark: SparkSession, tables: Tables) -> None:
    assert tables.overwrite_days(NAME, histories(spark, 10, 11), [FIRST + timedelta(days=n) for n in (10, 11)]) == 1
    before, days = jobs(spark), "ds BETWEEN '2011-09-10' AND '2011-09-20'"
    found = users(tables.read(NAME).where(days))
    assert jobs(spark) == before + 1
    assert found == {f"u{n}" for n in range(9, 20) if n != 11}
    assert users(spark.read.format("delta").load(tables.path(NAME)).where(days)) == found
    assert jobs(spark) > before + 2, "Delta finds them by jobs"


def test_a_frame_holds_what_it_was_read_with(spark: SparkSession, tables: Tables) -> None:
    frame = tables.read(NAME)
    tables.append(NAME, histories(spark, 60, 62))
    assert frame.count() == 60
    assert tables.read(NAME).count() == 62
    assert tables.read(NAME, version=1).count() == 60


def test_files_of_large_tables_and_those_without_a_checksum_are_found_by_delta(
    spark: SparkSession, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert index_of(tables.read(NAME)) == "TahoeBatchFileIndex"
    with monkeypatch.context() as patch:
        patch.setattr(table_reads, "_SMALL_BYTES", 0)
        assert index_of(tables.read(NAME)) == "TahoeLogFileIndex"
        assert tables.overwrite_days(NAME, histories(spark, 5, 6), [FIRST + timedelta(days=n) for n in (4, 5)]) == 1
        assert len(users(tables.read(NAME))) == 59
    for hurt in (lambda file: file.write_text("not a checksum"), Path.unlink):
        for checksum in Path(tables.path(NAME), "_delta_log").glob("0*.crc"):
            hurt(checksum)
        forget_logs(spark)
        assert index_of(tables.read(NAME)) == "TahoeLogFileIndex"
        assert len(users(tables.read(NAME))) == 59


def test_rows_are_counted_where_a_session_asks_for_no_statistics(spark: SparkSession, tables: Tables) -> None:
    with setting(spark, "spark.databricks.delta.stats.collect", "false"):
        assert tables.append(NAME, histories(spark, 60, 63)) == 3
        assert tables.overwrite_days(NAME, histories(spark, 5, 6), [FIRST + timedelta(days=5)]) == 1
    assert tables.read(NAME).count() == 63


def test_what_spark_writes_is_held_against_the_contract(spark: SparkSession, tables: Tables) -> None:
    version, rows = tables.version(NAME), histories(spark, 70, 72)
    with pytest.raises(Exception, match="DELTA_NOT_NULL_CONSTRAINT_VIOLATED"):
        tables.append(
            NAME, rows.selectExpr("CASE WHEN user_id <> 'u71' THEN user_id END AS user_id", *rows.columns[1:])
        )
    with pytest.raises(ValueError, match=r"user_history: rows of ds 2011-11-10 would take the place of"):
        tables.overwrite_days(NAME, rows, [FIRST + timedelta(days=71)])
    assert tables.version(NAME) == version


def test_tables_that_more_than_a_plain_reader_needs_are_left_to_delta(spark: SparkSession, tmp_path: Path) -> None:
    """Both readers agree on every version; tables with deletion vectors or mapped columns are read by Delta's."""
    path = str(tmp_path / "table")
    for values in ([("a", "2024-05-01"), ("b c", "2024-05-02")], [("d", "2024-05-02")]):
        rows = spark.createDataFrame(values, "id string, day string").selectExpr("id", "cast(day AS date) AS day")
        if values[0][0] == "d":
            rows = rows.withColumn("more", rows["id"])
        rows.write.format("delta").mode("append").option("mergeSchema", "true").partitionBy("day").save(path)

    def read(version: int) -> DataFrame:
        return spark.read.format("delta").option("versionAsOf", version).load(path)

    for version in (0, 1):
        for where in ("true", "day = '2024-05-02'", "id > 'a'"):
            by_delta, by_parquet = read(version).where(where), planned(read(version), True).where(where)
            assert by_delta.schema == by_parquet.schema
            assert sorted(map(str, by_delta.collect())) == sorted(map(str, by_parquet.collect())) != []
    assert file_format(planned(read(1), True)) == "ParquetFileFormat"
    for feature in ("delta.enableDeletionVectors = true", "delta.columnMapping.mode = 'name'"):
        spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ({feature})")
        newest = spark.read.format("delta").load(path)
        assert file_format(planned(newest, True)) == "DeltaParquetFileFormat"
    spark.sql(f"DELETE FROM delta.`{path}` WHERE id = 'd'")
    assert {row.id for row in planned(spark.read.format("delta").load(path), True).collect()} == {"a", "b c"}
    assert planned(read(1), True).count() == 3, "an older version, from before the table needed more"


def file_format(df: DataFrame) -> str:
    plan: Any = df._jdf.queryExecution().analyzed()
    return plan.collectLeaves().head().relation().fileFormat().getClass().getSimpleName()
