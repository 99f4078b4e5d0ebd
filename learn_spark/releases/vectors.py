"""A release's item embeddings for retrieval outside the lake: index and smaller copies, with their measured losses."""

from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.bridge.folders import require_absent, written_whole
from learn_spark.bridge.launch import run_trainer
from learn_spark.bridge.snapshots import export
from learn_spark.releases.registry import Release, rows_of
from learn_spark.runs.steps import Context
from models.contract.export_specs import Index, VectorsSpec

QUERIES = 1000


def export_vectors(context: Context, release: Release, out: Path, index: Index) -> dict[str, Any]:
    """Writes folder `out`, all of it or nothing: see `models.export.item_vectors` for what it holds.

    Every item has its newest vector of the release; the losses are those of `QUERIES` users (all, where they are
    fewer), drawn by a hash, with their newest vectors.

    Args:
        context: of the lake.
        release: whose vectors.
        out: a folder that is not there yet.
        index: `hnsw`, `ivf`, `flat` or `none`.

    Returns:
        What `out/result.json` says.

    Raises:
        ConfigError: the folder is there already, or faiss, which an index needs, is not installed.
    """
    require_absent(out)
    numbers = context.tables.read("item_index")  # an item's number never changes; older versions may be gone
    items = _newest(context, release, "item").join(numbers, on="item_id", how="inner")
    items = _snapshot(context, release, items, "item")
    users = _snapshot(context, release, _newest(context, release, "user", QUERIES), "user")
    with written_whole(out) as folder:
        threads = context.config.evaluation.run.threads
        return run_trainer(VectorsSpec(items=items, users=users, index=index, threads=threads, out_dir=folder))


def _newest(context: Context, release: Release, side: str, most: int | None = None) -> DataFrame:
    """Id and newest vector of all users or items that the release shows, or of `most` of them."""
    key, vector = f"{side}_id", f"{side}_emb"
    rows = rows_of(context.tables, release, f"{side}_features").select(key, "ds", vector)
    if most is not None:
        drawn = rows.select(key).distinct().orderBy(F.xxhash64(key), key).limit(most)
        rows = rows.join(F.broadcast(drawn), on=key, how="left_semi")
    return rows.groupBy(key).agg(F.max_by(vector, "ds").alias(vector))


def _snapshot(context: Context, release: Release, rows: DataFrame, side: str) -> Path:
    table = f"{side}_features"
    name, seed = f"vectors-{side}s-{release.release_id}", context.config.evaluation.seed
    return export(context, rows, name, [f"{side}_id"], table, release.tables[table], seed)
