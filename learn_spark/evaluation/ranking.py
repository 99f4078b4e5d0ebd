"""The ranker's rows: what a production ranker knows before a sample's day (base features), beside the embeddings.

Base features describe the user, the item, and both together (`pair_…`). They are sums over days: a window over a key's
days, in order of the day, sees only days strictly before the sample's, so no single event is ever joined to a sample.
"""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.bridge.scoring import score_pairs
from learn_spark.config.model_sections import EvaluationSettings
from learn_spark.config.sections import SampleSettings
from learn_spark.lake.frames import only_row, zero_padded
from learn_spark.lake.point_in_time import latest_before
from learn_spark.releases.codebooks import CODES
from learn_spark.releases.registry import Release
from learn_spark.releases.release import visible
from learn_spark.releases.spaces import ReleaseModels
from learn_spark.runs.steps import Context
from learn_spark.sequences.samples import is_exposure, is_outcome
from learn_spark.training.pair_snapshots import (
    EARLIER,
    EMBEDDINGS,
    PAIR_KEY,
    named_histories,
    with_embeddings,
    with_history_ds,
)
from models.contract.evaluation_specs import HISTORY_DAY

SPANS = {"7d": 7, "28d": 28}
BUCKETS = 60
CATEGORICAL = ("user_bucket", "item_bucket")
RATES = ("user_conversion_rate", "item_conversion_rate")
BASE_COLUMNS = (
    *(f"{who}_events{span}" for who in ("user", "item", "pair") for span in ("", "_7d", "_28d")),
    *(f"{who}_days_since" for who in ("user", "item", "pair")),
    *("price", "user_mean_price", "hour", "weekday"),
    *CATEGORICAL,
)
VECTORS = (*EMBEDDINGS, "mid_emb", "cvr_score")
NEVER = -1


def base_columns(settings: SampleSettings) -> tuple[str, ...]:
    """The ranker's base features; with observed labels also the conversion rates of user and item."""
    return (*BASE_COLUMNS, *(RATES if settings.labels == "observed" else ()))


def ranker_rows(
    context: Context, release: Release, earlier: ReleaseModels | None = None, with_histories: bool = False
) -> DataFrame:
    """The rows of `evaluate-ranker`: keys, item_idx, label, weight, is_test, day, base features, embeddings, codes.

    A user or item without a feature row yet gets zeros, and -1 for each of its codes; the column of codes exists if the
    release has codes. With `earlier`, the rows also have the vectors that those models make, as `earlier_user_emb` and
    so on; with `with_histories`, the day of the history that each row may know.
    """
    tables, samples = context.tables, ranker_samples(context)
    rows = with_base_features(context, with_history_day(context, samples) if with_histories else samples)
    users = visible(context, release, "user_features").select("user_id", "ds", "user_emb")
    codes = ["item_codes"] if CODES in release.models else []
    items = visible(context, release, "item_features").select("item_id", "ds", "item_emb", *codes)
    pairs = visible(context, release, "pair_features").select(*PAIR_KEY, "mid_emb", "cvr_score")
    rows = latest_before(rows, users, "user_id").drop("feature_ds")
    rows = latest_before(rows, items, "item_id").drop("feature_ds")
    rows = rows.join(pairs, on=list(PAIR_KEY), how="left").withColumn(
        "cvr_score", F.coalesce("cvr_score", F.lit(0.0).cast("float"))
    )
    if earlier:
        rows = rows.join(earlier_vectors(context, samples, earlier), on=list(PAIR_KEY), how="inner")
    rows = rows.join(tables.read("item_index").select("item_id", "item_idx"), on="item_id", how="left")
    for column, frame in (("user_emb", users), ("item_emb", items), ("mid_emb", pairs)):
        rows = with_zeros(rows, frame, column)
    return rows.select(
        *PAIR_KEY,
        F.coalesce("item_idx", F.lit(0)).alias("item_idx"),
        "label",
        "weight",
        (F.col("stage") == "ranker_test").cast("int").alias("is_test"),
        F.unix_date("ds").alias("day"),
        *(F.col(name).cast("float").alias(name) for name in base_columns(context.config.samples)),
        *([HISTORY_DAY] if with_histories else []),
        *VECTORS,
        *(_without_null(context, name) for name in codes),
        *(f"{EARLIER}{name}" for name in VECTORS if earlier),
    )


def ranker_samples(context: Context) -> DataFrame:
    """The samples of the ranker's two windows, thinned to about `evaluation.max_samples` each."""
    samples = context.tables.read("samples").where(F.col("stage").isin("ranker_train", "ranker_test"))
    return thinned(samples, context.config.evaluation)


