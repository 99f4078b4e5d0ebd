"""Recovers lost item numbers from what still holds them; they never change: histories, matrix and models use them."""

from collections.abc import Collection, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import ConfigError
from learn_spark.lake.frames import only_row
from learn_spark.lake.live_files import DeadFile
from learn_spark.lake.schemas import INTERACTIONS, ITEM_INDEX, ITEMS
from learn_spark.runs.steps import Context
from models.contract.content_matrix import read_meta
from models.contract.failures import BadInput

_PAIR = ("item_id", "item_idx")


def numbers_again(context: Context, dead: Sequence[DeadFile], is_there: bool, hurt: Collection[str]) -> DataFrame:
    """All rows of item_index: those that can still be read, and those that the events hold.

    Args:
        context: the lake.
        dead: the table's files that cannot be read.
        is_there: whether the table's other files can be read.
        hurt: the names of all tables that are hurt.

    Raises:
        ConfigError: not every number is found. No new number is given instead: it could then stand for two items.
    """
    tables = context.tables
    needed = [name for name in (INTERACTIONS.name, ITEMS.name) if name in hurt]
    if needed:
        raise _lost(f"they are looked up in {' and '.join(needed)}, which is hurt as well")
    kept = tables.read_healthy(ITEM_INDEX.name, dead) if is_there else None
    held = tables.read(INTERACTIONS.name).select(*_PAIR)
    found = (held.unionByName(kept.select(*_PAIR)) if kept else held).distinct().localCheckpoint()
    totals = only_row(
        found.agg(
            F.count("*").alias("pairs"),
            F.count_distinct("item_id").alias("items"),
            F.count_distinct("item_idx").alias("numbers"),
            F.max("item_idx").alias("last"),
        )
    )
    if not totals["pairs"] == totals["items"] == totals["numbers"]:
        raise _lost(f"{totals['pairs']} pairs of {totals['items']} items and {totals['numbers']} numbers contradict")
    nameless = tables.read(ITEMS.name).select("item_id").distinct().join(found, on="item_id", how="left_anti").count()
    lost = nameless
    if dead and kept is not None and None not in (rows := [file.rows for file in dead]):
        lost = max(lost, kept.count() + sum(filter(None, rows)) - totals["pairs"])
    else:  # numbers have no gaps
        lost = max(lost, (totals["last"] or 0) - totals["pairs"], _in_matrix(context) - (totals["last"] or 0))
    if lost:
        raise _lost(f"{lost} items without an event had numbers that nothing else holds")
    return found


def _in_matrix(context: Context) -> int:
    """The last number that the content matrix knows."""
    try:
        return read_meta(matrix_path(context)).rows - 1
    except BadInput:
        return 0


def _lost(why: str) -> ConfigError:
    return ConfigError(
        f"table item_index: its numbers cannot be made again: {why}; bring the table's folder back from a backup, or"
        f" begin a new lake (another lake.root)"
    )
