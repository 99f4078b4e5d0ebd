"""The last 100 purchases of every user before a day, oldest first, ties by event_id: ours, naive, floor, and peers.

Ours is measured with and without Comet. The peers are polars and DuckDB.

All read the same Parquet and write Parquet (snappy) with user_id string, item_idx array<int> and event_ts
array<bigint> of epoch seconds. The floor is the work that no plan on Spark avoids: the same rows with the output's
columns, shuffled by user and written.
"""

import os
import sys
from datetime import date, timedelta
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks import logs
from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.process import ROOT
from benchmarks.ratios import Ratio, SlopeRatio, Target
from benchmarks.spark import start_session
from learn_spark.config.load import load_config
from learn_spark.lake.arrow_rows import ArrowRows, write_rows
from learn_spark.lake.schemas import USER_HISTORY
from learn_spark.sequences.events import limited, sided_events, survey, tasks_of
from learn_spark.sequences.histories import full_histories

LENGTH = 100
DAY = logs.END - timedelta(days=1)  # the log's last day must be left out
SETTINGS = load_config(ROOT / "conf" / "base.yaml").sequences.model_copy(
    update={"history_length": LENGTH, "target_events": []}
)
DUCKDB_SHARE = 0.7  # DuckDB's share of the memory limit; its own default is 0.8 of the machine's memory

HISTORIES = "benchmarks.sequences:check_histories"
BENCH = Benchmark(
    name="sequences",
    sizes=(20e6, 60e6, 180e6),
    quick_sizes=(0.5e6, 1e6, 2e6),
    prepare="benchmarks.sequences:prepare",
    contenders=(
        Contender("ours", "benchmarks.sequences:ours", HISTORIES),
        Contender("comet", "benchmarks.sequences:over_comet", HISTORIES),
        Contender("naive", "benchmarks.sequences:naive", HISTORIES),
        Contender("floor", "benchmarks.sequences:floor", "benchmarks.sequences:check_rows"),
        Contender("polars", "benchmarks.sequences:with_polars", HISTORIES),
        Contender("duckdb", "benchmarks.sequences:with_duckdb", HISTORIES),
    ),
    ratios=(
        Ratio("naive", "ours", Target(">=", 2.0)),
        Ratio("ours", "floor", Target("<=", 1.4)),
        Ratio("ours", "polars"),
        Ratio("ours", "duckdb"),
        Ratio("comet", "ours"),
        Ratio("comet", "polars", Target("<=", 4.0), at=20e6),
        Ratio("comet", "duckdb"),
    ),
    slope_ratios=tuple(SlopeRatio(each, ("polars", "duckdb"), Target("<=", 1.5)) for each in ("ours", "comet")),
)


def prepare(task: Task) -> None:
    """Makes the logs of all sizes."""
    spark = start_session(task, task.size)
    for size in task.sizes:
        logs.ensure_log(spark, task.folder, int(size))


def ours(task: Task) -> None:
    """This project's histories on plain Spark."""
    _ours(task, "spark")


def over_comet(task: Task) -> None:
    """This project's histories on Spark with Comet."""
    _ours(task, "comet")


def _ours(task: Task, engine: str) -> None:
    spark = start_session(task, task.size, engine=engine)
    task.output.mkdir(parents=True)
    with task.clock():
        histories = histories_of(spark.read.parquet(str(_log(task))), DAY)
        write_rows(histories, task.output, USER_HISTORY)


def naive(task: Task) -> None:
    """The first approach that comes to mind: all events of a user as structs in one list, sorted and cut."""
    spark = start_session(task, task.size)
    with task.clock():
        entry = F.struct("event_ts", "event_id", "item_idx")
        events = F.sort_array(F.collect_list(entry)).alias("events")
        lists = _purchases(spark.read.parquet(str(_log(task)))).groupBy("user_id").agg(events)
        last = F.slice("events", F.greatest(F.size("events") - LENGTH + 1, F.lit(1)), LENGTH)
        lists.select("user_id", last.alias("events")).select(
            "user_id",
            F.transform("events", lambda event: event["item_idx"]).alias("item_idx"),
            F.transform("events", lambda event: F.unix_seconds(event["event_ts"])).alias("event_ts"),
        ).write.parquet(str(task.output))


