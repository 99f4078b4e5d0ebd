"""Samples of a window: pairs of user and item with a label, by one of two readings of the log."""

from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.config.sections import LabelSettings, SampleSettings
from learn_spark.lake.frames import with_dense_number
from learn_spark.sequences.windows import SampleWindow

_KEY = ("user_id", "item_id", "event_ts")
_DAY_MICROS = 86_400_000_000
OTHERS = "other_labels"


def window_samples(
    interactions: DataFrame, window: SampleWindow, settings: SampleSettings, events: list[str]
) -> DataFrame:
    """`samples` rows of one window.

    Args:
        interactions: the table.
        window: stage, start, end; nothing outside it is looked at.
        settings: `labels` chooses between `observed_samples` and `sampled_samples`.
        events: event types that count as positive, with sampled labels.
    """
    in_window = (F.col("ds") >= F.lit(window.start)) & (F.col("ds") < F.lit(window.end))
    inside = interactions.where(in_window)
    if settings.labels == "observed":
        labelled = observed_samples(inside, window, settings)
    else:
        labelled = sampled_samples(inside.where(F.col("event_type").isin(events)), settings)
        labelled = labelled.withColumn(OTHERS, F.lit(None).cast("array<int>"))
    return labelled.withColumn("stage", F.lit(window.stage)).withColumn("ds", F.to_date("event_ts"))


def sampled_samples(lines: DataFrame, settings: SampleSettings) -> DataFrame:
    """What users bought, beside popular items that they did not buy in the window.

    A negative is the item of a purchase line drawn evenly from the window's lines, so items come by
    popularity. Draws are hashes of the positive, its number and the seed: a rerun draws the same. What the
    user bought in the window is dropped, so a positive has at most `negatives` of them; equal draws become
    one row with their count as weight.

    Args:
        lines: the window's purchase lines.
        settings: negatives a positive, seed.
    """
    positives = lines.groupBy(*_KEY).agg(F.count(F.lit(1)).alias("weight"))
    negatives = _draws(positives, lines, settings).join(
        lines.select("user_id", "item_id").distinct(), on=["user_id", "item_id"], how="left_anti"
    )
    merged = negatives.groupBy(*_KEY).agg(F.count(F.lit(1)).alias("weight"))
    return positives.withColumn("label", F.lit(1)).unionByName(merged.withColumn("label", F.lit(0)))


def observed_samples(events: DataFrame, window: SampleWindow, settings: SampleSettings) -> DataFrame:
    """Exposures, each with whether the user converted on the item after it, and with the other labels.

    The label is 1 where an event of `conversion_events` of the same user on the same item lies in
    `[event_ts, event_ts + conversion_days]`, both ends included: with 0 days at the exposure's own time, which
    fits logs whose line is exposure and outcome in one (a rating, a shown video). The other labels are found the same
    way, each by its own events and days. Only the window's events are looked at, so no label knows what a later stage
    is tested on. An exposure is no sample, whatever its labels, where an event that would set one could still come at
    the window's end or later: kept as 0 it would be a false negative, kept only where it is 1 it would raise the rate.
    Exposures of one user, item and time are one row; its weight is 1.

    Args:
        events: the window's events, all types.
        window: its end closes the labels.
        settings: exposure_events, and what the labels are.
    """
    exposed, outcomes = is_exposure(settings), settings.outcomes
    flags = {f"is_{number}": is_outcome(outcome) for number, outcome in enumerate(outcomes)}
    moments = (
        events.where(reduce(or_, flags.values(), exposed))
        .groupBy(*_KEY)
        .agg(F.max(exposed).alias("is_exposure"), *(F.max(one).alias(name) for name, one in flags.items()))
        .withColumn("at", F.unix_micros("event_ts"))
    )
    # From the last moment back: a frame that only grows costs one pass, one that looks ahead a pass per row.
    from_now_on = Window.partitionBy("user_id", "item_id").orderBy(F.desc("at"))
    from_now_on = from_now_on.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    followed = {
        f"label_{number}": F.coalesce(
            F.min(F.when(F.col(flag), F.col("at"))).over(from_now_on) <= F.col("at") + outcome.days * _DAY_MICROS,
            F.lit(False),
        ).cast("int")
        for number, (flag, outcome) in enumerate(zip(flags, outcomes, strict=True))
    }
    label, *others = map(F.col, followed)
    return (
        moments.withColumns(followed)
        .where(F.col("is_exposure") & is_mature(window, settings))
        .select(
            *_KEY,
            F.lit(1).alias("weight"),
            label.alias("label"),
            (F.array(*others) if others else F.lit(None)).cast("array<int>").alias(OTHERS),
        )
    )


def is_exposure(settings: SampleSettings) -> Column:
    """Whether an event shows an item to its user."""
    return F.col("event_type").isin(settings.exposure_events)


def is_outcome(label: LabelSettings) -> Column:
    """Whether an event sets a label: of the right type, and of the least value if one is asked."""
    is_of_type = F.col("event_type").isin(label.events)
    if label.min_value is None:
        return is_of_type
    return is_of_type & F.coalesce(F.col("value") >= label.min_value, F.lit(False))


def is_mature(window: SampleWindow, settings: SampleSettings) -> Column:
    """Whether all events that could set a label of an exposure at `event_ts` lie before the window's end."""
    return F.unix_micros("event_ts") + settings.longest_days * _DAY_MICROS < F.unix_micros(
        F.lit(window.end).cast("timestamp")
    )


def with_log_q(samples: DataFrame, negatives: int) -> DataFrame:
    """Adds `log_q`, log of the negatives of the row's item that a purchase line is expected to draw.

    q(i) is the item's share of the window's lines, which `sampled_samples` draws from and whose counts are the
    positives' weights; a line draws `negatives` times, so log_q = log(negatives x q(i)). What follows from it is
    in `models.training.train_cvr`.

    Args:
        samples: all of one window with sampled labels.
        negatives: draws per line.
    """
    lines = samples.where("label = 1").groupBy("item_id").agg(F.sum(F.col("weight").cast("double")).alias("_lines"))
    size = lines.agg(F.sum("_lines").alias("_size"))
    drawn = lines.crossJoin(F.broadcast(size)).select(
        "item_id", F.log(negatives * F.col("_lines") / F.col("_size")).cast("float").alias("log_q")
    )
    return samples.join(drawn, on="item_id", how="inner")


def _draws(positives: DataFrame, lines: DataFrame, settings: SampleSettings) -> DataFrame:
    pool = with_dense_number(lines.select("event_id", "item_id"), ["event_id"], "line", 0).drop("event_id")
    size = lines.agg(F.count(F.lit(1)).alias("pool_size"))
    draws = F.sequence(F.lit(1), F.lit(settings.negatives))
    seed = F.lit(settings.seed)
    drawn = (
        positives.select(*_KEY, F.explode(draws).alias("draw"))
        .crossJoin(F.broadcast(size))
        .select(
            "user_id",
            "event_ts",
            F.pmod(F.xxhash64(*_KEY, "draw", seed), F.col("pool_size")).cast("int").alias("line"),
        )
    )
    return drawn.join(pool, on="line", how="inner").drop("line")
