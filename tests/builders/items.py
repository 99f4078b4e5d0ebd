"""Writes items directly into the tables, and makes contexts for single steps."""

import csv
import gzip
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pyspark.sql import SparkSession

from learn_spark.config.load import Config
from learn_spark.lake.schemas import ITEM_INDEX, ITEMS
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.runs.ledger import Ledger
from learn_spark.runs.progress import Progress
from learn_spark.runs.steps import Context
from tests.builders.contexts import make_tables

DATA = Path(__file__).parents[2] / "data" / "online_retail"


def step_context(spark: SparkSession, config: Config) -> Context:
    """A context without steps in its fingerprints, on the existing lake or else on a new empty one."""
    tables = make_tables(spark, config.lake.root)
    return Context(config, spark, tables, Ledger(spark, tables), Fingerprints(config, {}), Progress(spark))


def with_embedding(config: Config, **changes: object) -> Config:
    """The config with changed embedding settings. Keys of `run` and `gates` are given without a prefix."""
    own = config.embedding
    for part in ("run", "gates"):
        inner = getattr(own, part)
        moved = {name: changes.pop(name) for name in type(inner).model_fields.keys() & changes.keys()}
        changes[part] = inner.model_copy(update=moved)
    return config.model_copy(update={"embedding": own.model_copy(update=changes)})


def item_row(item_id: str, day: str, title: str, **fields: object) -> tuple:
    """A row of `items`; fields that are not given are null."""
    names = ("category", "brand", "price", "keywords", "attributes")
    at = datetime.fromisoformat(f"{day}T09:00:00+00:00")
    return (item_id, at, title, *(fields.get(n) for n in names), at.date())


def add_items(context: Context, rows: Sequence[tuple]) -> None:
    """Appends item versions and numbers items that have no number yet, in the rows' order."""
    context.tables.append(ITEMS.name, context.spark.createDataFrame(rows, ITEMS.columns_ddl).coalesce(1))
    known = {row.item_id: row.item_idx for row in context.tables.read(ITEM_INDEX.name).collect()}
    fresh = [item_id for item_id in dict.fromkeys(row[0] for row in rows) if item_id not in known]
    if fresh:
        first = max(known.values(), default=0) + 1
        numbered = [(item_id, first + place) for place, item_id in enumerate(fresh)]
        index_df = context.spark.createDataFrame(numbered, "item_id string, item_idx int")
        context.tables.append(ITEM_INDEX.name, index_df.coalesce(1))


def product_titles(count: int) -> list[str]:
    """The first `count` distinct item names of the shipped log."""
    titles: dict[str, None] = {}
    for path in sorted(DATA.glob("*.csv.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            titles |= dict.fromkeys(" ".join(row["Description"].lower().split()) for row in csv.DictReader(lines))
        titles.pop("", None)
        if len(titles) >= count:
            return list(titles)[:count]
    raise ValueError(f"{DATA} holds only {len(titles)} names, {count} are wanted")


def matrix_file(folder: Path) -> Path:
    """The file of vectors that the matrix's meta.json currently names."""
    return folder / json.loads((folder / "meta.json").read_text())["vectors"]


def matrix_bytes(folder: Path) -> bytes:
    """The raw bytes of that file."""
    return matrix_file(folder).read_bytes()
