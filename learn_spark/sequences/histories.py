"""Histories and targets around as-of dates: frame in, frame out.

What it costs at 12 M users and 10 months: a full build is one scan of narrow columns, one shuffle by user (about 50
bytes an event before compression), one sort in numpy, then a binary search a user and as-of date. An increment reads
the newest stored history of the active users and the new days' events, and shuffles only those. A task holds its
partition's events (about 60 bytes each); heavy users are limited before the shuffle, so its size does not depend on
the longest user.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.core.days import ONE_DAY, days_predicate
from learn_spark.core.settings import SequenceSettings
from learn_spark.sequences.cuts import Cut, Keep, UserEvents, cut
from learn_spark.sequences.events import HISTORY, packed

BATCH_USERS = 4096
DAY_SECONDS = 86_400
_HISTORY_SCHEMA = "user_id string, ds date, item_idx array<int>, event_ts array<bigint>"
_SEQUENCE_SCHEMA = (
    "user_id string, as_of date, hist_items array<int>, hist_ts array<bigint>, hist_len int,"
    " tar_items array<int>, tar_ts array<bigint>, tar_len int, split string"
)


def full_histories(events: DataFrame, day: date, settings: SequenceSettings) -> DataFrame:
    """`user_history` rows of every user who has a history on `day`, from the whole log.

    Args:
        events: user_id, item_idx, event_ts, ds, tie, side (`events.sided_events`).
        day: the as-of date.
        settings: lengths and windows.
    """
    oldest = day - timedelta(days=settings.history_days)

    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for log, users in _user_batches(batches):
            yield _history_rows(log, users, day, settings)

    return packed(_between(_of_history(events), oldest, day)).mapInArrow(rows, _HISTORY_SCHEMA)


def next_histories(
    previous: DataFrame, events: DataFrame, days: Sequence[date], settings: SequenceSettings
) -> DataFrame:
    """`user_history` rows of the users who were active on the day before each of `days`: only what changed.

    A user's newest history stored before the first of `days` and the events from then on hold everything that a
    history of `days` can hold.

    Args:
        previous: `user_history` rows of all days before `days`.
        events: user_id, item_idx, event_ts, ds, tie, side (`events.sided_events`).
        days: as-of dates.
        settings: lengths and windows.
    """
    eves = [day - ONE_DAY for day in days]
    fresh = _between(_of_history(events), min(eves), max(days))
    active = fresh.where(days_predicate("ds", eves)).select("user_id").distinct()
    past = F.struct(F.col("item_idx").alias("past_items"), F.col("event_ts").alias("past_ts"))
    candidates = previous.where(F.col("ds") < F.lit(min(days))).join(active, on="user_id", how="left_semi")
    newest = candidates.groupBy("user_id").agg(F.max_by(past, "ds").alias("past")).select("user_id", "past.*")

    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for log, users in _user_batches(batches):
            for eve, day in zip(eves, days, strict=True):
                is_active = log.history.until(users, _epoch(day)) > log.history.until(users, _epoch(eve))
                yield _history_rows(log, users[is_active], day, settings)

    return packed(fresh, newest).mapInArrow(rows, _HISTORY_SCHEMA)


def sequences(events: DataFrame, splits: Mapping[date, str], settings: SequenceSettings) -> DataFrame:
    """`sequences` rows for every user and as-of date that has enough of both a history and targets.

    Args:
        events: user_id, item_idx, event_ts, ds, tie, side (`events.sided_events`).
        splits: as-of dates and their splits.
        settings: lengths, windows, sampling.
    """
    oldest = min(splits) - timedelta(days=settings.history_days)
    newest = max(splits) + timedelta(days=settings.target_days)

    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for log, users in _user_batches(batches):
            for as_of, split in splits.items():
                yield _sequence_rows(log, users, as_of, split, settings)

    return packed(_between(events, oldest, newest)).mapInArrow(rows, _SEQUENCE_SCHEMA)


def _of_history(events: DataFrame) -> DataFrame:
    return events.where(F.col("side").bitwiseAND(HISTORY) > 0)


def _between(events: DataFrame, start: date, end: date) -> DataFrame:
    return events.where((F.col("ds") >= F.lit(start)) & (F.col("ds") < F.lit(end)))


def _user_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[UserEvents, np.ndarray]]:
    """The partition's events with its user numbers, some thousand at a time."""
    there = [batch for batch in batches if batch.num_rows]
    if there:
        log = UserEvents.of(there)
        users = np.arange(len(log.names), dtype=np.int64)
        for start in range(0, len(users), BATCH_USERS):
            yield log, users[start : start + BATCH_USERS]


def _history_rows(log: UserEvents, users: np.ndarray, day: date, settings: SequenceSettings) -> pa.RecordBatch:
    history = _history(log, users, day, settings, "last")
    has_events = history.lengths > 0
    columns = [*_named(log, users[has_events], day), *history.of_rows(has_events).lists()]
    return pa.RecordBatch.from_arrays(columns, names=_names(_HISTORY_SCHEMA))


def _sequence_rows(
    log: UserEvents, users: np.ndarray, as_of: date, split: str, settings: SequenceSettings
) -> pa.RecordBatch:
    is_random = settings.sampling == "random"
    history = _history(log, users, as_of, settings, "random" if is_random else "last")
    until = _epoch(as_of + timedelta(days=settings.target_days))
    keep: Keep = "random" if is_random else "first"
    targets = cut(log.targets, users, _epoch(as_of), until, settings.target_length, keep)
    is_long_enough = (history.lengths >= settings.min_history) & (targets.lengths >= settings.min_targets)
    history, targets, users = history.of_rows(is_long_enough), targets.of_rows(is_long_enough), users[is_long_enough]
    columns = [
        *_named(log, users, as_of),
        *history.padded(settings.history_length),
        pa.array(history.lengths, pa.int32()),
        *targets.padded(settings.target_length),
        pa.array(targets.lengths, pa.int32()),
        pa.array([split] * len(users), pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, names=_names(_SEQUENCE_SCHEMA))


def _history(log: UserEvents, users: np.ndarray, as_of: date, settings: SequenceSettings, keep: Keep) -> Cut:
    oldest = max(_epoch(as_of - timedelta(days=settings.history_days)), 0)
    return cut(log.history, users, oldest, _epoch(as_of), settings.history_length, keep)


def _named(log: UserEvents, users: np.ndarray, day: date) -> tuple[pa.Array, pa.Array]:
    return log.names.take(pa.array(users)), pa.array([day] * len(users), pa.date32())


def _names(schema: str) -> list[str]:
    return [column.split()[0] for column in schema.split(", ")]


def _epoch(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
