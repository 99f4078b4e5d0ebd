"""User ids that stand for nobody: the marks that exports write for null."""

import logging
from collections.abc import Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F

from learn_spark.ingest.line_counts import Lines

_log = logging.getLogger(__name__)

MARKS = ("na", "n/a", "nan", "null", "(null)", "none", "nil", "\\n", "<na>", "undefined", "unknown", "-1", "-")
LEAST_SHARE = 0.01


def marks() -> list[Column]:
    """Aggregates over events: how many have a mark as their user, and one such mark."""
    is_mark = F.col("reason").isNull() & F.lower("user_id").isin(*MARKS)
    return [F.count_if(is_mark).alias("marked"), F.max(F.when(is_mark, F.col("user_id"))).alias("mark")]


def warn_of_marks(counts: Sequence[Lines]) -> None:
    """Warns if at least LEAST_SHARE of the events have a mark as their user."""
    usable = sum(row.lines for row in counts if row.reason is None)
    marked = sum(row.marked for row in counts)
    if marked and marked >= LEAST_SHARE * usable:
        mark = max(row.mark for row in counts if row.mark is not None)
        _log.warning(
            "ingest_events: warning: %s of %s events are of user `%s`: if that means that nobody is known, write"
            " ingest.nulls: ['%s']",
            f"{marked:,}",
            f"{usable:,}",
            mark,
            mark,
        )
