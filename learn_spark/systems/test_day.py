"""The test day of the retrieval figures: which items were known by then, and what its users bought before and after."""

from datetime import date, timedelta
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from learn_spark.bridge.snapshots import export
from learn_spark.lake.days import DayRange
from learn_spark.runs.ledger import fingerprint_of
from learn_spark.runs.steps import Context
from learn_spark.sequences.windows import as_of_dates
from learn_spark.training.sequence_snapshots import sequences_fingerprint

_READS = ("interactions", "item_index", "sequences")


def day_snapshots(context: Context, day: date | None = None) -> dict[str, Any]:
    """Snapshots `known_items` and `purchases`, as fields of a `models.contract.evaluation_specs.SystemsSpec`.

    They are the same for the report and for every comparison on these table versions. The day is the test day, if no
    other is given.
    """
    config, versions = context.config, context.tables.versions(_READS)
    of_day = [] if day is None else [str(day)]
    fingerprint = fingerprint_of(sequences_fingerprint(context), versions, config.retrieval.popularity_days, *of_day)
    frames = {
        "known_items": (known_items(context, day), ["item_idx"]),
        "purchases": (purchases(context, day), ["user_id", "item_id"]),
    }
    return {
        name: export(
            context, df, f"{name}-{fingerprint}", key, "interactions", versions["interactions"], config.evaluation.seed
        )
        for name, (df, key) in frames.items()
    }


def known_items(context: Context, day: date | None = None) -> DataFrame:
    """item_idx, purchases: all items seen before a day, and the purchases of the days before it.

    An item without purchases is known, too. The day is the test day, if no other is given.
    """
    config, tables = context.config, context.tables
    as_of = day or config.windows.towers_end
    recent = DayRange(as_of - timedelta(days=config.retrieval.popularity_days), as_of)
    is_recent = is_within(recent) & F.col("event_type").isin(config.sequences.target_events)
    seen = tables.read("interactions").where(F.col("ds") < F.lit(as_of))
    known = seen.groupBy("item_id").agg(F.count_if(is_recent).alias("purchases"))
    return tables.read("item_index").join(known, on="item_id", how="inner").select("item_idx", "purchases")


def purchases(context: Context, day: date | None = None) -> DataFrame:
    """user_id, item_id, item_idx, is_target, is_seen: distinct purchases of a day's users in the window and before.

    The whole window counts, even if the towers' lists of targets are shorter. item_idx is 0 if `item_index` lacks the
    item. The day is the test day, if no other is given.
    """
    config, tables = context.config, context.tables
    as_of = day or config.windows.towers_end
    window = DayRange(as_of, as_of + timedelta(days=config.sequences.target_days))
    split = as_of_dates(config)[as_of]
    is_asked = (F.col("as_of") == F.lit(as_of)) & (F.col("split") == split)
    users = tables.read("sequences").where(is_asked).select("user_id")
    bought = tables.read("interactions").where(
        F.col("event_type").isin(config.sequences.target_events) & (F.col("ds") < F.lit(window.end))
    )
    pairs = bought.join(users, on="user_id", how="left_semi").groupBy("user_id", "item_id")
    flagged = pairs.agg(
        F.max(is_within(window).cast("int")).alias("is_target"),
        F.max((F.col("ds") < F.lit(as_of)).cast("int")).alias("is_seen"),
    )
    numbered = flagged.join(tables.read("item_index"), on="item_id", how="left")
    return numbered.select(
        "user_id", "item_id", F.coalesce("item_idx", F.lit(0)).alias("item_idx"), "is_target", "is_seen"
    )


def candidate_words(candidates: str, number: int, day: str = "test day") -> str:
    """The candidate set and its size, for the text beside every figure: `3,566 items known on the test day`."""
    return f"{number:,} items known on the {day}" if candidates == "known" else f"all {number:,} items"


def is_within(days: DayRange, column: str = "ds") -> Column:
    """Whether a day lies in the range."""
    return (F.col(column) >= F.lit(days.start)) & (F.col(column) < F.lit(days.end))
