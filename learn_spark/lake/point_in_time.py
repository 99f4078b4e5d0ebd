"""The point-in-time join: to each sample, the newest row of its key that the sample's day may know."""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F


def latest_before(samples: DataFrame, features: DataFrame, key: str) -> DataFrame:
    """Adds to each sample the newest feature row of its key with `features.ds <= samples.ds`.

    A feature row of day `ds` comes from events before that day's midnight, so the sample's own day is right.
    Every feature row gets the day until which it is the newest, so each sample matches one row at most. That takes one
    shuffle of each side by the key, and neither side is sorted or grouped with the other's vectors.

    Args:
        samples: `key`, `ds` (the event day) and anything else; duplicates and null keys are kept.
        features: `key`, `ds`, both unique together, and columns that `samples` does not have.
        key: the column that both share.

    Returns:
        The samples' columns, the features' other columns and `feature_ds`; the latter are null if no row is old
        enough.
    """
    return joined_newest(samples, features, key, F.col("ds"))


def sample_day(samples: DataFrame) -> Column:
    """A sample's day: `ds`, else that of `event_ts` in UTC, whatever the session's time zone."""
    if "ds" in samples.columns:
        return F.col("ds")
    return F.date_from_unix_date(F.floor(F.unix_seconds("event_ts") / 86400).cast("int"))


def with_until(features: DataFrame, key: str) -> DataFrame:
    """Adds `until`, the day from which on a row is no longer its key's newest; far in the future for the last row."""
    following = F.lead("ds").over(Window.partitionBy(key).orderBy("ds"))
    return features.withColumn("until", F.coalesce(following, F.lit("9999-12-31").cast("date")))


def joined_newest(samples: DataFrame, features: DataFrame, key: str, day: Column) -> DataFrame:
    """`latest_before` with the sample's day as a column expression."""
    dated = with_until(features, key).withColumnsRenamed({key: "_key", "ds": "feature_ds", "until": "_until"})
    in_time = (day >= F.col("feature_ds")) & (day < F.col("_until"))
    met = samples.join(dated.hint("shuffle_hash"), on=(F.col(key) == F.col("_key")) & in_time, how="left")
    return met.drop("_key", "_until")
