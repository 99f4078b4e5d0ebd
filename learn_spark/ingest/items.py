"""Item versions and the dense item numbers, from what events and catalogues say about the items."""

from collections.abc import Collection, Sequence
from datetime import date

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.lake.days import days_predicate
from learn_spark.lake.frames import only_row, with_dense_number, with_number_of_few
from learn_spark.lake.tables import Tables

IDENTITY = ("title", "category", "brand")
FEW = 1_000_000  # up to here one task numbers the items; beyond, many tasks after three shuffles
DETAILS = ("price", "keywords", "attributes")
_DESCRIPTION = ("item_id", "valid_from", *IDENTITY, *DETAILS)


def daily_items(events: DataFrame, details: Collection[str] = DETAILS) -> DataFrame:
    """Each item of a delivery with one description: the most frequent one, ties by text; null if it has none.

    The description is valid from the item's first event of the delivery on, but not from before the delivery's day: a
    late event was not known earlier.

    Args:
        events: usable events.
        details: those columns of DETAILS that are not null throughout. A text column among them makes Spark sort the
            events.
    """
    said = events.groupBy("item_id", "load_day", *IDENTITY)
    told = [F.min_by(name, "event_id").alias(name) for name in DETAILS if name in details]
    said = said.agg(F.count(F.lit(1)).alias("times"), F.min("event_ts").alias("first"), *told)
    nothing = {name: F.lit(None).cast(events.schema[name].dataType) for name in DETAILS if name not in details}
    of_item = Window.partitionBy("item_id", "load_day")
    most = of_item.orderBy(F.isnull("title"), F.desc("times"), *IDENTITY)
    known_from = F.greatest(F.min("first").over(of_item), F.col("load_day").cast("timestamp"))
    placed = said.withColumns({"place": F.row_number().over(most), "valid_from": known_from, **nothing})
    return placed.where("place = 1").select(*_DESCRIPTION, "load_day")


def catalogue_items(catalogue: DataFrame) -> DataFrame:
    """One description per item and time; of several, the first by text."""
    usable = catalogue.where("reason IS NULL")
    same = Window.partitionBy("item_id", "valid_from").orderBy(*IDENTITY, "price", "keywords", "source_file")
    chosen = usable.withColumn("place", F.row_number().over(same)).where("place = 1")
    return chosen.select(*_DESCRIPTION, "load_day")


def with_numbers(tables: Tables, items: DataFrame) -> DataFrame:
    """Adds the items' numbers from `item_index`; null for an item that has none yet."""
    return items.join(tables.read("item_index"), on="item_id", how="left")


def number_items(tables: Tables, items: DataFrame, is_once: bool) -> DataFrame:
    """Numbers items that have no number yet, delivery by delivery: days loaded one by one or at once get the same ones.

    Args:
        tables: the lake.
        items: `item_id`, `load_day` and `item_idx`, as `with_numbers` returns them; the frame is read several times.
        is_once: whether each item is in `items` only once, as in one delivery.

    Returns:
        `item_id` and `item_idx` of each item.
    """
    known, new = (items.where(f"item_idx IS {what}") for what in ("NOT NULL", "NULL"))
    row = only_row(_new_and_highest(new, tables.read("item_index")))
    numbers = known.select("item_id", "item_idx")
    numbers = numbers if is_once else numbers.distinct()
    if not row["new"]:
        return numbers
    fresh = new.select("item_id", "load_day")
    fresh = fresh if is_once else fresh.groupBy("item_id").agg(F.min("load_day").alias("load_day"))
    number = with_dense_number if row["new"] > FEW else with_number_of_few
    numbered = number(fresh, ["item_id"], "item_idx", (row["highest"] or 0) + 1, after=["load_day"])
    numbered = numbered.select("item_id", "item_idx")
    tables.append("item_index", numbered)
    return numbers.unionByName(numbered)


def _new_and_highest(new: DataFrame, index: DataFrame) -> DataFrame:
    """How many rows are `new`, and the highest number of the index."""
    rows = new.select("item_idx", F.lit(1).alias("is_new")).unionByName(
        index.select("item_idx", F.lit(0).alias("is_new"))
    )
    return rows.agg(F.sum("is_new").alias("new"), F.max("item_idx").alias("highest"))


def write_items(tables: Tables, items: DataFrame, days: Sequence[date]) -> None:
    """Writes the versions that these days' deliveries brought: a row for each change of title, category or brand.

    Args:
        tables: the lake.
        items: the items of these deliveries; those without a title have no version.
        days: delivery days.
    """
    described = items.where("title IS NOT NULL").select(*_DESCRIPTION, "load_day")
    of_these_days, stored = days_predicate("load_day", days), tables.read("items")
    kept = stored.where(f"NOT ({of_these_days})").withColumn("kept", F.lit(True))
    kept = kept.join(items.select("item_id"), on="item_id", how="left_semi")
    changed = _changed(kept.unionByName(described.withColumn("kept", F.lit(False)))).where("NOT kept").drop("kept")
    if stored.where(of_these_days).isEmpty():  # takes half the jobs
        tables.append("items", changed)
    else:
        tables.overwrite_where("items", changed, of_these_days)


def _changed(described: DataFrame) -> DataFrame:
    """The rows whose title, category or brand differs from the item's previous version."""
    before = Window.partitionBy("item_id").orderBy("valid_from", F.desc("kept"), "load_day")
    identity = F.struct(*IDENTITY)
    previous = F.lag(identity).over(before)
    return described.withColumn("previous", previous).where(~identity.eqNullSafe(F.col("previous"))).drop("previous")
