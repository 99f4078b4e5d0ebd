"""Point-in-time join of samples with user and item vectors: ours, a plain wide sort-merge join, polars.

A user has a feature row on one to five of 20 days, an item on one or two; all vectors are 64 wide. All contenders read
the same Parquet and write (sample, user_emb, item_emb). Without a row that is old enough, the vector is null. Sizes are
numbers of samples.
"""

import os
import sys
from datetime import date
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.ratios import Ratio, Target
from benchmarks.spark import start_session
from benchmarks.vectors import vectors_checksum
from learn_spark.lake.point_in_time import latest_before

WIDTH, DAYS = 64, 20
START = date(2024, 1, 1)
SAMPLES_A_USER, SAMPLES_AN_ITEM = 20, 100
SIDES = ("user", "item")

CHECK = "benchmarks.join:check"
BENCH = Benchmark(
    name="join",
    sizes=(1e6, 5e6, 20e6),
    quick_sizes=(0.1e6, 0.4e6),
    prepare="benchmarks.join:prepare",
    contenders=(
        Contender("ours", "benchmarks.join:ours", CHECK),
        Contender("wide", "benchmarks.join:wide", CHECK),
        Contender("polars", "benchmarks.join:with_polars", CHECK),
    ),
    ratios=(Ratio("wide", "ours", Target(">=", 3.0)), Ratio("ours", "polars", Target("<=", 1.5))),
)


def prepare(task: Task) -> None:
    """Makes samples and features of all sizes. User, item and day are drawn by hashes of the row's number."""
    spark = start_session(task, task.size)
    for size in task.sizes:
        for name, frame in _tables(spark, int(size)).items():
            path = _folder(task, size) / name
            if not (path / "_SUCCESS").exists():
                frame.write.mode("overwrite").parquet(str(path))


def ours(task: Task) -> None:
    """This project's join, one side after the other."""
    spark = start_session(task, task.size)
    with task.clock():
        rows = _read(spark, task, "samples")
        for side in SIDES:
            rows = latest_before(rows, _read(spark, task, side), f"{side}_id").drop("feature_ds")
        rows.select("sample", "user_emb", "item_emb").write.parquet(str(task.output))


def wide(task: Task) -> None:
    """The first approach that comes to mind: join all older rows with their vectors, keep the newest."""
    spark = start_session(task, task.size)
    with task.clock():
        rows = _read(spark, task, "samples")
        for side in SIDES:
            rows = _newest_of_all(rows, _read(spark, task, side), f"{side}_id")
        rows.select("sample", "user_emb", "item_emb").write.parquet(str(task.output))


def with_polars(task: Task) -> None:
    """Polars' own as-of join."""
    os.environ["POLARS_MAX_THREADS"] = "2"
    import polars as pl

    folder = _folder(task, task.size)
    task.output.mkdir(parents=True)
    with task.clock():
        rows = pl.read_parquet(f"{folder}/samples/*.parquet").sort("ds")
        for side in SIDES:
            features = pl.read_parquet(f"{folder}/{side}/*.parquet").sort("ds")
            rows = rows.join_asof(features, on="ds", by=f"{side}_id", check_sortedness=False)
        rows.select("sample", "user_emb", "item_emb").write_parquet(task.output / "part.parquet", compression="snappy")


def check(task: Task) -> None:
    """The checksum of samples and vectors."""
    columns = ("sample", "user_emb::FLOAT[]", "item_emb::FLOAT[]")
    task.figures["checksum"] = vectors_checksum(task.output, *columns)


def _newest_of_all(rows: DataFrame, features: DataFrame, key: str) -> DataFrame:
    older = features.withColumnsRenamed({"ds": "feature_ds", key: "_key"}).hint("merge")
    met = rows.join(older, on=(F.col(key) == F.col("_key")) & (F.col("feature_ds") <= F.col("ds")), how="left")
    newest = Window.partitionBy("sample").orderBy(F.desc_nulls_last("feature_ds"))
    ranked = met.withColumn("_rank", F.row_number().over(newest))
    return ranked.where("_rank = 1").drop("_rank", "_key", "feature_ds")


def _tables(spark: SparkSession, samples: int) -> dict[str, DataFrame]:
    users, items = samples // SAMPLES_A_USER, samples // SAMPLES_AN_ITEM
    number = F.col("id")
    return {
        "samples": spark.range(0, samples, 1, 4).select(
            number.alias("sample"),
            _id("u", _draw(users, "user", number)).alias("user_id"),
            _id("i", _draw(items, "item", number)).alias("item_id"),
            _day(_draw(DAYS, "day", number)).alias("ds"),
        ),
        "user": _features(spark, "user", users, most=5),
        "item": _features(spark, "item", items, most=2),
    }


def _features(spark: SparkSession, side: str, count: int, most: int) -> DataFrame:
    """One to `most` rows of an entity, on different days."""
    number, turn = F.col("id"), F.col("turn")
    entities = spark.range(0, count, 1, 4).withColumn(
        "turn", F.explode(F.sequence(F.lit(0), _draw(most, f"{side} rows", number).cast("int")))
    )
    day = (turn * (DAYS // most) + _draw(DAYS // most, f"{side} day", number, turn)).cast("int")
    values = [(F.rand(seed) * 2 - 1).cast("float") for seed in range(WIDTH)]
    return entities.select(
        _id(side[0], number).alias(f"{side}_id"), _day(day).alias("ds"), F.array(*values).alias(f"{side}_emb")
    )


def _id(sign: str, number: Column) -> Column:
    return F.concat(F.lit(sign), number.cast("string"))


def _day(number: Column) -> Column:
    return F.date_add(F.lit(START), number.cast("int"))


def _draw(count: int, what: str, *key: Column) -> Column:
    return F.pmod(F.xxhash64(F.lit(what), *key), F.lit(count))


def _read(spark: SparkSession, task: Task, name: str) -> DataFrame:
    return spark.read.parquet(str(_folder(task, task.size) / name))


def _folder(task: Task, size: float) -> Path:
    return task.folder / "join_inputs" / f"{int(size)}"


if __name__ == "__main__":
    sys.exit(main(BENCH))
