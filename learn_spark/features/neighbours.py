"""Embedding health in figures and in words, from a bounded sample of items. Shapes: N items, K width."""

from collections.abc import Sequence

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.quality.gates import unit

SAMPLE = 4096
POPULAR, CANDIDATES, NEIGHBOURS = 8, 2000, 5


def item_sample(items: DataFrame, size: int = SAMPLE) -> np.ndarray:
    """At most `size` item embeddings as [N, K], the same ones in every run."""
    order = F.xxhash64("item_id")
    rows = items.select("item_emb", order.alias("_order"), "item_id").orderBy("_order", "item_id").limit(size)
    return _stacked([row.item_emb for row in rows.collect()])


def neighbours_in_words(items: DataFrame, titles: DataFrame, events: DataFrame) -> list[dict[str, object]]:
    """The nearest neighbours of the most popular items, by title.

    Args:
        items: item_id, ds, item_emb; of several rows of an item the newest counts.
        titles: item_id, title.
        events: item_id, events; an item's popularity is its number of events.

    Returns:
        [{title, neighbours: [{title, cosine}]}], the neighbours among the 2,000 most popular items.
    """
    popular = events.orderBy(F.desc("events"), "item_id").limit(CANDIDATES)
    vectors = items.join(F.broadcast(popular), on="item_id", how="inner")
    newest = vectors.groupBy("item_id", "events").agg(F.max_by("item_emb", "ds").alias("item_emb"))
    rows = newest.join(titles, on="item_id", how="inner").orderBy(F.desc("events"), "item_id").collect()
    return _nearest([row.title for row in rows], _stacked([row.item_emb for row in rows]))


def _nearest(titles: Sequence[str], vectors_NK: np.ndarray) -> list[dict[str, object]]:
    unit_NK = unit(vectors_NK)
    found = []
    for row, title in enumerate(titles[:POPULAR]):
        cosine_N = unit_NK @ unit_NK[row]
        cosine_N[row] = -np.inf
        nearest = np.argsort(-cosine_N, kind="stable")[: min(NEIGHBOURS, len(titles) - 1)]
        near = [{"title": titles[i], "cosine": round(float(cosine_N[i]), 4)} for i in nearest]
        found.append({"title": title, "neighbours": near})
    return found


def _stacked(rows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.asarray(rows, np.float32) if rows else np.zeros((0, 1), np.float32)
