"""The Spark steps with Comet below: the rows of plain Spark, and plans that are native where they can be."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession

from learn_spark.lake.engine import misfit
from learn_spark.lake.table_reads import planned
from tests.builders.commands import run_job
from tests.builders.journey import assert_equal_tables, assert_equal_vectors, finished_journey
from tests.builders.plans import nodes_of_steps

pytestmark = [pytest.mark.spark, pytest.mark.e2e, pytest.mark.skipif(misfit() is not None, reason=str(misfit()))]

# What Spark itself runs: Python's rows and texts that Comet cannot read, Delta's own look at the files that a write
# replaces (Scan, Filter, and objects of its index), broadcasts to a join that compares more than equality.
_DELTA = {"Scan", "Filter", "Project", "SerializeFromObject", "MapPartitions", "DeserializeToObject", "Exchange"}
_DELTA |= {"ColumnarToRow", "BroadcastExchange", "BroadcastHashJoin", "Union"}
NOT_NATIVE = {
    "ingest_events": _DELTA
    | {"InMemoryTableScan", "HashAggregate", "SortAggregate", "Sort", "WindowGroupLimit", "CollectLimit"},
    "build_sequences": _DELTA | {"HashAggregate", "BroadcastNestedLoopJoin"},
    "write_features": _DELTA | {"ObjectHashAggregate", "SortAggregate", "MapInArrow"},
}
NATIVE = {"CometNativeScan", "CometFilter", "CometProject", "CometExchange", "CometHashAggregate", "CometMapInBatch"}


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, set[str]]]:
    """The lake of plain Spark; a copy in which Comet has done the steps again; the nodes of its plans by step."""
    whole, _ = finished_journey()
    folder = tmp_path_factory.mktemp("comet")
    lake, log = folder / "lake", folder / "events"
    shutil.copytree(whole / "lake", lake)
    log.mkdir()
    named = ", ".join(f"'{step}'" for step in NOT_NATIVE)
    DeltaTable(str(lake / "intervals")).delete(f"step IN ({named})")
    DeltaTable(str(lake / "releases")).delete()
    conf = {
        "spark.sql.adaptive.enabled": "true",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": f"file://{log}",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC",
    }
    settings = ("--set", "spark.engine=comet", "--set", f"spark.conf={json.dumps(conf)}")
    done = run_job(folder, "run_pipeline", "--steps", ",".join(NOT_NATIVE), *settings)
    assert done.code == 0, done.err[-5000:]
    return whole / "lake", lake, nodes_of_steps(log, lake)


def test_rows_are_those_of_plain_spark(again: tuple[Path, Path, dict[str, set[str]]]) -> None:
    plain, native, _ = again
    assert_equal_tables(plain, native)
    assert_equal_vectors(plain, native)


def test_what_is_not_native_is_named(again: tuple[Path, Path, dict[str, set[str]]]) -> None:
    _, _, steps = again
    assert set(steps) == set(NOT_NATIVE)
    new = {step: {node for node in nodes if not node.startswith("Comet")} for step, nodes in steps.items()}
    assert {step: sorted(nodes - NOT_NATIVE[step]) for step, nodes in new.items()} == dict.fromkeys(NOT_NATIVE, [])
    for step in ("build_sequences", "write_features"):
        assert steps[step] >= NATIVE, step


def test_tables_that_more_than_a_plain_reader_needs_are_left_to_delta(spark: SparkSession, tmp_path: Path) -> None:
    """Every version by both readers, a column that older files lack, then a deletion vector and mapped columns."""
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
