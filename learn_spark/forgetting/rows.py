"""Rows of forgotten users and items in the tables: how each table names them, and its rows without them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from learn_spark.lake.days import days_predicate
from learn_spark.lake.schemas import (
    CONTENT_EMBEDDINGS,
    FORGOTTEN,
    INTERVALS,
    ITEM_INDEX,
    ITEM_TEXT,
    REJECTS,
    RELEASES,
    SEQUENCES,
    TABLES,
    USER_HISTORY,
)
from learn_spark.lake.tables import Tables
from learn_spark.lake.tombstones import COLUMNS, ITEM, Tombstones, any_of

_IDS = {column: kind for kind, column in COLUMNS.items()}
NAMELESS = "forgotten-"  # how the name of a forgotten item begins in item_index
_GONE = "_gone"
# Columns that hold item numbers, each with its times, its event types and its length, if any.
_NUMBERED: dict[str, tuple[tuple[str, str, str, str | None], ...]] = {
    USER_HISTORY.name: (("item_idx", "event_ts", "event_types", None),),
    SEQUENCES.name: (
        ("hist_items", "hist_ts", "hist_types", "hist_len"),
        ("tar_items", "tar_ts", "tar_types", "tar_len"),
    ),
}
_NAMED_USER = r'"user_id": "(?:[^"\\]|\\.)*"'  # in the JSON of a run that met heavy users
_NO_IDS = {RELEASES.name, FORGOTTEN.name}
# Numbers and text hashes of forgotten items are looked up in the last two tables, so these are swept last.
_LAST = (CONTENT_EMBEDDINGS.name, ITEM_TEXT.name, ITEM_INDEX.name)
SEARCHED = (*(name for name in TABLES if name not in {*_NO_IDS, *_LAST}), *_LAST)


@dataclass(frozen=True)
class Gone:
    """The forgotten ids, and the numbers of the forgotten items."""

    tombstones: Tombstones
    numbers: Sequence[int]


def numbers_of(tables: Tables, tombstones: Tombstones) -> list[int]:
    """The numbers of forgotten items, also of those that earlier requests named."""
    if ITEM not in tombstones.kinds:
        return []
    index = tombstones.with_mark(tables.read(ITEM_INDEX.name), "item_id", ITEM, _GONE)
    is_nameless = F.col("item_id") == _nameless(tombstones)
    return sorted(row["item_idx"] for row in index.where(F.col(_GONE) | is_nameless).select("item_idx").collect())


def affected(tables: Tables, name: str, gone: Gone) -> dict[object, int]:
    """How many rows of a table a sweep deletes or changes, by partition value; by None if it has no partitions."""
    spec = TABLES[name]
    marked = _marked(tables, name, gone)
    if marked is None:
        return {}
    by = spec.partition[0] if spec.partition else None
    found = marked.where(_GONE).groupBy(F.col(by) if by else F.lit(None).alias("none")).count().collect()
    return {row[0]: row["count"] for row in found}


def searched_columns(name: str) -> list[str]:
    """The columns of a table that a sweep searches."""
    own = {REJECTS.name: ["raw"], INTERVALS.name: ["details"], CONTENT_EMBEDDINGS.name: ["text_hash"]}
    numbered = [items for items, *_ in _NUMBERED.get(name, ())]
    return [*(column for column in _IDS if column in TABLES[name].names), *numbered, *own.get(name, [])]


def sweep(tables: Tables, name: str, gone: Gone, parts: Sequence[object]) -> None:
    """Removes what is forgotten from these partitions, in one commit that rewrites their other rows.

    A deletion by a condition would write ids into Delta's log, and give tables with a change feed one more column.
    """
    marked = _marked(tables, name, gone)
    assert marked is not None, f"{name} has nothing to take out"
    by = TABLES[name].partition
    if not by and name != ITEM_INDEX.name:  # rewrites only the files that hold such rows
        tables.delete_matching(name, marked.where(_GONE).select(*TABLES[name].key), "TRUE")
        return
    if name in (ITEM_INDEX.name, REJECTS.name, INTERVALS.name) or name in _NUMBERED:
        marked = _changed(marked, name, gone)
    kept = marked.where(f"NOT {_GONE}").select(TABLES[name].names)
    if by == ("step",):
        where = " OR ".join(f"step = '{step}'" for step in parts)
    elif by:
        where = days_predicate(by[0], parts)  # pyright: ignore[reportArgumentType] - the other partitions are days
    else:
        where = "TRUE"
    tables.overwrite_where(name, kept.where(where), where)


def _marked(tables: Tables, name: str, gone: Gone) -> DataFrame | None:
    """The table's rows, with a mark on those that go or change; None if the table cannot hold any."""
    spec, stones = TABLES[name], gone.tombstones
    rows = _whole(tables.read(name), name)
    if name == REJECTS.name:
        named = stones.texts_with_any(rows, "raw").withColumn("_named", F.lit(True))
        return rows.join(named, on="raw", how="left").withColumn(_GONE, F.coalesce("_named", F.lit(False)))
    if name == INTERVALS.name:
        told = rows.where("details LIKE '%heavy_users%user_id%'")
        named = stones.texts_with_any(told, "details").withColumn("_named", F.lit(True))
        return rows.join(named, on="details", how="left").withColumn(_GONE, F.coalesce("_named", F.lit(False)))
    if name == CONTENT_EMBEDDINGS.name:
        return _texts_of_none(tables, rows, stones) if ITEM in stones.kinds else None
    named = {column: kind for column, kind in _IDS.items() if column in spec.names and kind in stones.kinds}
    marks = {f"_{kind}": (column, kind) for column, kind in named.items()}
    for mark, (column, kind) in marks.items():
        rows = stones.with_mark(rows, column, kind, mark)
    held = [any_of(marks)] if marks else []
    if name in _NUMBERED and gone.numbers:
        held += [F.arrays_overlap(items, _array(gone.numbers)) for items, *_ in _NUMBERED[name]]
    return rows.withColumn(_GONE, reduce(Column.__or__, held)) if held else None


