"""Point-in-time join: every sample gets what was known about its key before its day."""

from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from learn_spark.bridge.scoring import OTHERS, score_pairs
from learn_spark.errors import ConfigError
from learn_spark.lake.point_in_time import joined_newest, sample_day, with_until
from learn_spark.lake.tables import Tables
from learn_spark.releases.codebooks import CODES
from learn_spark.releases.registry import CURRENT, Release, find_release, rows_of
from learn_spark.storage import Place, lake_of
from models.contract.trained_model import other_labels_of

SIDES = ("user", "item")
BATCH_ROWS = 4096
_CODES = "item_codes"
_ON_THE_WAY = {"feature_ds", "is_cold", "content_coverage", "_day", "_key", "_until"}


def join_features(
    samples: DataFrame,
    lake: Place | str,
    release: str = CURRENT,
    max_age_days: int | None = None,
    pairs: bool = False,
) -> DataFrame:
    """Adds to each sample what a release knew about its user and its item before the sample's day.

    On each side, the newest feature row with `ds <=` the sample's day counts: it comes from events before that day's
    midnight (UTC). A user or item without such a row (unknown, a null id, no day, or a row older than `max_age_days`)
    is cold: zeros, `is_cold` true, coverage 0. Duplicate samples are kept. A sample after the release's last day gets
    what the release knows, however old that is, unless `max_age_days` bounds it.

    Args:
        samples: `user_id` or `item_id` or both, and `ds` (date) or `event_ts` (timestamp); anything else is kept.
        lake: the lake's root.
        release: a release's id, or `current`.
        max_age_days: how old a feature row may be on the sample's day; None for any age.
        pairs: add the conversion model's `mid_emb` and `cvr_score`, computed here for any pair (needs torch).

    Returns:
        The samples' columns; for each side `<side>_feature_ds` (null if unknown), `<side>_is_cold` and
        `<side>_content_coverage`; `item_codes`, if the release has some (null if unknown, or without content); then
        the vectors `<side>_emb`; with `pairs` also `cvr_score` and `mid_emb`, and `other_scores` if the
        conversion model has other labels.

    Raises:
        ConfigError: the release is unknown, key or day columns are missing, or a column to be added exists already.
    """
    tables = Tables(samples.sparkSession, lake_of(lake))
    shown = find_release(tables, release)
    codes = [_CODES] if CODES in shown.models else []
    sides = _require_columns(samples, pairs, codes)
    rows = samples.withColumn("_day", sample_day(samples))
    for side in sides:
        features = rows_of(tables, shown, f"{side}_features").drop("release_id", *(() if codes else (_CODES,)))
        rows = _with_side(rows, features, side, shown.widths[f"{side}_emb"], max_age_days)
    added = [*(name for side in sides for name in _columns(side)), *(codes if "item" in sides else ())]
    rows = rows.select(*samples.columns, *sorted(added, key=lambda name: name.endswith("_emb")))  # vectors last
    return with_pairs(rows, tables, shown) if pairs else rows


def create_views(spark: SparkSession, lake: Place | str, release: str = CURRENT) -> Release:
    """Creates temporary views `user_features`, `item_features` and `pair_features` that show one release.

    The first two have a column `until`: from `ds` on, up to and not including `until`, the row is its key's newest. So
    in SQL the join is `ON u.user_id = s.user_id AND s.ds >= u.ds AND s.ds < u.until`.
    """
    tables = Tables(spark, lake_of(lake))
    shown = find_release(tables, release)
    for side in SIDES:
        rows = with_until(rows_of(tables, shown, f"{side}_features"), f"{side}_id")
        rows.createOrReplaceTempView(f"{side}_features")
    rows_of(tables, shown, "pair_features").createOrReplaceTempView("pair_features")
    return shown


def with_pairs(rows: DataFrame, tables: Tables, release: Release) -> DataFrame:
    """Adds `cvr_score` and `mid_emb`, which the release's conversion model makes of `user_emb` and `item_emb`.

    If the model has other labels, it also adds `other_scores`.

    Raises:
        ConfigError: the model's folder is gone.
    """
    model = tables.artifacts.path("models", f"cvr-{release.models['cvr']}")
    if not model.is_dir():
        raise ConfigError(f"the conversion model of release {release.release_id} is not at {model}")
    kept = {"_user": F.col("user_emb"), "_item": F.col("item_emb")}
    scored = score_pairs(rows.withColumns(kept), model, BATCH_ROWS).frame
    named = scored.withColumnsRenamed({"_user": "user_emb", "_item": "item_emb"})
    others = [OTHERS] if other_labels_of(model) else []
    return named.select(*rows.columns, "cvr_score", "mid_emb", *others)


def _with_side(rows: DataFrame, features: DataFrame, side: str, width: int, max_age_days: int | None) -> DataFrame:
    feature_ds, is_cold, coverage, emb = _columns(side)
    named = features.withColumnsRenamed({"is_cold": is_cold, "content_coverage": coverage})
    joined = joined_newest(rows, named, f"{side}_id", F.col("_day")).withColumnRenamed("feature_ds", feature_ds)
    is_known = F.col(feature_ds).isNotNull()
    if max_age_days is not None:
        is_known &= F.date_diff("_day", feature_ds) <= max_age_days
    return joined.withColumns(
        {
            feature_ds: F.when(is_known, F.col(feature_ds)),
            is_cold: F.when(is_known, F.col(is_cold)).otherwise(F.lit(True)),
            coverage: F.when(is_known, F.col(coverage)).otherwise(F.lit(0.0).cast("float")),
            emb: F.when(is_known, F.col(emb)).otherwise(F.array_repeat(F.lit(0.0).cast("float"), width)),
            **{name: F.when(is_known, F.col(name)) for name in (_CODES,) if name in features.columns},
        }
    )


def _require_columns(samples: DataFrame, pairs: bool, codes: Sequence[str]) -> list[str]:
    there = set(samples.columns)
    sides = [side for side in SIDES if f"{side}_id" in there]
    if not sides or (pairs and len(sides) < len(SIDES)) or not there & {"ds", "event_ts"}:
        raise ConfigError(
            f"samples need user_id{' and' if pairs else ' or'} item_id, and ds or event_ts; they have {sorted(there)}"
        )
    added = {name for side in sides for name in _columns(side)} | ({"mid_emb", "cvr_score", OTHERS} if pairs else set())
    added |= {*_ON_THE_WAY, *codes}
    if there & added:
        raise ConfigError(f"samples already have {sorted(there & added)}: drop or rename them before the join")
    return sides


def _columns(side: str) -> tuple[str, str, str, str]:
    return f"{side}_feature_ds", f"{side}_is_cold", f"{side}_content_coverage", f"{side}_emb"
