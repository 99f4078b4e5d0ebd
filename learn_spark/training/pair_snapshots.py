"""Snapshots of pairs with the embeddings that the conversion model reads of them, as of each pair's day."""

from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.bridge.programs import towers_to_score
from learn_spark.bridge.scoring import TYPES, score_items, score_users
from learn_spark.bridge.snapshots import export
from learn_spark.bridge.trained import cvr_path, towers_path
from learn_spark.embedding.matrix import matrix_path
from learn_spark.lake.days import DayRange, days_predicate
from learn_spark.lake.point_in_time import latest_before
from learn_spark.releases.spaces import Earlier, ReleaseModels
from learn_spark.runs.steps import Context
from learn_spark.sequences.samples import OTHERS, with_log_q

PAIR_KEY = ("user_id", "item_id", "event_ts")
EMBEDDINGS = ("user_emb", "item_emb")
EARLIER = "earlier_"  # begins the names of what an earlier release's models make
MOST_PAIRS = 50_000  # that a map of mid_emb is fitted on


def pair_snapshot(context: Context, role: str, span: DayRange, version: int, fingerprint: str) -> Path:
    """The conversion model's samples of these days, with labels and weights."""
    config = context.config
    samples = context.tables.read("samples", version).where("stage = 'cvr'")
    corrected = ["log_q"] if config.cvr.log_q else []
    if corrected:
        samples = with_log_q(samples, config.samples.negatives)
    samples = samples.where(days_predicate("ds", span))
    others = [OTHERS] if config.samples.other_labels else []
    columns = (*EMBEDDINGS, "label", "weight", *corrected, *others)
    pairs = with_embeddings(context, samples).select(*PAIR_KEY, *columns)
    return export(context, pairs, f"cvr-{role}-{fingerprint}", PAIR_KEY, "samples", version, config.cvr.train.seed)


def pairs_of_both(context: Context, earlier: Earlier, version: int, fingerprint: str) -> Path:
    """Pairs of the conversion model's samples, with these towers' embeddings and an earlier release's."""
    (release, models), seed = earlier, context.config.cvr.train.seed
    samples = context.tables.read("samples", version).where("stage = 'cvr'").select(*PAIR_KEY, "ds")
    drawn = samples.orderBy(F.xxhash64(F.lit(seed), *PAIR_KEY)).limit(MOST_PAIRS)
    ours, theirs = with_embeddings(context, drawn), with_embeddings(context, drawn, models)
    theirs = theirs.select(*PAIR_KEY, *(F.col(name).alias(f"{EARLIER}{name}") for name in EMBEDDINGS))
    pairs = ours.select(*PAIR_KEY, *EMBEDDINGS).join(theirs, on=list(PAIR_KEY), how="inner")
    name = f"cvr-space-{fingerprint}-{release.release_id}"
    return export(context, pairs, name, PAIR_KEY, "samples", version, seed)


def with_history_ds(context: Context, samples: DataFrame) -> DataFrame:
    """Adds `history_ds`, the day of the newest feature day's history with ds <= the sample's day; null without one."""
    dated = latest_before(samples, _histories(context).select("user_id", "ds"), "user_id")
    return dated.withColumnRenamed("feature_ds", "history_ds")


def named_histories(context: Context, dated: DataFrame) -> DataFrame:
    """Rows of `user_history` that the samples' `history_ds` name, each once."""
    wanted = dated.where("history_ds IS NOT NULL").select("user_id", F.col("history_ds").alias("ds")).distinct()
    return _histories(context).join(wanted, on=["user_id", "ds"], how="left_semi")


def _histories(context: Context) -> DataFrame:
    return context.tables.read("user_history").where(F.col("ds") >= F.lit(context.config.windows.towers_end))


def with_embeddings(context: Context, samples: DataFrame, models: ReleaseModels | None = None) -> DataFrame:
    """Adds `user_emb` (newest history with ds <= the sample's day) and `item_emb`, as releases show them on that day.

    So a new user's, and an item's whose first event is not before that day, are zeros. Every (user, history day) and
    every item is scored once.

    Args:
        context: of the run.
        samples: `user_id`, `item_id`, `ds`, and any other columns.
        models: that score, where they are not those of the config.
    """
    models = models or ReleaseModels(towers_path(context), cvr_path(context), matrix_path(context))
    tables, batch_rows = context.tables, context.config.features.run.batch_rows
    dated = with_history_ds(context, samples)
    types = context.config.sequences.event_types
    due = named_histories(context, dated).select("user_id", "ds", "item_idx", *([TYPES] if types else []))
    towers = towers_to_score(context, models.towers)
    users = score_users(due.repartition("user_id", "ds"), towers, models.matrix, batch_rows, types).frame
    users = users.select("user_id", F.col("ds").alias("history_ds"), "user_emb")
    sold = tables.read("item_index").join(samples.select("item_id").distinct(), on="item_id", how="left_semi")
    items = score_items(sold.repartition("item_id"), towers, models.matrix, batch_rows).frame
    before = tables.read("interactions").where(F.col("ds") < F.lit(context.config.windows.end))
    seen = before.groupBy("item_id").agg(F.min("ds").alias("first_ds"))
    items = items.select("item_id", "item_emb").join(seen, on="item_id", how="left")
    joined = dated.join(users, on=["user_id", "history_ds"], how="left").join(items, on="item_id", how="inner")
    unknown = F.transform("item_emb", lambda _: F.lit(0.0).cast("float"))
    item_emb = F.when(F.col("first_ds") < F.col("ds"), F.col("item_emb")).otherwise(unknown)
    return joined.withColumns({"user_emb": F.coalesce("user_emb", unknown), "item_emb": item_emb})
