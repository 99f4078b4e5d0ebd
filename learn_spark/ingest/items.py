"""Item versions and the dense item numbers, from what the events say of their items."""

from collections.abc import Sequence
from datetime import date

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.core.days import days_predicate
from learn_spark.core.frames import with_dense_number
from learn_spark.core.tables import Tables

IDENTITY = ("title", "category", "brand")
_DETAIL = ("price", "keywords", "attributes")


def daily_items(events: DataFrame) -> DataFrame:
    """One description an item and day: the day's most frequent one, ties by text."""
    said = events.groupBy("item_id", "ds", *IDENTITY).agg(
        F.count(F.lit(1)).alias("times"), *(F.min_by(name, "event_id").alias(name) for name in _DETAIL)
    )
    most = Window.partitionBy("item_id", "ds").orderBy(F.desc("times"), *IDENTITY)
    first_seen = events.groupBy("item_id", "ds").agg(F.min("event_ts").alias("valid_from"))
    chosen = said.withColumn("place", F.row_number().over(most)).where("place = 1").drop("place", "times")
    return chosen.join(first_seen, on=["item_id", "ds"], how="inner").drop("ds")


def changed_items(described: DataFrame) -> DataFrame:
    """Keeps the rows whose title, category or brand differs from the item's version before."""
    before = Window.partitionBy("item_id").orderBy("valid_from")
    identity = F.struct(*IDENTITY)
    previous = F.lag(identity).over(before)
    return described.withColumn("previous", previous).where(~identity.eqNullSafe(F.col("previous"))).drop("previous")


def write_items(tables: Tables, events: DataFrame, days: Sequence[date]) -> None:
    """Writes the days' new versions, then numbers for items that have none yet."""
    of_these_days = days_predicate("CAST(valid_from AS DATE)", days)
    kept = tables.read("items").where(f"NOT ({of_these_days})").withColumn("kept", F.lit(True))
    described = daily_items(events).withColumn("kept", F.lit(False))
    fresh = changed_items(kept.unionByName(described)).where("NOT kept").drop("kept")
    tables.overwrite_where("items", fresh, of_these_days)
    _number_new_items(tables)


def _number_new_items(tables: Tables) -> None:
    index = tables.read("item_index")
    highest = index.agg(F.max("item_idx")).first()[0] or 0
    unnumbered = tables.read("items").select("item_id").distinct().join(index, on="item_id", how="left_anti")
    tables.append("item_index", with_dense_number(unnumbered, ["item_id"], "item_idx", highest + 1))
