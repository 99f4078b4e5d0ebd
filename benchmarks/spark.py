"""Spark in a contender's process: the same session as for jobs, on two threads with a heap of 3 GiB."""

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
    """A session, warmed up by a tiny job; shuffles have 500,000 events per partition.

    Args:
        task: the task; the tiny job writes beside its output.
        events: number of events that the contender will shuffle.
        ui: whether Spark serves /api/v1, which `bytes_moved` and `jobs_done` need.
        engine: the engine that executes Spark's plans, `spark` or `comet`.
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
    """Loads the code that every job needs: reading and writing Parquet, a shuffle, lists."""
    spark.range(1000).select("id", (F.col("id") % 3).alias("key")).write.partitionBy("key").parquet(f"{path}_rows")
    lists = spark.read.parquet(f"{path}_rows").groupBy("key").agg(F.sort_array(F.collect_list("id")).alias("ids"))
    lists.write.parquet(f"{path}_lists")


def bytes_moved(spark: SparkSession, since_stage: int) -> dict[str, int]:
    """Bytes that the stages from number `since_stage` on have read, shuffled and written, and their sum as `bytes`."""
    stages = [stage for stage in _stages(spark) if stage["stageId"] >= since_stage]
    moved = {name: sum(stage[key] for stage in stages) for name, key in BYTES.items()}
    return moved | {"bytes": sum(moved.values())}


def next_stage(spark: SparkSession) -> int:
    """The lowest number that the next stage can get."""
    return 1 + max((stage["stageId"] for stage in _stages(spark)), default=-1)


def _stages(spark: SparkSession) -> list[dict]:
    """Spark's own figures by stage, after every job has ended."""
    jobs_done(spark)
    return _ask(spark, "stages")


def jobs_done(spark: SparkSession) -> list[dict]:
    """Spark's own figures of all jobs, after every job has ended."""
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
