"""Spark in a contender's process: the session that jobs get, on two threads with a heap of 3 GiB."""

import json
import time
import urllib.request

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks.child import Task
from benchmarks.process import ROOT
from learn_spark.config.load import load_config
from learn_spark.lake.session import build_session

EVENTS_A_PARTITION = 500_000
BYTES = {"read_bytes": "inputBytes", "shuffle_bytes": "shuffleWriteBytes", "written_bytes": "outputBytes"}


def start_session(task: Task, events: float, ui: bool = False, engine: str = "spark") -> SparkSession:
    """A session, warmed by a tiny job; the shuffle has 500,000 events per partition.

    Args:
        task: whose output lies beside what the tiny job writes.
        events: how many events the contender will shuffle.
        ui: whether Spark answers at /api/v1, which `bytes_moved` asks.
        engine: what works below Spark's plans, `spark` or `comet`.
    """
    config = load_config(
        ROOT / "conf" / "base.yaml",
        [
            "spark.master=local[2]",
            "spark.driver_memory=3g",
            f"spark.shuffle_partitions={max(4, round(events / EVENTS_A_PARTITION))}",
            f"spark.ui={str(ui).lower()}",
            f"spark.engine={engine}",
        ],
    )
    spark = build_session(config, "benchmark")
    _warm_up(spark, str(task.output.with_name("scratch") / "tiny"))
    return spark


def _warm_up(spark: SparkSession, path: str) -> None:
    """Loads what every job needs: Parquet both ways, a shuffle, lists."""
    spark.range(1000).select("id", (F.col("id") % 3).alias("key")).write.partitionBy("key").parquet(f"{path}_rows")
    lists = spark.read.parquet(f"{path}_rows").groupBy("key").agg(F.sort_array(F.collect_list("id")).alias("ids"))
    lists.write.parquet(f"{path}_lists")


def bytes_moved(spark: SparkSession, since_stage: int) -> dict[str, int]:
    """Bytes that stages from a number on have read, shuffled and written, and their sum as `bytes`."""
    stages = [stage for stage in _stages(spark) if stage["stageId"] >= since_stage]
    moved = {name: sum(stage[key] for stage in stages) for name, key in BYTES.items()}
    return moved | {"bytes": sum(moved.values())}


def next_stage(spark: SparkSession) -> int:
    """The number that the next stage gets at least."""
    return 1 + max((stage["stageId"] for stage in _stages(spark)), default=-1)


def _stages(spark: SparkSession) -> list[dict]:
    """Spark's own account, once it has heard of the end of every job."""
    jobs_done(spark)
    return _ask(spark, "stages")


def jobs_done(spark: SparkSession) -> list[dict]:
    """Spark's account of all its jobs, once each has ended."""
    jobs = _ask(spark, "jobs")
    while any(job["status"] == "RUNNING" for job in jobs):
        time.sleep(0.05)
        jobs = _ask(spark, "jobs")
    return jobs


def _ask(spark: SparkSession, what: str) -> list[dict]:
    context = spark.sparkContext
    address = f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/{what}"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=60) as answer:
        return json.load(answer)
