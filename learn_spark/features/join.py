"""Point-in-time join: every sample gets what was known about its key before its day."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F


def latest_before(samples: DataFrame, features: DataFrame, key: str) -> DataFrame:
    """Adds to each sample the newest feature row of its key with `features.ds <= samples.ds`.

    A feature row of day `ds` comes from events before that day's midnight, so the sample's own day is right.
    The match is found on (key, day) pairs alone; the wide columns are joined last, to what matched.

    Args:
        samples: `key`, `ds` (the event day) and anything else; duplicates and null keys are kept.
        features: `key`, `ds`, both unique together, and columns that `samples` does not have.
        key: the column that both share.

    Returns:
        The samples' columns, the features' other columns and `feature_ds`; the latter are null where no row
        is old enough.
    """
    matched = _newest_days(samples.select(key, "ds").distinct(), features.select(key, "ds"), key)
    wide = features.withColumnRenamed("ds", "feature_ds")
    return samples.join(matched, on=[key, "ds"], how="left").join(wide, on=[key, "feature_ds"], how="left")


def _newest_days(wanted: DataFrame, known: DataFrame, key: str) -> DataFrame:
    """(key, ds, feature_ds): a running maximum over both kinds of days, merged in order of time."""
    so_far = (
        Window.partitionBy(key).orderBy("ds", "is_wanted").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    merged = known.select(key, "ds", F.lit(False).alias("is_wanted"), F.col("ds").alias("known_ds")).unionByName(
        wanted.select(key, "ds", F.lit(True).alias("is_wanted"), F.lit(None).cast("date").alias("known_ds"))
    )
    return (
        merged.withColumn("feature_ds", F.max("known_ds").over(so_far))
        .where("is_wanted AND feature_ds IS NOT NULL")
        .select(key, "ds", "feature_ds")
    )
