"""Stands in for learn_spark.sequences.histories until that has these two functions."""

from datetime import date

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.core.settings import SequenceSettings


def full_histories(events: DataFrame, day: date, settings: SequenceSettings) -> DataFrame:
    newest = Window.partitionBy("user_id").orderBy(F.desc("event_ts"), F.desc("event_id"))
    ranked = events.where((F.col("ds") < F.lit(day)) & F.col("is_history")).withColumn(
        "rank", F.row_number().over(newest)
    )
    kept = ranked.where(F.col("rank") <= settings.history_length)
    entry = F.struct(-F.col("rank"), "item_idx", F.unix_seconds("event_ts").alias("ts"))
    lists = kept.groupBy("user_id").agg(F.sort_array(F.collect_list(entry)).alias("events"))
    return lists.select(
        "user_id",
        F.lit(day).alias("ds"),
        F.col("events.item_idx").alias("item_idx"),
        F.col("events.ts").alias("event_ts"),
    )


def next_histories(previous: DataFrame, events: DataFrame, days: list[date], settings: SequenceSettings) -> DataFrame:
    (day,) = days
    entry = F.struct("event_ts", "event_id", "item_idx")
    new = (
        events.where((F.col("ds") == F.date_sub(F.lit(day), 1)) & F.col("is_history"))
        .groupBy("user_id")
        .agg(F.sort_array(F.collect_list(entry)).alias("new"))
        .select(
            "user_id",
            F.col("new.item_idx").alias("new_items"),
            F.transform("new.event_ts", F.unix_seconds).alias("new_ts"),
        )
    )
    joined = new.join(previous.drop("ds"), on="user_id", how="left")

    def last(old: str, new: str) -> F.Column:
        both = F.concat(F.coalesce(old, F.array()), new)
        return F.slice(both, F.greatest(F.size(both) - settings.history_length + 1, F.lit(1)), settings.history_length)

    return joined.select(
        "user_id",
        F.lit(day).alias("ds"),
        last("item_idx", "new_items").alias("item_idx"),
        last("event_ts", "new_ts").alias("event_ts"),
    )
