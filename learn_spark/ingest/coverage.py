"""How much of the log an item catalogue covers.

Log and catalogue may spell the same item differently. No line of either is wrong then: only a comparison shows it.
"""

import logging
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.errors import QualityError
from learn_spark.lake.frames import only_row

_log = logging.getLogger(__name__)
_SHOWN = 5


@dataclass(frozen=True)
class Coverage:
    """How many items and events of a log have a description.

    Attributes:
        items, events: how many there are.
        lost_items, lost_events: how many of them have none.
    """

    items: int
    events: int
    lost_items: int
    lost_events: int

    def __str__(self) -> str:
        share = self.lost_events / self.events if self.events else 0.0
        lost = f"{self.lost_items:,} of {self.items:,} items of the log, {share:.1%} of its events"
        return f"{lost}, are not in the catalogue"


def require_coverage(events: DataFrame, described: DataFrame, least: float) -> Coverage:
    """Warns if items of the events have no description, and stops if these are too many.

    Args:
        events: `item_id` per event.
        described: `item_id` of the items that have a description, from this run or before.
        least: the least share of events whose item must have a description; 0 never stops.

    Raises:
        QualityError: the share is smaller.
    """
    known = described.select("item_id").distinct().withColumn("known", F.lit(1))
    items = events.groupBy("item_id").count().join(known, on="item_id", how="left")
    is_lost = F.col("known").isNull()
    row = only_row(
        items.agg(
            F.count(F.lit(1)),
            F.coalesce(F.sum("count"), F.lit(0)),
            F.count_if(is_lost),
            F.coalesce(F.sum(F.when(is_lost, F.col("count"))), F.lit(0)),
        )
    )
    coverage = Coverage(*row)
    if coverage.lost_items:
        _log.warning("ingest_events: %s", coverage)
    if coverage.events - coverage.lost_events < least * coverage.events:
        of_log = items.where(is_lost).orderBy(F.desc("count"), "item_id")
        raise QualityError(
            f"{coverage}: ingest.gates.min_catalogue_share asks for {least:.0%} of the events; the log has"
            f" {_some(of_log)}, the catalogue {_some(known.orderBy('item_id'))}; nothing published"
        )
    return coverage


def _some(items: DataFrame) -> str:
    return ", ".join(repr(row["item_id"]) for row in items.select("item_id").limit(_SHOWN).collect()) or "nothing"
