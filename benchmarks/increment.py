"""A day's increment against a rebuild of the same state, with 0, 0.1, 1, 10 and 100% of the users active that day.

Sizes are percentages of active users. The log has 20 million events (quick: 1 million) over 300 days; a rebuild makes
the state before the new day from it. The increment writes the rows of active users only, the rebuild those of all
users. Applied on top of the earlier state, both must give the same state.
"""

import sys
from datetime import timedelta
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks import logs
from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.ratios import Ratio, Target
from benchmarks.sequences import SETTINGS, histories_of
from benchmarks.spark import bytes_moved, next_stage, start_session
from learn_spark.lake.arrow_rows import write_rows
from learn_spark.lake.schemas import USER_HISTORY
from learn_spark.sequences.events import limited, sided_events, survey
from learn_spark.sequences.histories import next_histories

EVENTS, QUICK_EVENTS = 20_000_000, 1_000_000
TODAY = logs.END + timedelta(days=1)  # the as-of date after the new day
ROWS = "user_id, item_idx::INT[], event_ts::BIGINT[]"

CHECK = "benchmarks.increment:check_state"
BENCH = Benchmark(
    name="increment",
    sizes=(0, 0.1, 1, 10, 100),
    quick_sizes=(0, 1, 100),
    prepare="benchmarks.increment:prepare",
    contenders=(
        Contender("increment", "benchmarks.increment:increment", CHECK),
        Contender("rebuild", "benchmarks.increment:rebuild", CHECK),
    ),
    ratios=(
        Ratio("increment", "rebuild", Target("<=", 0.10), at=1),
        Ratio("increment", "rebuild", Target("<=", 0.03), measure="bytes", at=1),
    ),
)


def prepare(task: Task) -> None:
    """Makes the log, the new days, and the state before them. The state is made in every run, by the current code."""
    spark = start_session(task, _events(task))
    log = spark.read.parquet(str(logs.ensure_log(spark, task.folder, _events(task))))
    histories_of(log, logs.END).frame.write.mode("overwrite").partitionBy("ds").parquet(str(_state(task)))
    for percent in task.sizes:
        day = logs.new_day(spark, _events(task), percent)
        day.write.mode("overwrite").parquet(str(_new_day(task, percent)))


def increment(task: Task) -> None:
    """Updates the earlier state from the log, reading only what it needs; heavy users are searched in the new day."""
    spark = start_session(task, _events(task), ui=True)
    task.output.mkdir(parents=True)
    first = next_stage(spark)
    with task.clock():
        previous = spark.read.parquet(str(_state(task)))
        events = sided_events(_log(spark, task).where(F.col("ds") == F.lit(logs.END)), SETTINGS)
        events = limited(events, survey(events).heavy, SETTINGS)
        added = write_rows(next_histories(previous, events, [TODAY], SETTINGS), task.output, USER_HISTORY)
    task.figures = _moved(spark, first, added)


def rebuild(task: Task) -> None:
    """Builds all users' histories from the log alone."""
    spark = start_session(task, _events(task), ui=True)
    task.output.mkdir(parents=True)
    first = next_stage(spark)
    with task.clock():
        added = write_rows(histories_of(_log(spark, task), TODAY), task.output, USER_HISTORY)
    task.figures = _moved(spark, first, added)


def check_state(task: Task) -> None:
    """The number of users and the sum of their rows' hashes, with the output applied on top of the earlier state."""
    import duckdb

    output, state = (f"read_parquet('{path}/**/*.parquet')" for path in (task.output, _state(task)))
    untouched = f"SELECT {ROWS} FROM {state} WHERE user_id NOT IN (SELECT user_id FROM {output})"
    rows = f"SELECT {ROWS} FROM {output} UNION ALL {untouched}"
    query = f"SELECT count(*), sum(hash(user_id, items, seconds)) FROM ({rows}) AS all_rows(user_id, items, seconds)"
    users, total = duckdb.connect(config={"threads": 2}).execute(query).fetchone()
    task.figures["checksum"] = f"{users}:{total}"


def _moved(spark: SparkSession, first: int, added: list[dict]) -> dict[str, int]:
    """Bytes that Spark read and shuffled, and that the tasks wrote without Spark's writer."""
    moved, written = bytes_moved(spark, first), sum(file["size"] for file in added)
    return moved | {"written_bytes": written, "bytes": moved["bytes"] - moved["written_bytes"] + written}


def _log(spark: SparkSession, task: Task) -> DataFrame:
    """The log with the new day as one more partition."""
    before = spark.read.parquet(str(task.folder / "logs" / f"{_events(task)}"))
    new_day = spark.read.parquet(str(_new_day(task, task.size)))
    return before.unionByName(new_day)


def _events(task: Task) -> int:
    return QUICK_EVENTS if task.quick else EVENTS


def _state(task: Task) -> Path:
    return task.folder / "increment_inputs" / "state"


def _new_day(task: Task, percent: float) -> Path:
    return task.folder / "increment_inputs" / f"day_{percent:g}"


if __name__ == "__main__":
    sys.exit(main(BENCH))