def floor(task: Task) -> None:
    """Only reads, shuffles and writes, without the event_id that the order of ties needs."""
    spark = start_session(task, task.size)
    with task.clock():
        purchases = _purchases(spark.read.parquet(str(_log(task))))
        seconds = F.unix_seconds("event_ts").alias("event_ts")
        purchases.select("user_id", "item_idx", seconds).repartition("user_id").write.parquet(str(task.output))


def with_polars(task: Task) -> None:
    """Polars' streaming engine. Sorting within each group beat a global sort and top_k_by in time and memory."""
    os.environ["POLARS_MAX_THREADS"] = "2"
    import polars as pl

    task.output.mkdir(parents=True)
    with task.clock():
        purchases = pl.scan_parquet(f"{_log(task)}/**/*.parquet", hive_partitioning=True).filter(
            (pl.col("ds") < DAY) & (pl.col("event_type") == "purchase")
        )
        order = ("event_ts", "event_id")
        purchases.group_by("user_id").agg(
            pl.col("item_idx").sort_by(*order).tail(LENGTH),
            pl.col("event_ts").dt.epoch("s").sort_by(*order).tail(LENGTH),
        ).sink_parquet(task.output / "part.parquet", compression="snappy", engine="streaming")


def with_duckdb(task: Task) -> None:
    """DuckDB, which may spill. A limit on ranks beat list(… ORDER BY …), list_sort and max(…, n) in time or memory."""
    import duckdb

    task.output.mkdir(parents=True)
    settings = {
        "threads": 2,
        "preserve_insertion_order": False,
        "memory_limit": f"{int(task.memory_mb * DUCKDB_SHARE)}MiB",
        "temp_directory": str(task.output.with_name("scratch") / "duckdb"),
    }
    connection = duckdb.connect(config=settings)
    with task.clock():
        connection.execute(f"""
            COPY (
                SELECT user_id,
                       list(item_idx ORDER BY rank DESC) AS item_idx,
                       list(epoch(event_ts)::BIGINT ORDER BY rank DESC) AS event_ts
                FROM (
                    SELECT user_id, item_idx, event_ts,
                           row_number() OVER (PARTITION BY user_id ORDER BY event_ts DESC, event_id DESC) AS rank
                    FROM read_parquet('{_log(task)}/**/*.parquet', hive_partitioning = true)
                    WHERE ds < DATE '{DAY}' AND event_type = 'purchase'
                    QUALIFY rank <= {LENGTH}
                )
                GROUP BY user_id
            ) TO '{task.output / "part.parquet"}' (FORMAT parquet, COMPRESSION snappy)
        """)


def histories_of(log: DataFrame, day: date) -> ArrowRows:
    """All users' histories as the job builds them: it finds heavy users and limits their events before the shuffle."""
    events = sided_events(log, SETTINGS)
    found = survey(events)
    return full_histories(limited(events, found.heavy, SETTINGS), day, SETTINGS, tasks_of(events, found.rows))


def check_histories(task: Task) -> None:
    """The number of users and the sum of their rows' hashes, which does not depend on the order of rows."""
    task.figures["checksum"] = checksum(task.output, "user_id, item_idx::INT[], event_ts::BIGINT[]")


def check_rows(task: Task) -> None:
    """The same checksum for the floor's rows."""
    task.figures["checksum"] = checksum(task.output, "user_id, item_idx, event_ts")


def checksum(folder: Path, columns: str) -> str:
    """Number of rows in a folder of Parquet files, and the sum of the rows' hashes over the columns."""
    import duckdb

    query = f"SELECT count(*), sum(hash({columns})) FROM read_parquet('{folder}/**/*.parquet')"
    rows, total = duckdb.connect(config={"threads": 2}).execute(query).fetchone()
    return f"{rows}:{total}"


def _purchases(log: DataFrame) -> DataFrame:
    return log.where((F.col("ds") < F.lit(DAY)) & (F.col("event_type") == "purchase"))


def _log(task: Task) -> Path:
    return task.folder / "logs" / f"{int(task.size)}"


if __name__ == "__main__":
    sys.exit(main(BENCH))
