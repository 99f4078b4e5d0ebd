"""Histories and targets around as-of dates, made by tasks as Arrow batches.

The cost at 12 M users and 10 months: a full build is one scan of narrow columns, one shuffle by user (about 50 bytes
per event before compression), one sort in numpy, then a binary search per user and as-of date. An increment reads the
new days' events, the ids of the stored histories, and the arrays of those days that hold a newest history of an active
user; it shuffles one history per active user, and these users' new events. A task holds its partition's events (about
60 bytes each); heavy users are limited before the shuffle, so its size does not depend on the user with most events.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.config.sections import SequenceSettings
from learn_spark.lake.arrow_rows import ArrowRows
from learn_spark.lake.days import ONE_DAY, days_predicate
from learn_spark.lake.schemas import SEQUENCES, USER_HISTORY
from learn_spark.sequences.cuts import Cut, Keep, UserEvents, cut
from learn_spark.sequences.events import HISTORY, packed

BATCH_USERS = 4096


def full_histories(events: DataFrame, day: date, settings: SequenceSettings, tasks: int | None = None) -> ArrowRows:
    """`user_history` rows of every user who has a history on `day`, from the whole log.

    Args:
        events: user_id, item_idx, event_ts, tie, side (`events.sided_events`); those out of reach change nothing.
        day: the as-of date.
        settings: lengths and windows.
        tasks: as for `events.packed`.
    """

    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for log, users in user_batches(batches):
            yield _history_rows(log, users, day, settings)

    return ArrowRows(packed(_of_history(events), tasks), rows, USER_HISTORY.columns_ddl)


def next_histories(
    previous: DataFrame,
    events: DataFrame,
    days: Sequence[date],
    settings: SequenceSettings,
    tasks: int | None = None,
) -> ArrowRows:
    """`user_history` rows of the users who were active on the day before each of `days`: only these changed.

    A user's newest history stored before the first of `days` and the events from then on hold everything that a
    history of `days` can hold; a history stored more than `history_days` before holds nothing that still counts.

    Args:
        previous: `user_history` rows of all days before `days`.
        events: user_id, item_idx, event_ts, ds, tie, side (`events.sided_events`).
        days: as-of dates.
        settings: lengths and windows.
        tasks: as for `events.packed`.
    """
    eves = [day - ONE_DAY for day in days]
    fresh = _of_history(events).where((F.col("ds") >= F.lit(min(eves))) & (F.col("ds") < F.lit(max(days))))
    active = fresh.where(days_predicate("ds", eves)).select("user_id").distinct()
    oldest = min(days) - timedelta(days=settings.history_days)
    stored = previous.where((F.col("ds") > F.lit(oldest)) & (F.col("ds") < F.lit(min(days))))
    newest = _newest(stored, active, is_night=len(days) == 1)
    past = {"item_idx": "past_items", "event_ts": "past_ts"}
    if settings.event_types:
        past["event_types"] = "past_types"
    newest = newest.select("user_id", *(F.col(name).alias(alias) for name, alias in past.items()))

    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for log, users in user_batches(batches):
            for eve, day in zip(eves, days, strict=True):
                is_active = log.history.until(users, _epoch(day)) > log.history.until(users, _epoch(eve))
                yield _history_rows(log, users[is_active], day, settings)

    return ArrowRows(packed(fresh, tasks, newest), rows, USER_HISTORY.columns_ddl)


def sequences(
    events: DataFrame, splits: Mapping[date, str], settings: SequenceSettings, tasks: int | None = None
) -> ArrowRows:
    """`sequences` rows for every user and as-of date that has enough of both a history and targets.

    Args:
        events: user_id, item_idx, event_ts, tie, side (`events.sided_events`); those out of reach change nothing.
        splits: as-of dates and their splits.
        settings: lengths, windows, sampling.
        tasks: as for `events.packed`.
    """

    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for log, users in user_batches(batches):
            for as_of, split in splits.items():
                yield _sequence_rows(log, users, as_of, split, settings)

    return ArrowRows(packed(events, tasks), rows, SEQUENCES.columns_ddl)


def _newest(stored: DataFrame, users: DataFrame, is_night: bool) -> DataFrame:
    """Each user's newest row: ids and days decide which, then Spark reads the arrays of only those days.

    A night's users are broadcast (about 60 bytes each), so that no array is shuffled for the join; the users of a range
    of days may be all users, so there Spark decides.
    """
    hinted = F.broadcast if is_night else lambda frame: frame
    dated = stored.select("user_id", "ds").join(hinted(users), on="user_id", how="left_semi")
    newest = dated.groupBy("user_id").agg(F.max("ds").alias("ds"))
    return stored.join(hinted(newest), on=["user_id", "ds"], how="left_semi")


def _of_history(events: DataFrame) -> DataFrame:
    return events.where(F.col("side").bitwiseAND(HISTORY) > 0)


def user_batches(batches: Iterable[pa.RecordBatch], size: int = BATCH_USERS) -> Iterator[tuple[UserEvents, np.ndarray]]:
    """The partition's events together with its user numbers, `size` users at a time."""
    there = [batch for batch in batches if batch.num_rows]
    if there:
        log = UserEvents.of(there)
        users = np.arange(len(log.names), dtype=np.int64)
        for start in range(0, len(users), size):
            yield log, users[start : start + size]


