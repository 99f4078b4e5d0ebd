"""A day's log files to interactions, items and rejects: this project's own step against a plain polars script.

Sizes are lines of the day: four gzipped csv files, with 1% of the lines twice and 0.1% without a readable time. The
lake already holds an earlier day of 2,400 lines. At 2,400 lines the seconds are the fixed cost of a night.
"""

import gzip
import shutil
import sys
from datetime import date
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession

from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.ratios import Ratio, Target
from benchmarks.spark import jobs_done, start_session
from learn_spark.config.load import Config
from learn_spark.lake.identity import newest_version
from learn_spark.lake.schemas import TABLES
from learn_spark.lake.tables import Tables
from learn_spark.pipeline import STEPS
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.runs.ledger import Ledger
from learn_spark.runs.plan import Plan, Planned
from learn_spark.runs.progress import Progress
from learn_spark.runs.runner import RunOptions, run_plan
from learn_spark.runs.steps import INGEST_EVENTS, Context

SMALL, LINES, QUICK_LINES = 2_400, 3_000_000, 200_000
BEFORE, DAY = date(2024, 4, 30), date(2024, 5, 1)
FILES, CHUNK, SEED = 4, 250_000, 7
LINES_PER_USER, LINES_PER_ITEM, FEWEST_ITEMS = 100, 600, 1000
ACTIONS = ("view", "cart", "purchase")
ENDS = ("first_as_of", "towers_end", "cvr_end", "ranker_train_end", "end")  # required settings, not used here
WINDOWS = {name: date(2024 + number, 5, 2) for number, name in enumerate(ENDS)}
HEADER = "user,sku,time,action,name,price\n"
ROWS = "user_id, item_id, event_type, epoch_us(event_ts), value"

CHECK = "benchmarks.ingest:check_events"
BENCH = Benchmark(
    name="ingest",
    sizes=(SMALL, LINES),
    quick_sizes=(SMALL, QUICK_LINES),
    prepare="benchmarks.ingest:prepare",
    contenders=(
        Contender("ours", "benchmarks.ingest:ours", CHECK),
        Contender("polars", "benchmarks.ingest:by_polars", CHECK),
    ),
    ratios=(Ratio("ours", "polars", Target("<=", 5), at=LINES),),
)


def prepare(task: Task) -> None:
    """Makes the logs, and the lake before the day. The lake is made in every run, by the current code."""
    for lines in task.sizes:
        logs = _logs(task, lines)
        if not logs.exists():
            _write_logs(logs, int(lines))
    spark = start_session(task, SMALL)
    shutil.rmtree(_lake(task), ignore_errors=True)
    _ingest(spark, _config(_lake(task), _logs(task, SMALL)), BEFORE)


def ours(task: Task) -> None:
    """The ingest step of one night, from the plan to the ledger's row."""
    spark = start_session(task, task.size, ui=True)
    lake = task.output / "lake"
    shutil.copytree(_lake(task), lake)
    config = _config(lake, _logs(task, task.size))
    jobs, commits = len(jobs_done(spark)), _commits(lake)
    with task.clock():
        _ingest(spark, config, DAY)
    task.figures = {"jobs": len(jobs_done(spark)) - jobs, "commits": _commits(lake) - commits}


def by_polars(task: Task) -> None:
    """Parses, drops copies, numbers items, writes."""
    import polars as pl

    events = task.output / "events"
    with task.clock():
        events.mkdir(parents=True)
        texts = dict.fromkeys(HEADER.strip().split(","), pl.String)
        lines = pl.concat([pl.read_csv(file, schema=texts) for file in sorted(_logs(task, task.size).glob(f"{DAY}*"))])
        time = pl.col("time").str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)
        rows = lines.unique().select(
            pl.col("user").alias("user_id"),
            pl.col("sku").alias("item_id"),
            pl.col("action").alias("event_type"),
            time.alias("event_ts"),
            pl.col("price").cast(pl.Float64, strict=False).alias("value"),
            pl.col("name").alias("title"),
        )
        rows = rows.filter(pl.col("event_ts").is_not_null())
        items = (
            rows.group_by("item_id").agg(pl.col("title").mode().first()).sort("item_id").with_row_index("item_idx", 1)
        )
        items.write_parquet(task.output / "items.parquet")
        numbered = rows.drop("title").join(items.select("item_id", "item_idx"), on="item_id")
        numbered.sort("user_id").write_parquet(events / "events.parquet")


