"""Exports a release's items: embeddings for retrieval, with the measured losses of copies, and codes as tokens."""

from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.bridge.folders import require_absent, written_whole
from learn_spark.bridge.launch import run_trainer
from learn_spark.bridge.snapshots import export
from learn_spark.releases.codebooks import CODES, codebook_file, codebook_of
from learn_spark.releases.registry import Release, rows_of
from learn_spark.runs.steps import Context
from learn_spark.storage import Place
from models.contract.export_specs import CodesSpec, Index, VectorsSpec

QUERIES = 1000


def export_vectors(context: Context, release: Release, out: Place, index: Index) -> dict[str, Any]:
    """Writes the folder `out`, whole or not at all: see `models.export.item_vectors` for what it holds.

    Every item has its newest vector of the release; the losses are measured on `QUERIES` users (all, if there are
    fewer), drawn by a hash, with their newest vectors.

    Args:
        context: of the lake.
        release: the release whose vectors are exported.
        out: a folder that does not exist yet, or a place in a store.
        index: `hnsw`, `ivf`, `flat` or `none`.

    Returns:
        The content of `out/result.json`.

    Raises:
        ConfigError: the folder exists already, or faiss, which an index needs, is not installed.
    """
    require_absent(out)
    items = _snapshot(context, release, _numbered(context, _newest(context, release, "item", "item_emb")), "item")
    users = _snapshot(context, release, _newest(context, release, "user", "user_emb", QUERIES), "user")
    with written_whole(out) as folder:
        threads = context.config.evaluation.run.threads
        return run_trainer(VectorsSpec(items=items, users=users, index=index, threads=threads, out_dir=folder))


def export_codes(context: Context, release: Release, out: Place) -> dict[str, Any]:
    """Writes the folder `out`, whole or not at all: see `models.export.code_tokens` for what it holds.

    Args:
        context: of the lake.
        release: the release whose item codes are exported; items without content have none.
        out: a folder that does not exist yet, or a place in a store.

    Returns:
        The content of `out/result.json`.

    Raises:
        ConfigError: the folder exists already, the release has no codes, or their codebook is gone.
    """
    require_absent(out)
    codebook_of(context.tables, release)
    items = _newest(context, release, "item", "item_codes").where("item_codes IS NOT NULL")
    items = _snapshot(context, release, _numbered(context, items), "item", "codes")
    with written_whole(out) as folder:
        codebook = codebook_file(context.tables, release.models[CODES])
        return run_trainer(CodesSpec(items=items, codebook=codebook, out_dir=folder))


def _numbered(context: Context, items: DataFrame) -> DataFrame:
    """Adds the items' numbers from today's table: they never change, and older versions of it may be gone."""
    return items.join(context.tables.read("item_index"), on="item_id", how="inner")


def _newest(context: Context, release: Release, side: str, column: str, most: int | None = None) -> DataFrame:
    """Id and newest value of all users or items that the release shows, or of `most` of them."""
    key = f"{side}_id"
    rows = rows_of(context.tables, release, f"{side}_features").select(key, "ds", column)
    if most is not None:
        drawn = rows.select(key).distinct().orderBy(F.xxhash64(key), key).limit(most)
        rows = rows.join(F.broadcast(drawn), on=key, how="left_semi")
    return rows.groupBy(key).agg(F.max_by(column, "ds").alias(column))


def _snapshot(context: Context, release: Release, rows: DataFrame, side: str, what: str = "vectors") -> Path:
    table = f"{side}_features"
    name, seed = f"{what}-{side}s-{release.release_id}", context.config.evaluation.seed
    return export(context, rows, name, [f"{side}_id"], table, release.tables[table], seed)
