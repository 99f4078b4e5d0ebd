"""When items appeared and stopped being cold, from the last state and the events since."""

from collections.abc import Sequence
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.lake.days import ONE_DAY, days_predicate
from learn_spark.lake.frames import only_row
from learn_spark.runs.steps import WRITE_FEATURES, Context

TABLE = "item_life"
_STATE = ("item_id", "first_ds", "warm_ds", "events")


def write_item_life(context: Context, days: Sequence[date], interactions: DataFrame) -> DataFrame:
    """Stores the state of the last of these days, in place of all states that are stored for these days.

    It reads the newest stored state that is still valid and the events since, or all events if there is none.

    Returns:
        The state, with the columns of `item_life` and its `ds`.
    """
    base_day = _base_day(context, min(days))
    reached = interactions.where(F.col("ds") < F.lit(max(days)))
    base = None
    if base_day is not None:
        reached = reached.where(F.col("ds") >= F.lit(base_day))
        base = context.tables.read(TABLE).where(F.col("ds") == F.lit(base_day))
    is_history = F.col("event_type").isin(context.config.sequences.history_events)
    daily = reached.groupBy("item_id", "ds").agg(F.count_if(is_history).alias("events"))
    state = item_life(daily, context.config.features.cold_events, base).withColumn("ds", F.lit(max(days)))
    context.tables.overwrite_days(TABLE, state, days)
    return context.tables.read(TABLE).where(F.col("ds") == F.lit(max(days)))


def item_life(daily: DataFrame, cold_events: int, base: DataFrame | None = None) -> DataFrame:
    """Carries the items' state forward over later days.

    Args:
        daily: item_id, ds, events (history events of the day; a day with other events alone has 0), all days
            from the base's on.
        cold_events: the number of history events from which on an item is warm.
        base: an earlier state, with its `ds`.

    Returns:
        item_id, first_ds (day of its first event), warm_ds (day on which its history events reach
        `cold_events`; null if never), events (history events in all).
    """
    steps = daily.select("item_id", "ds", "events", F.col("ds").alias("first_ds"), _no_day().alias("warm_ds"))
    if base is not None:
        steps = steps.unionByName(base.select("item_id", F.date_sub("ds", 1).alias("ds"), *_STATE[1:]))
    so_far = Window.partitionBy("item_id").orderBy("ds").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    counted = steps.withColumn("total", F.sum("events").over(so_far))
    is_warm = F.col("total") >= cold_events
    return counted.groupBy("item_id").agg(
        F.min("first_ds").alias("first_ds"),
        F.coalesce(F.min("warm_ds"), F.min(F.when(is_warm, F.col("ds")))).alias("warm_ds"),
        F.max("total").alias("events"),
    )


def due_items(life: DataFrame, days: Sequence[date], first_day: date) -> DataFrame:
    """item_id, ds, is_cold: the rows that `item_features` gets on these days.

    The first feature day gets every item seen before it; a later day gets the items that were first seen, or stopped
    being cold, on the day before.
    """
    known = F.when(F.col("first_ds") < F.lit(first_day), F.lit(first_day)).otherwise(F.date_add("first_ds", 1))
    warmed = F.when(F.col("warm_ds") >= F.lit(first_day), F.date_add("warm_ds", 1))
    dated = life.select(
        "item_id", "warm_ds", F.explode(F.array_distinct(F.array_compact(F.array(known, warmed)))).alias("ds")
    )
    is_cold = ~F.coalesce(F.col("warm_ds") < F.col("ds"), F.lit(False))
    return dated.where(days_predicate("ds", days)).select("item_id", "ds", is_cold.alias("is_cold"))


def forget_states(context: Context, keep_days: int) -> None:
    """Deletes states that are more than `keep_days` older than the newest: late events cannot reach back to them."""
    newest = only_row(context.tables.read(TABLE).agg(F.max("ds")))[0]
    if newest is not None:
        context.tables.delete(TABLE, f"ds < DATE'{newest - timedelta(days=keep_days) - ONE_DAY}'")


def _base_day(context: Context, first: date) -> date | None:
    """The newest day up to `first` whose state is stored and, by the ledger, still valid; None if there is none."""
    stored = {row.ds for row in context.tables.read(TABLE).select("ds").distinct().collect()}
    recorded = context.ledger.recorded()
    for day in sorted((day for day in stored if day <= first), reverse=True):
        row = recorded.get((WRITE_FEATURES, day))
        if row and not row.is_stale and row.fingerprint == context.fingerprint(WRITE_FEATURES, day):
            return day
    return None


def _no_day() -> Column:
    return F.lit(None).cast("date")
