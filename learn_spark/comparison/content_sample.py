"""The items and validation rows that `choose_content` measures on, as snapshots outside the lake.

Nothing from `towers_end` on is read; with `leave_one_out`, only the events of validation rows. The cost is a few passes
over the validation day's rows and over the events before `towers_end`. The driver holds only counts.
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.bridge.snapshots import export
from learn_spark.embedding.prompts import Template
from learn_spark.embedding.store import pinned_versions
from learn_spark.errors import ConfigError
from learn_spark.evaluation.ranking import base_columns, thinned, with_base_features
from learn_spark.lake.frames import only_row
from learn_spark.runs.steps import BUILD_SEQUENCES, Context
from learn_spark.sequences.samples import window_samples
from learn_spark.sequences.windows import SampleWindow, as_of_dates
from learn_spark.systems.test_day import known_items, purchases

MIN_USERS = 20
CANDIDATES_PER_PLACE = 4  # a list of 50 among fewer than 200 items says little
RANKER_ROWS = 200_000
RANKER_DAYS = 3
TEST_SHARE = 1 / 3  # last share of the validation window's days with samples: the ranker is measured on it
_ROW = ("user_id", "hist_ts", "hist_len", "tar_len")


@dataclass(frozen=True)
class ContentSample:
    """The sampled items and rows.

    Attributes:
        places_df: item_id, item_idx in the lake, and place: 1, 2, … within the sample.
        rows_df: the rows of `sequences` for validation whose items are all in the sample.
        day: the validation's as-of date; None with leave_one_out.
        items, users: how many items and users are in the sample.
        of_items, of_users: how many items the lake has, and how many users validation has.
    """

    places_df: DataFrame
    rows_df: DataFrame
    day: date | None
    items: int
    users: int
    of_items: int
    of_users: int

    def __str__(self) -> str:
        how = "all" if self.users == self.of_users else "drawn by hash"
        return (
            f"{self.items:,} of {self.of_items:,} items: all in history and targets of {self.users:,} of"
            f" {self.of_users:,} validation users ({how}), the rest by hash"
        )


def content_sample(context: Context, items: int, k: int) -> ContentSample:
    """Draws at most `items` items, always the same ones: all in the validation users' histories and targets first.

    If these are more than `items`, users are left out until the rest need at most half. Other known items, in the order
    of their hash, fill the sample up.

    Args:
        context: a lake with sequences.
        items: maximum number of items.
        k: length of the recommended list that is measured.

    Raises:
        ConfigError: the lake lacks sequences, or so few items leave too little to measure.
    """
    day = _validation_day(context)
    rows_df = _validation_rows(context, day)
    pairs_df = _asked_items(context, rows_df, day)
    first_df = pairs_df.groupBy("item_idx").agg(F.min("draw").alias("draw")).persist()
    needed, of_users = first_df.count(), rows_df.count()
    if needed > items:
        half = first_df.orderBy("draw").limit(items // 2 + 1)
        limit = only_row(half.agg(F.max("draw")))[0]
        rows_df, first_df = rows_df.where(_draw() < limit), first_df.where(F.col("draw") < limit)
    known_df = known_items(context, day) if day else context.tables.read("item_index")
    places_df = _placed(context, first_df, known_df, items).persist()
    counts = only_row(places_df.agg(F.count("*"), F.count_if("is_known")))
    sample = ContentSample(
        places_df,
        rows_df.persist(),
        day,
        counts[0],
        rows_df.count(),
        context.tables.read("item_index").count(),
        of_users,
    )
    least = k * CANDIDATES_PER_PLACE
    if sample.users < MIN_USERS or counts[1] < least:
        raise ConfigError(
            f"--items {items}: the sample has {counts[1]:,} candidates and {sample.users:,} validation users, at least"
            f" {least:,} and {MIN_USERS} are needed for a list of {k} (retrieval.picked_by): take more --items; the"
            f" lake has {sample.of_items:,} items and {of_users:,} validation users"
        )
    return sample


def text_snapshot(context: Context, sample: ContentSample, templates: dict[str, Template], into: Path) -> Path:
    """Exports item_idx (the place), item_id and, in a column per template, the text that `embed_items` would encode."""
    windows = context.config.windows
    versions_df = pinned_versions(context.tables.read("items"), windows.towers_end, windows.end)
    rendered = [template.render().alias(name) for name, template in templates.items()]
    texts_df = sample.places_df.join(versions_df.select("item_id", *rendered), on="item_id", how="left")
    columns = [F.coalesce(name, F.lit("")).alias(name) for name in templates]
    texts_df = texts_df.select(F.col("place").alias("item_idx"), "item_id", *columns)
    return _exported(context, texts_df, "texts", "item_idx", into=into)


def row_snapshots(context: Context, sample: ContentSample, into: Path) -> dict[str, Path]:
    """Exports `rows` and, if there is a validation day, `known_items` and `purchases`: fields of `ContentSpec`."""
    rows_df = sample.rows_df.select(*_ROW, "hist_items", "tar_items")
    for column in ("hist_items", "tar_items"):
        rows_df = _renumbered(rows_df, column, sample.places_df)
    found = {"rows": _exported(context, rows_df, "rows", "user_id", into=into)}
    if sample.day is None:
        return found
    known_df = known_items(context, sample.day).join(sample.places_df, on="item_idx", how="inner")
    known_df = known_df.select(F.col("place").alias("item_idx"), "purchases")
    users_df = sample.rows_df.select("user_id")
    bought_df = (
        purchases(context, sample.day)
        .join(users_df, on="user_id", how="left_semi")
        .join(sample.places_df.select("item_idx", "place"), on="item_idx", how="left")
        .select("user_id", "item_id", F.coalesce("place", F.lit(0)).alias("item_idx"), "is_target", "is_seen")
    )
    return found | {
        "known_items": _exported(context, known_df, "known_items", "item_idx", into=into),
        "purchases": _exported(context, bought_df, "purchases", "user_id", "item_id", into=into),
    }


def ranker_snapshot(context: Context, sample: ContentSample, into: Path) -> Path:
    """Exports the validation window's samples with the ranker's base features; the last days measure the ranker.

    Raises:
        ConfigError: the protocol has no validation window, or fewer than `RANKER_DAYS` of its days have samples.
    """
    config = context.config
    if sample.day is None:
        raise ConfigError("--ranker needs a validation window of days, which sequences.protocol leave_one_out lacks")
    window = SampleWindow("content", sample.day, config.windows.towers_end)
    interactions = context.tables.read("interactions")
    samples_df = window_samples(interactions, window, config.samples, config.sequences.target_events)
    samples_df = samples_df.join(sample.places_df.select("item_id"), on="item_id", how="left_semi")
    bounded = config.evaluation.model_copy(update={"max_samples": min(RANKER_ROWS, config.evaluation.max_samples)})
    samples_df = thinned(samples_df, bounded).persist()
    days = [row.ds for row in samples_df.select("ds").distinct().orderBy("ds").collect()]
    if len(days) < RANKER_DAYS:
        raise ConfigError(
            f"--ranker needs samples of {RANKER_DAYS} days to train, to stop and to measure; the validation window from"
            f" {window.start} to {window.end} has {len(days)}: leave it out, or raise sequences.target_days"
        )
    first_test = F.lit(days[-max(1, round(len(days) * TEST_SHARE))])
    rows_df = (
        with_base_features(context, samples_df)
        .join(sample.places_df.select("item_id", "place"), on="item_id", how="inner")
        .select(
            *("user_id", "item_id", "event_ts"),
            F.col("place").alias("item_idx"),
            *("label", "weight"),
            (F.col("ds") >= first_test).cast("int").alias("is_test"),
            F.unix_date("ds").alias("day"),
            *(F.col(name).cast("float").alias(name) for name in base_columns(config.samples)),
        )
    )
    try:
        return _exported(context, rows_df, "samples", "user_id", "item_id", "event_ts", into=into)
    finally:
        samples_df.unpersist()


def _validation_day(context: Context) -> date | None:
    """The validation's as-of date; None with leave_one_out.

    Raises:
        ConfigError: the lake has no sequences of this config.
    """
    config = context.config
    is_alone = config.sequences.protocol == "leave_one_out"
    day = config.windows.end if is_alone else next(day for day, split in as_of_dates(config).items() if split == "val")
    row = context.ledger.recorded().get((BUILD_SEQUENCES, day))
    if row is None or row.fingerprint != context.fingerprint(BUILD_SEQUENCES, day):
        raise ConfigError(
            f"the lake has no sequences of {day} by this config: run run_pipeline --steps ingest_events,build_sequences"
        )
    return None if is_alone else day


def _validation_rows(context: Context, day: date | None) -> DataFrame:
    rows_df = context.tables.read("sequences").where("split = 'val' AND hist_len > 0")
    return rows_df.where(F.col("as_of") == F.lit(day)) if day else rows_df


def _draw() -> Column:
    return F.xxhash64(F.lit("choose_content"), "user_id")


def _asked_items(context: Context, rows_df: DataFrame, day: date | None) -> DataFrame:
    """Columns draw, item_idx: the items that the rows' users had and bought, each with its user's hash (draw)."""
    both = F.explode(F.array_union("hist_items", "tar_items")).alias("item_idx")
    pairs_df = rows_df.select(_draw().alias("draw"), both)
    if day:
        bought_df = purchases(context, day).join(rows_df.select("user_id"), on="user_id", how="left_semi")
        pairs_df = pairs_df.unionByName(bought_df.where("is_target = 1").select(_draw().alias("draw"), "item_idx"))
    return pairs_df.where("item_idx > 0")


def _placed(context: Context, first_df: DataFrame, known_df: DataFrame, items: int) -> DataFrame:
    """Columns item_id, item_idx, is_known, place: the needed items, then other known ones by their hash."""
    by_hash = Window.orderBy(F.col("draw").isNull(), F.xxhash64("item_id"), "item_id")
    return (
        context.tables.read("item_index")
        .join(first_df, on="item_idx", how="left")
        .join(known_df.select("item_idx", F.lit(True).alias("is_known")), on="item_idx", how="left")
        .where("draw IS NOT NULL OR is_known")
        .orderBy(F.col("draw").isNull(), F.xxhash64("item_id"), "item_id")
        .limit(items)
        .withColumn("place", F.row_number().over(by_hash))
        .select("item_id", "item_idx", F.coalesce("is_known", F.lit(False)).alias("is_known"), "place")
    )


def _renumbered(rows_df: DataFrame, column: str, places_df: DataFrame) -> DataFrame:
    """Replaces each item_idx of a list column by its place; 0 for padding and for items outside the sample."""
    one_each_df = rows_df.select("user_id", F.posexplode(column).alias("_at", "item_idx"))
    placed_df = (
        one_each_df.join(places_df.select("item_idx", "place"), on="item_idx", how="left")
        .groupBy("user_id")
        .agg(F.sort_array(F.collect_list(F.struct("_at", F.coalesce("place", F.lit(0)).alias("place")))).alias("_all"))
        .select("user_id", F.transform("_all", lambda entry: entry["place"]).alias(column))
    )
    return rows_df.drop(column).join(placed_df, on="user_id", how="inner")


def _exported(context: Context, df: DataFrame, name: str, *key: str, into: Path) -> Path:
    version = context.tables.version("sequences")
    return export(context, df, name, key, "sequences", version, context.config.evaluation.seed, into=into)