def with_history_day(context: Context, samples: DataFrame) -> DataFrame:
    """Adds `history_ds`, and `history_day`, its number in days since 1970; -1 if there is no history."""
    dated = with_history_ds(context, samples)
    return dated.withColumn(HISTORY_DAY, F.coalesce(F.unix_date("history_ds"), F.lit(-1)))


def histories_of(context: Context, samples: DataFrame) -> DataFrame:
    """The histories that the samples' `history_day` name, each once, with padded lists.

    Columns: user_id, day, hist_items, hist_ts, hist_len, and hist_types if event types are kept.
    """
    length = context.config.sequences.history_length
    lists = {"hist_items": "item_idx", "hist_ts": "event_ts"}
    if context.config.sequences.event_types:
        lists["hist_types"] = "event_types"
    return named_histories(context, samples).select(
        "user_id",
        F.unix_date("ds").alias("day"),
        *(zero_padded(F.col(column), length).alias(name) for name, column in lists.items()),
        F.size("item_idx").alias("hist_len"),
    )


def _without_null(context: Context, codes: str) -> Column:
    settings = context.config.features.codes
    assert settings is not None, "the release is by this config"
    return F.coalesce(codes, F.array_repeat(F.lit(-1), settings.levels)).alias(codes)


def earlier_vectors(context: Context, samples: DataFrame, models: ReleaseModels) -> DataFrame:
    """PAIR_KEY of the samples, and VECTORS by an earlier release's models, with the prefix EARLIER."""
    found = with_embeddings(context, samples.select(*PAIR_KEY, "ds"), models)
    kept = (F.col(name).alias(f"{EARLIER}{name}") for name in EMBEDDINGS)
    found = found.select(*PAIR_KEY, *EMBEDDINGS, *kept)  # scoring consumes the two embeddings
    scored = score_pairs(found, models.cvr, context.config.features.run.batch_rows).frame
    return scored.withColumnsRenamed({name: f"{EARLIER}{name}" for name in VECTORS if name not in EMBEDDINGS})


def with_zeros(df: DataFrame, vectors: DataFrame, column: str) -> DataFrame:
    """`df` with zeros of the vectors' width where `column` is null."""
    width = vectors.select(F.size(column).alias("_width")).limit(1)
    zeros = F.transform(F.sequence(F.lit(1), F.col("_width")), lambda _: F.lit(0.0).cast("float"))
    padded = df.crossJoin(F.broadcast(width)).withColumn(column, F.coalesce(F.col(column), zeros))
    return padded.drop("_width")


def thinned(samples: DataFrame, settings: EvaluationSettings) -> DataFrame:
    """Downsamples to about `max_samples` rows per stage, by dropping whole users.

    Users are drawn by a hash, so that each remaining user's list is complete.
    """
    counts = samples.groupBy("stage").agg(F.count(F.lit(1)).alias("_rows"))
    share = F.least(F.lit(1.0), F.lit(settings.max_samples) / F.col("_rows"))
    draw = F.pmod(F.xxhash64(F.lit(settings.seed), "user_id"), F.lit(1_000_000)) / F.lit(1_000_000)
    kept = samples.join(F.broadcast(counts), on="stage", how="inner").where(draw < share)
    return kept.drop("_rows")


def with_base_features(context: Context, samples: DataFrame) -> DataFrame:
    """Samples with BASE_COLUMNS and RATES. Only events strictly before the sample's day count; -1 means never."""
    config, tables = context.config, context.tables
    is_history = F.col("event_type").isin(config.sequences.history_events)
    exposed, converted = is_exposure(config.samples), is_outcome(config.samples.conversion)
    events = (
        tables.read("interactions")
        .where((F.col("ds") < F.lit(config.windows.end)) & (is_history | exposed | converted))
        .select(
            *("user_id", "item_id", "ds"),
            is_history.cast("int").alias("n"),
            exposed.cast("int").alias("exposures"),
            converted.cast("int").alias("conversions"),
        )
    )
    versions = tables.read("items").select("item_id", "price", F.to_date("valid_from").alias("valid_ds"))
    first_price = versions.groupBy("item_id").agg(F.min_by("price", "valid_ds").alias("price"))
    price = F.when(F.col("n") > 0, F.col("price"))
    priced = events.join(first_price, on="item_id", how="left").withColumn("price", price)
    rows = samples
    for who, key in (("user", ["user_id"]), ("item", ["item_id"]), ("pair", ["user_id", "item_id"])):
        asked = samples.select(*key, "ds").distinct()
        rows = rows.join(history_before(priced, asked, key, who), on=[*key, "ds"], how="inner")
    rows = rows.drop("item_mean_price", "pair_mean_price", "pair_conversion_rate")
    return with_context(rows.join(newest_price(samples, versions), on=["item_id", "ds"], how="left"))


