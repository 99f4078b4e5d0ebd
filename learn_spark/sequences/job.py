"""Sequences, histories and samples of the asked days."""

from collections.abc import Sequence
from datetime import date
from functools import reduce

from pyspark import StorageLevel
from pyspark.sql import DataFrame

from learn_spark.core.days import DayRange
from learn_spark.core.ledger import StepResult
from learn_spark.core.steps import Context
from learn_spark.sequences.audit import audit_sequences, require_no_leak
from learn_spark.sequences.histories import (
    capped,
    changed_users,
    days_frame,
    indexed_events,
    sequences,
    user_histories,
)
from learn_spark.sequences.samples import window_samples
from learn_spark.sequences.windows import as_of_dates, sample_windows


def build_sequences(context: Context, days: Sequence[date]) -> StepResult:
    """Writes what each day stands for.

    An as-of date of the towers: `sequences`. A day from `towers_end` on: `user_history`. The end of a window:
    its `samples`. Then audits what it wrote.
    """
    config, tables = context.config, context.tables
    interactions = tables.read("interactions")
    events = indexed_events(interactions, tables.read("item_index"), config.sequences)
    events = capped(events, config.sequences).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        rows_in = events.count()
        written = {
            "sequences": _write_sequences(context, events, days),
            "user_history": _write_histories(context, events, days),
            "samples": _write_samples(context, interactions, days),
        }
    finally:
        events.unpersist()
    audit = require_no_leak(audit_sequences(tables, config, days))
    return StepResult(
        rows_in=rows_in,
        rows_out=sum(written.values()),
        writes=tuple(name for name, rows in written.items()),
        details={"rows": written, "audit": audit},
    )


def _write_sequences(context: Context, events: DataFrame, days: Sequence[date]) -> int:
    splits = as_of_dates(context.config)
    wanted = [day for day in days if day in splits]
    if not wanted:
        return 0
    frame = days_frame(context.spark, splits, "as_of", wanted)
    rows = sequences(events, frame, context.config.sequences)
    return context.tables.overwrite_days("sequences", rows, wanted)


def _write_histories(context: Context, events: DataFrame, days: Sequence[date]) -> int:
    first_day = context.config.windows.towers_end
    wanted = [day for day in days if day >= first_day]
    if not wanted:
        return 0
    pairs = changed_users(events, days_frame(context.spark, None, "ds", wanted), first_day)
    rows = user_histories(events, pairs, context.config.sequences)
    return context.tables.overwrite_days("user_history", rows, wanted)


def _write_samples(context: Context, interactions: DataFrame, days: Sequence[date]) -> int:
    config = context.config
    windows = [window for window in sample_windows(config) if window.end in set(days)]
    if not windows:
        return 0
    frames = [
        window_samples(interactions, window, config.samples, config.sequences.target_events) for window in windows
    ]
    covered = [day for window in windows for day in DayRange(window.start, window.end)]
    return context.tables.overwrite_days("samples", reduce(DataFrame.unionByName, frames), covered)
