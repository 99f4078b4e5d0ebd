"""Forgotten users and items, by a salted hash, so that the lake can recognise them without keeping their ids.

Every search for them, in tables, files and new deliveries, goes by these hashes. So a killed sweep can go on without
the list that it began with.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from learn_spark.lake.forget_requests import Request
from learn_spark.lake.frames import frame_of
from learn_spark.lake.schemas import FORGOTTEN
from learn_spark.lake.tables import Tables

USER, ITEM = "user", "item"
COLUMNS = {USER: "user_id", ITEM: "item_id"}  # the columns that hold their ids
# Patterns that cut a raw line into values, from wide pieces to narrow ones, since an id may itself hold separators.
# Java and Python spell these alike, but not the narrowest one, which leaves only letters and digits.
CUTS = (r"[,;|\t\"]+", r"[\s,;|\"'{}\[\]()]+", r"[\s,;|\"'{}\[\]():=&?/<>]+")
_NARROWEST = r"[^\p{L}\p{N}]+"


@dataclass(frozen=True)
class Tombstones:
    """Everything that is forgotten.

    Attributes:
        salt: the lake's salt.
        kinds: the kinds (user, item) of which anything is forgotten.
        rows: `kind` and `id_hash`.
    """

    salt: str
    kinds: frozenset[str]
    rows: DataFrame

    def hashed(self, column: Column) -> Column:
        """The hash of ids; null for a null id."""
        return F.sha2(F.concat(F.lit(self.salt), column.cast("string")), 256)

    def with_mark(self, rows: DataFrame, column: str, kind: str, mark: str) -> DataFrame:
        """Adds a column that says whether the row's user or item is forgotten."""
        gone = F.broadcast(self.rows.where(F.col("kind") == kind).select(F.col("id_hash").alias("_gone_hash")))
        marked = rows.join(gone, self.hashed(F.col(column)) == F.col("_gone_hash"), how="left")
        return marked.withColumn(mark, F.col("_gone_hash").isNotNull()).drop("_gone_hash")

    def texts_with_any(self, rows: DataFrame, column: str) -> DataFrame:
        """The distinct texts of a column that hold the id of a forgotten user or item as a separate value.

        An id that itself holds spaces or punctuation is found only if one of the patterns cuts the text just around it.
        """
        texts = rows.select(column).where(F.col(column).isNotNull()).distinct()
        cuts = F.array_distinct(F.concat(F.array(column), *(F.split(column, cut) for cut in (*CUTS, _NARROWEST))))
        pieces = texts.select(column, F.explode(cuts).alias("_piece")).where("_piece <> ''")
        gone = F.broadcast(self.rows.select(F.col("id_hash").alias("_gone_hash")).distinct())
        gone_pieces = pieces.join(gone, self.hashed(F.col("_piece")) == F.col("_gone_hash"), how="left_semi")
        return gone_pieces.select(column).distinct()


def read_tombstones(tables: Tables) -> Tombstones | None:
    """What the lake has forgotten; None if nothing ever was, which is known without reading rows."""
    if not tables.exists(FORGOTTEN.name) or not tables.version(FORGOTTEN.name):
        return None
    rows = tables.read(FORGOTTEN.name)
    found = rows.select("kind", "salt").distinct().collect()
    if not found:
        return None
    return Tombstones(found[0]["salt"], frozenset(row["kind"] for row in found), rows.select("kind", "id_hash"))


def tombstones_of(spark: SparkSession, requests: Sequence[Request]) -> Tombstones:
    """The tombstones of what requests name, whether or not the table has them yet."""
    rows = sorted({pair for request in requests for pair in request.pairs})
    frame = frame_of(spark, rows, "kind string, id_hash string").localCheckpoint()
    return Tombstones(requests[0].salt, frozenset(kind for kind, _ in rows), frame)


def add_tombstones(tables: Tables, request: Request) -> int:
    """Records those tombstones of a request that the lake does not have yet, in one commit; returns how many."""
    known = {(row["kind"], row["id_hash"]) for row in tables.read(FORGOTTEN.name).select("kind", "id_hash").collect()}
    rows = rows_of([request], known)
    if rows:
        spark = tables.read(FORGOTTEN.name).sparkSession
        tables.append(FORGOTTEN.name, frame_of(spark, rows, FORGOTTEN.columns_ddl).coalesce(1))
    return len(rows)


def rows_of(requests: Iterable[Request], known: Collection[tuple[str, str]] = ()) -> list[tuple[object, ...]]:
    """Rows of the table for requests: each kind and hash once, without those that are `known`."""
    rows: dict[tuple[str, str], tuple[object, ...]] = {}
    for request in requests:
        asked = datetime.fromisoformat(request.asked_at)
        for pair in request.pairs:
            if pair not in known:
                rows.setdefault(pair, (*pair, request.salt, request.request, asked))
    return list(rows.values())


def any_of(marks: Iterable[str]) -> Column:
    """Whether any of these columns is true."""
    return reduce(Column.__or__, map(F.col, marks))