def check_events(task: Task) -> None:
    """The number of events, the sum of their rows' hashes, and the number of their items."""
    import duckdb

    events = task.output / "events"
    if not events.exists():
        events = task.output / "lake" / "interactions" / f"ds={DAY}"
    query = f"SELECT count(*), sum(hash({ROWS})), count(DISTINCT item_idx) FROM read_parquet('{events}/*.parquet')"
    found = duckdb.connect(config={"threads": 2}).execute(query).fetchone()
    task.figures["checksum"] = ":".join(map(str, found))


def _ingest(spark: SparkSession, config: Config, day: date) -> None:
    """Ingests a day as the command does, in the given session."""
    tables = Tables(spark, config.lake.root)
    tables.create_all()
    ledger = Ledger(spark, tables)
    with Progress(spark) as progress:
        fingerprints = Fingerprints(config, STEPS, ledger.recorded)
        context = Context(config, spark, tables, ledger, fingerprints, progress)
        run_plan(Plan([Planned(STEPS[INGEST_EVENTS], [day])]), context, RunOptions())


def _config(lake: Path, logs: Path) -> Config:
    mapping = {
        "user_id": {"column": "user"},
        "item_id": {"column": "sku"},
        "event_ts": {"column": "time", "format": "yyyy-MM-dd HH:mm:ss"},
        "event_type": {"column": "action"},
        "value": {"column": "price"},
        "title": {"column": "name"},
        "price": {"column": "price"},
    }
    settings = {"path": logs, "files": "{day}.*.csv.gz", "start": BEFORE, "event_types": ACTIONS, "mapping": mapping}
    kinds = {"history_events": ACTIONS, "target_events": ACTIONS[-1:]}
    return Config.model_validate({"lake": {"root": lake}, "ingest": settings, "windows": WINDOWS, "sequences": kinds})


def _commits(lake: Path) -> int:
    return sum(newest_version(lake, name) for name in TABLES)


def _lake(task: Task) -> Path:
    return task.folder / "ingest_inputs" / "lake"


def _logs(task: Task, lines: float) -> Path:
    return task.folder / "ingest_inputs" / f"{lines:.0f}"


def _write_logs(folder: Path, lines: int) -> None:
    half = folder.with_name(folder.name + ".half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    for day, number in ((BEFORE, SMALL), (DAY, lines)):
        for file in range(FILES):
            _write_file(half / f"{day}.{file}.csv.gz", day, number // FILES, lines, file)
    half.rename(folder)


def _write_file(path: Path, day: date, lines: int, all_lines: int, number: int) -> None:
    rng = np.random.default_rng([SEED, day.toordinal(), number])
    with gzip.open(path, "wt", compresslevel=6, encoding="utf-8") as file:
        file.write(HEADER)
        for start in range(0, lines, CHUNK):
            file.write(_chunk(rng, day, min(CHUNK, lines - start), all_lines))


def _chunk(rng: np.random.Generator, day: date, lines: int, all_lines: int) -> str:
    """`lines` lines of CSV; the last 1% are copies of the first ones. The price depends on the item."""
    new = lines - lines // 100
    users = rng.integers(0, max(1, all_lines // LINES_PER_USER), new)
    items = (max(FEWEST_ITEMS, all_lines // LINES_PER_ITEM) * rng.random(new) ** 3).astype(int)
    seconds, actions = rng.integers(0, 86_400, new), rng.choice(ACTIONS, new, p=(0.8, 0.15, 0.05))
    times = np.char.replace(np.datetime_as_string(np.datetime64(day, "s") + seconds), "T", " ")
    times[rng.random(new) < 0.001] = "unknown"
    written = [
        f"u{user},{item:07},{time},{action},Article {item} of kind {item % 97},{item % 5000 / 100:.2f}\n"
        for user, item, time, action in zip(users, items, times, actions, strict=True)
    ]
    return "".join(written + written[: lines - new])


if __name__ == "__main__":
    sys.exit(main(BENCH))
