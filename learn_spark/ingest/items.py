"""Item versions and the dense item numbers, from what events and catalogues say of the items."""

from collections.abc import Sequence
from datetime import date

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.lake.days import days_predicate
from learn_spark.lake.frames import only_row, with_dense_number
from learn_spark.lake.tables import Tables

IDENTITY = ("title", "category", "brand")
_DETAIL = ("price", "keywords", "attributes")
_DESCRIPTION = ("item_id", "valid_from", *IDENTITY, *_DETAIL)


def daily_items(events: DataFrame) -> DataFrame:
    """One description an item and delivery: the most frequent one, ties by text.

    It is valid from the item's first event of the delivery on, but not from before the delivery's day: a late event
    was not known earlier.
    """
    said = events.where("title IS NOT NULL").groupBy("item_id", "load_day", *IDENTITY)
    described = said.agg(
        F.count(F.lit(1)).alias("times"), *(F.min_by(name, "event_id").alias(name) for name in _DETAIL)
    )
    most = Window.partitionBy("item_id", "load_day").orderBy(F.desc("times"), *IDENTITY)
    known_from = F.greatest(F.min("event_ts"), F.first("load_day").cast("timestamp"))
    first_seen = events.groupBy("item_id", "load_day").agg(known_from.alias("valid_from"))
    chosen = described.withColumn("place", F.row_number().over(most)).where("place = 1")
    return chosen.join(first_seen, on=["item_id", "load_day"], how="inner").select(*_DESCRIPTION, "load_day")


def catalogue_items(catalogue: DataFrame) -> DataFrame:
    """One description an item and time: of several the first by text."""
    usable = catalogue.where("reason IS NULL")
    same = Window.partitionBy("item_id", "valid_from").orderBy(*IDENTITY, "price", "keywords", "source_file")
    chosen = usable.withColumn("place", F.row_number().over(same)).where("place = 1")
    return chosen.select(*_DESCRIPTION, "load_day")


def number_items(tables: Tables, described: DataFrame, events: DataFrame) -> None:
    """Numbers items that have none yet, delivery by delivery: loading days one by one or at once is the same."""
    index = tables.read("item_index")
    highest = only_row(index.agg(F.max("item_idx")))[0] or 0
    seen = described.select("item_id", "load_day").unionByName(events.select("item_id", "load_day"))
    fresh = seen.groupBy("item_id").agg(F.min("load_day").alias("load_day")).join(index, on="item_id", how="left_anti")
    numbered = with_dense_number(fresh, ["item_id"], "item_idx", highest + 1, after=["load_day"])
    tables.append("item_index", numbered)


def write_items(tables: Tables, described: DataFrame, days: Sequence[date]) -> None:
    """Writes the versions that these days' deliveries brought: where title, category or brand changed."""
    of_these_days = days_predicate("load_day", days)
    kept = tables.read("items").where(f"NOT ({of_these_days})").withColumn("kept", F.lit(True))
    changed = _changed(kept.unionByName(described.withColumn("kept", F.lit(False)))).where("NOT kept").drop("kept")
    tables.overwrite_where("items", changed, of_these_days)


def _changed(described: DataFrame) -> DataFrame:
    """The rows whose title, category or brand differs from the item's version before."""
    before = Window.partitionBy("item_id").orderBy("valid_from", F.desc("kept"), "load_day")
    identity = F.struct(*IDENTITY)
    previous = F.lag(identity).over(before)
    return described.withColumn("previous", previous).where(~identity.eqNullSafe(F.col("previous"))).drop("previous")
