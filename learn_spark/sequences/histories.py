"""Histories and targets around as-of dates: frame in, frame out.

What it costs at 12 M users and 10 months: one shuffle of the capped events by user (about 24 bytes an event),
then one pass over each user's list an as-of date. A user's list never holds more than H + T events a day.
"""

from collections.abc import Mapping
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from learn_spark.core.settings import SequenceSettings

_ORDER = ("event_ts", "event_id")


def indexed_events(interactions: DataFrame, item_index: DataFrame, settings: SequenceSettings) -> DataFrame:
    """Events of either side with their item numbers and sides."""
    is_history = F.col("event_type").isin(settings.history_events)
    is_target = F.col("event_type").isin(settings.target_events)
    sided = interactions.select(
        "user_id",
        "item_id",
        "event_ts",
        "event_id",
        "ds",
        is_history.alias("is_history"),
        is_target.alias("is_target"),
    ).where("is_history OR is_target")
    return sided.join(item_index, on="item_id", how="inner").drop("item_id")


def capped(events: DataFrame, settings: SequenceSettings) -> DataFrame:
    """Drops what no sequence can hold: as-of dates are midnights, a day gives its last H, first T."""
    newest_first = [F.desc(name) for name in _ORDER]
    newest = F.row_number().over(Window.partitionBy("user_id", "ds", "is_history").orderBy(*newest_first))
    oldest = F.row_number().over(Window.partitionBy("user_id", "ds", "is_target").orderBy(*_ORDER))
    ranked = events.withColumn("newest", newest).withColumn("oldest", oldest)
    fits_history = F.col("is_history") & (F.col("newest") <= settings.history_length)
    fits_targets = F.col("is_target") & (F.col("oldest") <= settings.target_length)
    return ranked.where(fits_history | fits_targets).drop("newest", "oldest")


def by_user(events: DataFrame) -> DataFrame:
    """One row a user: all events in order of time, ties by event_id."""
    entry = F.struct(*_ORDER, "item_idx", "is_history", "is_target")
    return events.groupBy("user_id").agg(F.sort_array(F.collect_list(entry)).alias("events"))


def user_histories(events: DataFrame, as_of: DataFrame, settings: SequenceSettings) -> DataFrame:
    """`user_history` rows for (user_id, ds) pairs; users without an event before the day are left out."""
    pairs = by_user(events).join(as_of, on="user_id", how="inner")
    history = pairs.select("user_id", "ds", _history(F.col("ds"), settings).alias("history"))
    return history.where(F.size("history") > 0).select(
        "user_id",
        "ds",
        _items(F.col("history")).alias("item_idx"),
        _seconds(F.col("history")).alias("event_ts"),
    )


def changed_users(events: DataFrame, days: DataFrame, first_day: date) -> DataFrame:
    """(user_id, ds) pairs to compute: first all users seen before it, later those active the day before."""
    active = events.where("is_history").select("user_id", F.col("ds").alias("event_day")).distinct()
    is_first = F.col("ds") == F.lit(first_day)
    is_due = (is_first & (F.col("event_day") < F.col("ds"))) | (F.col("event_day") == F.date_sub("ds", 1))
    return active.join(F.broadcast(days), on=is_due, how="inner").select("user_id", "ds").distinct()


def sequences(events: DataFrame, splits: DataFrame, settings: SequenceSettings) -> DataFrame:
    """`sequences` rows for every user and as-of date that has both a history and a target.

    Args:
        events: `indexed_events`, capped.
        splits: (as_of, split).
        settings: lengths and windows.
    """
    pairs = (
        by_user(events)
        .crossJoin(F.broadcast(splits))
        .select("user_id", "as_of", "split", "events", _targets(F.col("as_of"), settings).alias("targets"))
    )
    both = pairs.where(F.size("targets") > 0).select(
        "user_id", "as_of", "split", "targets", _history(F.col("as_of"), settings).alias("history")
    )
    history, targets = F.col("history"), F.col("targets")
    return both.where(F.size("history") > 0).select(
        "user_id",
        "as_of",
        _padded(_items(history), settings.history_length, "int").alias("hist_items"),
        _padded(_seconds(history), settings.history_length, "bigint").alias("hist_ts"),
        F.size(history).alias("hist_len"),
        _padded(_items(targets), settings.target_length, "int").alias("tar_items"),
        _padded(_seconds(targets), settings.target_length, "bigint").alias("tar_ts"),
        F.size(targets).alias("tar_len"),
        "split",
    )


def days_frame(spark: SparkSession, days: Mapping[date, str] | None, name: str, plain: list[date]) -> DataFrame:
    """A small frame of days, with their splits where given."""
    if days is None:
        return spark.createDataFrame([(day,) for day in plain], f"{name} date")
    return spark.createDataFrame([(day, days[day]) for day in plain], f"{name} date, split string")


def _history(as_of: Column, settings: SequenceSettings) -> Column:
    cut = as_of.cast("timestamp")
    oldest = cut - F.lit(timedelta(days=settings.history_days))
    before = F.filter("events", lambda e: e["is_history"] & (e["event_ts"] < cut) & (e["event_ts"] >= oldest))
    return F.slice(before, F.greatest(F.size(before) - settings.history_length + 1, F.lit(1)), settings.history_length)


def _targets(as_of: Column, settings: SequenceSettings) -> Column:
    start = as_of.cast("timestamp")
    end = start + F.lit(timedelta(days=settings.target_days))
    within = F.filter("events", lambda e: e["is_target"] & (e["event_ts"] >= start) & (e["event_ts"] < end))
    return F.slice(within, 1, settings.target_length)


def _items(entries: Column) -> Column:
    return F.transform(entries, lambda e: e["item_idx"])


def _seconds(entries: Column) -> Column:
    return F.transform(entries, lambda e: F.unix_seconds(e["event_ts"]))


def _padded(values: Column, length: int, kind: str) -> Column:
    return F.concat(values, F.array_repeat(F.lit(0).cast(kind), F.lit(length) - F.size(values)))
