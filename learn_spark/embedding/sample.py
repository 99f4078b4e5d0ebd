"""A bounded sample of the vectors that are about to go into the matrix. Shapes: N sampled texts, D width."""

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def sampled_vectors(rows_df: DataFrame, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws at most `count` texts by their hash, the same ones in every run, and one item of each.

    Args:
        rows_df: (item_idx, text_hash, embedding, flag); flagged rows are left out.
        count: maximum number of texts; bounds the driver's memory.

    Returns:
        item_idx [N] and vectors, float32 [N, D], in the order of the draw; [0] and [0, 0] if there are no rows.
    """
    good_df = rows_df.where(F.col("flag").isNull())
    one_each_df = good_df.groupBy("text_hash").agg(F.min("item_idx").alias("item_idx"))
    drawn_df = one_each_df.orderBy(F.xxhash64("text_hash"), "text_hash").limit(count).select("item_idx")
    rows = (
        good_df.join(F.broadcast(drawn_df), on="item_idx", how="inner")
        .orderBy(F.xxhash64("text_hash"), "text_hash")
        .select("item_idx", "embedding")
        .collect()
    )
    if not rows:
        return np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
    vectors_ND = np.stack([np.frombuffer(row.embedding, "<f2") for row in rows]).astype(np.float32)
    return np.array([row.item_idx for row in rows]), vectors_ND