def with_context(rows: DataFrame) -> DataFrame:
    """Adds the features that need no history (hour, weekday, ids in buckets), and -1 for an unknown price."""
    columns = {
        "hour": F.hour("event_ts"),
        "weekday": F.weekday("event_ts"),
        "user_bucket": F.pmod(F.xxhash64("user_id"), F.lit(BUCKETS)),
        "item_bucket": F.pmod(F.xxhash64("item_id"), F.lit(BUCKETS)),
        "price": F.coalesce("price", F.lit(float(NEVER))),
    }
    return rows.withColumns(columns)


def history_before(events: DataFrame, asked: DataFrame, key: Sequence[str], who: str) -> DataFrame:
    """What is known about a key before each asked day.

    Args:
        events: `key`, `ds`, `price`; `n`, `exposures` and `conversions`, 1 or 0, say what the event counts as.
        asked: `key` and `ds`, distinct.
        key: the key's columns.
        who: prefix of the new columns.

    Returns:
        `key`, `ds`, {who}_events, {who}_events_7d, {who}_events_28d, {who}_days_since, {who}_mean_price,
        {who}_conversion_rate (conversions per exposure, both over all days before).
    """
    wanted = events.join(asked.select(*key).distinct(), on=list(key), how="left_semi")
    sums = (F.sum(name).alias(name) for name in ("n", "exposures", "conversions"))
    prices = (F.sum("price").alias("price_sum"), F.count("price").alias("price_n"))
    daily = wanted.groupBy(*key, "ds").agg(*sums, *prices).withColumn("is_asked", F.lit(False))
    days = daily.unionByName(asked.select(*key, "ds", F.lit(True).alias("is_asked")), allowMissingColumns=True)
    days = days.withColumn("day", F.unix_date("ds"))
    by_day = Window.partitionBy(*key).orderBy("day")
    ever = by_day.rangeBetween(Window.unboundedPreceding, -1)
    last_day = F.max(F.when(F.col("n") > 0, F.col("day"))).over(ever)
    never = F.lit(NEVER)

    def mean(total: str, count: str) -> Column:
        return F.coalesce(F.try_divide(F.sum(total).over(ever), F.sum(count).over(ever)), never)

    known = {
        f"{who}_events": F.coalesce(F.sum("n").over(ever), F.lit(0)),
        f"{who}_days_since": F.coalesce(F.col("day") - last_day, never),
        f"{who}_mean_price": mean("price_sum", "price_n"),
        f"{who}_conversion_rate": mean("conversions", "exposures"),
    }
    for span, length in SPANS.items():
        within = by_day.rangeBetween(-length, -1)
        known[f"{who}_events_{span}"] = F.coalesce(F.sum("n").over(within), F.lit(0))
    return days.withColumns(known).where("is_asked").select(*key, "ds", *known)


def newest_price(samples: DataFrame, versions: DataFrame) -> DataFrame:
    """item_id, ds, price: the price of the item's newest version that was known before the sample's day."""
    asked = samples.select("item_id", "ds").distinct()
    known = asked.join(versions, on="item_id", how="inner").where(F.col("valid_ds") < F.col("ds"))
    return known.groupBy("item_id", "ds").agg(F.max_by("price", "valid_ds").alias("price"))


def tail_events(context: Context) -> int:
    """The largest number of events that a long-tail item has before the ranker's test window.

    Items with at most that many events hold at most `tail_share` of all events.
    """
    config = context.config
    is_history = F.col("event_type").isin(config.sequences.history_events)
    is_before = F.col("ds") < F.lit(config.windows.ranker_train_end)
    counts = context.tables.read("interactions").where(is_history & is_before).groupBy("item_id").count()
    sizes = counts.groupBy(F.col("count").alias("events")).agg(F.sum("count").alias("held"))
    up_to = Window.orderBy("events").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    total = sizes.agg(F.sum("held").alias("total"))
    shares = sizes.withColumn("so_far", F.sum("held").over(up_to)).crossJoin(F.broadcast(total))
    is_tail = F.col("so_far") <= config.evaluation.tail_share * F.col("total")
    found = only_row(shares.where(is_tail).agg(F.max("events").alias("events")))
    return int(found["events"] or 0)
