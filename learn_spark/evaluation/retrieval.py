"""What the retrieval figures are made from: users, candidate items, and who bought what when."""

from datetime import timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from learn_spark.lake.days import DayRange
from learn_spark.runs.steps import Context


def retrieval_users(context: Context, user_features: DataFrame) -> DataFrame:
    """user_id, user_emb, hist_items of the users with history and target around `windows.towers_end`.

    A user without a feature row gets zeros, so that nobody is left out of the figures.
    """
    as_of = context.config.windows.towers_end
    is_test = (F.col("as_of") == F.lit(as_of)) & (F.col("split") == "test")
    sequences = context.tables.read("sequences").where(is_test).select("user_id", "hist_items")
    features = user_features.where(F.col("ds") == F.lit(as_of)).select("user_id", "user_emb")
    return with_zeros(sequences.join(features, on="user_id", how="left"), features, "user_emb")


def retrieval_items(context: Context, item_features: DataFrame) -> DataFrame:
    """item_idx, item_emb, popularity_recent, popularity_all of all items seen before `towers_end`."""
    config, tables = context.config, context.tables
    as_of = config.windows.towers_end
    recent = DayRange(as_of - timedelta(days=config.retrieval.popularity_days), as_of)
    is_recent = is_within(recent) & F.col("event_type").isin(config.sequences.target_events)
    is_target = F.col("event_type").isin(config.sequences.target_events)
    known = (
        tables.read("interactions")
        .where(F.col("ds") < F.lit(as_of))
        .groupBy("item_id")
        .agg(
            F.count_if(is_recent).alias("popularity_recent"),
            F.count_if(is_target).alias("popularity_all"),
        )
    )
    features = item_features.where(F.col("ds") == F.lit(as_of)).select("item_id", "item_emb")
    numbered = tables.read("item_index").join(known, on="item_id", how="inner")
    items = numbered.join(features, on="item_id", how="left").drop("item_id")
    return with_zeros(items, features, "item_emb")


def retrieval_pairs(context: Context) -> DataFrame:
    """user_id, item_idx, is_target, is_seen: distinct purchases of the test users in the window and before.

    The whole window counts, however many items the towers' targets are cut at. item_idx is 0 for an item that
    nobody had seen before `windows.towers_end`.
    """
    config, tables = context.config, context.tables
    as_of = config.windows.towers_end
    window = DayRange(as_of, as_of + timedelta(days=config.sequences.target_days))
    interactions = tables.read("interactions")
    is_test = (F.col("as_of") == F.lit(as_of)) & (F.col("split") == "test")
    users = tables.read("sequences").where(is_test).select("user_id")
    known = interactions.where(F.col("ds") < F.lit(as_of)).select("item_id").distinct()
    numbers = tables.read("item_index").join(known, on="item_id", how="left_semi")
    bought = interactions.where(
        F.col("event_type").isin(config.sequences.target_events) & (F.col("ds") < F.lit(window.end))
    )
    pairs = bought.join(users, on="user_id", how="left_semi").groupBy("user_id", "item_id")
    flagged = pairs.agg(
        F.max(is_within(window).cast("int")).alias("is_target"),
        F.max((F.col("ds") < F.lit(as_of)).cast("int")).alias("is_seen"),
    )
    numbered = flagged.join(numbers, on="item_id", how="left")
    return numbered.select(
        "user_id", "item_id", F.coalesce("item_idx", F.lit(0)).alias("item_idx"), "is_target", "is_seen"
    )


def with_zeros(df: DataFrame, vectors: DataFrame, column: str) -> DataFrame:
    """`df` with zeros of the vectors' width where `column` is null."""
    width = vectors.select(F.size(column).alias("_width")).limit(1)
    zeros = F.transform(F.sequence(F.lit(1), F.col("_width")), lambda _: F.lit(0.0).cast("float"))
    padded = df.crossJoin(F.broadcast(width)).withColumn(column, F.coalesce(F.col(column), zeros))
    return padded.drop("_width")


def is_within(days: DayRange, column: str = "ds") -> Column:
    """Whether a day lies in the range."""
    return (F.col(column) >= F.lit(days.start)) & (F.col(column) < F.lit(days.end))