def _history_rows(log: UserEvents, users: np.ndarray, day: date, settings: SequenceSettings) -> pa.RecordBatch:
    history = _history(log, users, day, settings, "last")
    has_events = history.lengths > 0
    columns = [*_named(log, users[has_events], day), *history.of_rows(has_events).lists(bool(settings.event_types))]
    return pa.RecordBatch.from_arrays(columns, names=USER_HISTORY.names)


def _sequence_rows(
    log: UserEvents, users: np.ndarray, as_of: date, split: str, settings: SequenceSettings
) -> pa.RecordBatch:
    is_random = settings.sampling == "random"
    history = _history(log, users, as_of, settings, "random" if is_random else "last")
    until = _epoch(as_of + timedelta(days=settings.target_days))
    keep: Keep = "random" if is_random else "first"
    targets = cut(log.targets, users, _epoch(as_of), until, settings.target_length, keep)
    chosen = (history.lengths >= settings.min_history) & (targets.lengths >= settings.min_targets)
    history, targets, users = history.of_rows(chosen), targets.of_rows(chosen), users[chosen]
    splits, positions = np.full(len(users), split), np.zeros(len(users))
    return sequence_batch(log, users, as_of, history, targets, splits, positions, settings)


def sequence_batch(
    log: UserEvents,
    users: np.ndarray,
    as_of: date,
    history: Cut,
    targets: Cut,
    splits: np.ndarray,
    positions: np.ndarray,
    settings: SequenceSettings,
) -> pa.RecordBatch:
    """R rows of `sequences`; `users`, `splits` and `positions` have shape (R,)."""
    has_types = bool(settings.event_types)
    hist_items, hist_ts, hist_types = history.padded(settings.history_length, has_types)
    tar_items, tar_ts, tar_types = targets.padded(settings.target_length, has_types)
    columns = [
        *_named(log, users, as_of),
        *(hist_items, hist_ts, pa.array(history.lengths, pa.int32())),
        *(tar_items, tar_ts, pa.array(targets.lengths, pa.int32())),
        pa.array(splits.tolist(), pa.string()),
        pa.array(positions.astype(np.int32)),
        *(hist_types, tar_types),
    ]
    return pa.RecordBatch.from_arrays(columns, names=SEQUENCES.names)


def _history(log: UserEvents, users: np.ndarray, as_of: date, settings: SequenceSettings, keep: Keep) -> Cut:
    oldest = max(_epoch(as_of - timedelta(days=settings.history_days)), 0)
    return cut(log.history, users, oldest, _epoch(as_of), settings.history_length, keep)


def _named(log: UserEvents, users: np.ndarray, day: date) -> tuple[pa.Array, pa.Array]:
    return log.names.take(pa.array(users)), pa.array([day] * len(users), pa.date32())


def _epoch(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
