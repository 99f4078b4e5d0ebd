"""Samples of a window: what users bought, beside popular items that they did not buy in it."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.core.frames import with_dense_number
from learn_spark.core.settings import SampleSettings
from learn_spark.sequences.windows import SampleWindow


def window_samples(
    interactions: DataFrame, window: SampleWindow, settings: SampleSettings, events: list[str]
) -> DataFrame:
    """`samples` rows of one window.

    A negative is the item of a purchase line drawn evenly from the window's lines, so items come by
    popularity. Draws are hashes of the positive, its number and the seed: a rerun draws the same. What the
    user bought in the window is dropped, so a positive has at most `negatives` of them; equal draws become
    one row with their count as weight.

    Args:
        interactions: the table.
        window: stage, start, end.
        settings: negatives a positive, seed.
        events: event types that count as positive.
    """
    in_window = (F.col("ds") >= F.lit(window.start)) & (F.col("ds") < F.lit(window.end))
    lines = interactions.where(in_window & F.col("event_type").isin(events))
    positives = lines.groupBy("user_id", "item_id", "event_ts").agg(F.count(F.lit(1)).alias("weight"))
    negatives = _draws(positives, lines, settings).join(
        lines.select("user_id", "item_id").distinct(), on=["user_id", "item_id"], how="left_anti"
    )
    merged = negatives.groupBy("user_id", "item_id", "event_ts").agg(F.count(F.lit(1)).alias("weight"))
    labelled = positives.withColumn("label", F.lit(1)).unionByName(merged.withColumn("label", F.lit(0)))
    return labelled.withColumn("stage", F.lit(window.stage)).withColumn("ds", F.to_date("event_ts"))


def _draws(positives: DataFrame, lines: DataFrame, settings: SampleSettings) -> DataFrame:
    pool = with_dense_number(lines.select("event_id", "item_id"), ["event_id"], "line", 0).drop("event_id")
    size = lines.agg(F.count(F.lit(1)).alias("pool_size"))
    draws = F.sequence(F.lit(1), F.lit(settings.negatives))
    seed = F.lit(settings.seed)
    drawn = (
        positives.select("user_id", "item_id", "event_ts", F.explode(draws).alias("draw"))
        .crossJoin(F.broadcast(size))
        .select(
            "user_id",
            "event_ts",
            F.pmod(F.xxhash64("user_id", "item_id", "event_ts", "draw", seed), F.col("pool_size"))
            .cast("int")
            .alias("line"),
        )
    )
    return drawn.join(pool, on="line", how="inner").drop("line")
