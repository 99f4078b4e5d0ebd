"""The Spark steps with Comet: they give the rows of plain Spark, and their plans are native where possible."""

import json
import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable

from learn_spark.lake.engine import misfit
from tests.builders.commands import run_job
from tests.builders.journey import assert_equal_tables, assert_equal_vectors, finished_journey
from tests.builders.plans import nodes_of_steps

pytestmark = [
    pytest.mark.spark,
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(misfit() is not None, reason=str(misfit())),
]

# Nodes that Spark itself runs: rows from Python and texts that Comet cannot read, Delta's search for the files that a
# write replaces (Scan, Filter, and objects of its index), and broadcasts to joins that are not equality joins.
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
    """The lake of plain Spark, a copy in which Comet has run the steps again, and its plans' nodes by step."""
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