def _whole(rows: DataFrame, name: str) -> DataFrame:
    """The rows with all columns of the contract; a column that is newer than the lake's table is null."""
    lacking = [column for column in TABLES[name].columns if column.name not in rows.columns]
    return rows.withColumns({column.name: F.lit(None).cast(column.type) for column in lacking})


def _texts_of_none(tables: Tables, vectors: DataFrame, stones: Tombstones) -> DataFrame:
    """Marks the vectors of texts that only forgotten items have."""
    texts = stones.with_mark(tables.read(ITEM_TEXT.name), "item_id", ITEM, _GONE)
    shared = texts.groupBy("text_hash").agg(F.bool_and(_GONE).alias(_GONE)).where(_GONE)
    return vectors.join(F.broadcast(shared), on="text_hash", how="left").withColumn(
        _GONE, F.coalesce(_GONE, F.lit(False))
    )


def _changed(marked: DataFrame, name: str, gone: Gone) -> DataFrame:
    """Changes marked rows that stay in part: takes out item numbers, texts or names; unmarks them unless they go."""
    if name == ITEM_INDEX.name:
        named = F.when(F.col(_GONE), _nameless(gone.tombstones)).otherwise(F.col("item_id"))
        return marked.withColumns({"item_id": named, _GONE: F.lit(False)})
    if name == REJECTS.name:
        return marked.withColumns({"raw": F.when(~F.col(_GONE), F.col("raw")), _GONE: F.lit(False)})
    if name == INTERVALS.name:
        nameless = F.regexp_replace("details", _NAMED_USER, '"user_id": "forgotten"')
        told = F.when(F.col(_GONE), nameless).otherwise(F.col("details"))
        return marked.withColumns({"details": told, _GONE: F.lit(False)})
    numbered = _NUMBERED[name] if gone.numbers else ()
    for items, times, types, length in numbered:
        is_kept = _kept_pairs(items, _array(gone.numbers))
        left = F.col(f"_{items}")
        typed = F.filter(F.arrays_zip(items, types), is_kept)  # null where the rows have no types
        marked = marked.withColumns({f"_{items}": F.filter(F.arrays_zip(items, times), is_kept), f"_{types}": typed})
        zeros = F.array_repeat(F.lit(0), F.lit(0) if length is None else F.size(items) - F.size(left))
        listed = {items: left[items], times: left[times], types: F.col(f"_{types}")[types]}
        marked = marked.withColumns({name: F.concat(values, zeros) for name, values in listed.items()})
        marked = marked.withColumn(length, F.size(left)) if length else marked
    goes = [F.col("_user")] if "_user" in marked.columns else []
    goes += [F.size(f"_{items}") == 0 for items, *_ in numbered]
    return marked.withColumn(_GONE, reduce(Column.__or__, goes))


def _kept_pairs(items: str, numbers: Column) -> Callable[[Column], Column]:
    """A predicate on an item number with its time: that it is neither padding nor forgotten."""
    return lambda pair: (pair[items] > 0) & ~F.array_contains(numbers, pair[items])


def _array(numbers: Sequence[int]) -> Column:
    return F.array(*(F.lit(number) for number in numbers))


def _nameless(stones: Tombstones) -> Column:
    """The name that replaces a forgotten item's id: a salted hash, so that no log can name the item."""
    return F.concat(F.lit(NAMELESS), F.substring(stones.hashed(F.concat(F.lit("#"), F.col("item_idx"))), 1, 24))
