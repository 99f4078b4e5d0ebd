"""Zipf logs, made once per size: users and items follow power laws, and one user has 5% of all events."""

import shutil
from datetime import date, timedelta
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

SEED = 7
START = date(2024, 1, 1)
DAYS = 300
END = START + timedelta(days=DAYS)
USER_EXPONENT, ITEM_EXPONENT = 0.8, 0.99
WHALE_SHARE = 0.05
EVENTS_A_USER, EVENTS_AN_ITEM = 100, 600
EPOCH = (START - date(1970, 1, 1)).days


def ensure_log(spark: SparkSession, folder: Path, events: int) -> Path:
    """The log's folder, a Parquet table with one partition per day; made if it is missing."""
    path = folder / "logs" / f"{events}"
    if not (path / "_SUCCESS").exists():
        write_log(log(spark, events), path)
    return path


def write_log(frame: DataFrame, path: Path) -> None:
    """Writes a log whole or not at all. Times are microseconds, which the other engines read better than INT96."""
    half = path.with_name(path.name + ".half")
    shutil.rmtree(half, ignore_errors=True)
    frame.sparkSession.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    frame.write.partitionBy("ds").parquet(str(half))
    shutil.rmtree(path, ignore_errors=True)
    half.rename(path)


def log(spark: SparkSession, events: int) -> DataFrame:
    """`events` events over 300 days, with columns of `interactions`; the same on every call.

    Every tenth event shares user and second with the one before, so that ties are common.
    """
    basket = F.col("id") - F.when(F.col("id") % 10 == 9, 1).otherwise(0)
    day = F.floor(basket * DAYS / F.lit(events)).cast("int")
    # One partition per day, so that the writer's sort by day has nothing to do.
    return spark.range(0, events, 1, DAYS).select(
        user_id(_user(basket, events)).alias("user_id"),
        _item(F.col("id"), events).alias("item_idx"),
        event_ts(day, basket).alias("event_ts"),
        _event_id(F.col("id")).alias("event_id"),
        F.lit("purchase").alias("event_type"),
        F.date_add(F.lit(START), day).alias("ds"),
    )


def new_day(spark: SparkSession, events: int, percent: float) -> DataFrame:
    """The day after the log of `events` events: one to three events per active user; 1% of the users are new."""
    users = round(events / EVENTS_A_USER * 1.01)
    active = spark.range(0, users, 1, 2).where(_uniform(F.col("id"), "active") * 100 < percent)
    lines = active.withColumn("line", F.explode(F.sequence(F.lit(0), (F.col("id") % 3).cast("int"))))
    key = F.lit(events) + F.col("id") * 3 + F.col("line")
    day = F.lit(DAYS)
    return lines.select(
        user_id(F.col("id")).alias("user_id"),
        _item(key, events).alias("item_idx"),
        event_ts(day, key).alias("event_ts"),
        _event_id(key).alias("event_id"),
        F.lit("purchase").alias("event_type"),
        F.lit(END).alias("ds"),
    )


def user_id(rank: Column) -> Column:
    """User ids as strings; 0 is the whale, the user with 5% of all events."""
    return F.concat(F.lit("u"), rank.cast("string"))


def event_ts(day: Column, key: Column) -> Column:
    """A whole second of the day, drawn by a hash of the key."""
    second = F.floor(_uniform(key, "second") * 86400)
    return F.timestamp_seconds((F.lit(EPOCH) + day).cast("long") * 86400 + second)


def _event_id(number: Column) -> Column:
    return F.xxhash64(number, F.lit(SEED))


def _user(key: Column, events: int) -> Column:
    ranks = _zipf(_uniform(key, "user"), events // EVENTS_A_USER, USER_EXPONENT)
    return F.when(_uniform(key, "whale") < WHALE_SHARE, 0).otherwise(ranks)


def _item(key: Column, events: int) -> Column:
    return _zipf(_uniform(key, "item"), max(1, events // EVENTS_AN_ITEM), ITEM_EXPONENT).cast("int")


def _zipf(uniform: Column, count: int, exponent: float) -> Column:
    """Ranks 1 .. count with shares proportional to rank ** -exponent, by inverting the continuous distribution."""
    power = 1 - exponent
    reach = (count + 1) ** power - 1
    return F.least(F.floor(F.pow(uniform * reach + 1, F.lit(1 / power))), F.lit(count))


def _uniform(key: Column, what: str) -> Column:
    """A number in [0, 1) that depends on the key, the purpose `what` and the seed."""
    bits = 1 << 52
    return F.pmod(F.xxhash64(key, F.lit(what), F.lit(SEED)), F.lit(bits)) / F.lit(float(bits))
