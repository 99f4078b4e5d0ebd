"""The leave-one-out protocol: each user's last event tests, the one before validates, every prefix before trains.

As in UniSRec (Hou et al., 2022), users and items with fewer than `k_core` events are dropped until no such user or item
is left. Events of the same time are in the order of `sequences.seed`, never in the log's.
"""

from collections.abc import Iterable, Iterator
from datetime import date

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.config.sections import SequenceSettings
from learn_spark.lake.arrow_rows import ArrowRows
from learn_spark.lake.schemas import SEQUENCES
from learn_spark.sequences.cuts import Cut, UserEvents
from learn_spark.sequences.events import packed
from learn_spark.sequences.histories import sequence_batch, user_batches

BATCH_USERS = 512
BATCH_ROWS = 65_536


def core_of(events: DataFrame, size: int, least: int) -> DataFrame:
    """The events whose users and items all have at least `least` of these events.

    A round is two counts and two joins, written to the executors' disks; a log's core is reached in a few rounds.

    Args:
        events: checkpointed, since every round but the last reads them, or those that are left, twice.
        size: how many events there are.
        least: how many events a user or an item must have.
    """
    kept, before = events, -1
    while size != before:
        for key in ("user_id", "item_idx"):
            enough = kept.groupBy(key).count().where(F.col("count") >= least).select(key)
            kept = kept.join(enough, on=key, how="left_semi")
        kept = kept.localCheckpoint(eager=False)  # the count fills it
        before, size = size, kept.count()
    return kept


def leave_one_out(core: DataFrame, day: date, settings: SequenceSettings, tasks: int | None = None) -> ArrowRows:
    """`sequences` rows, one per target: `position` is the target's place in the user's events.

    A task holds its partition's events (about 60 bytes each) and a batch of rows: every event of a user is a row here,
    so a heavy user takes longer, but no more memory than its events.

    Args:
        core: user_id, item_idx, event_ts, tie, side; every event counts on both sides.
        day: the value of `as_of`: the day on which the log ends.
        settings: history_length; the target is one event.
        tasks: as for `events.packed`.
    """

    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for log, users in user_batches(batches, BATCH_USERS):
            yield from prefix_rows(log, users, day, settings)

    return ArrowRows(packed(core, tasks), rows, SEQUENCES.columns_ddl)


def prefix_rows(
    log: UserEvents, users: np.ndarray, day: date, settings: SequenceSettings, size: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Rows of `users` (U,), at most `size` at a time, however many events a user has."""
    first, stop = log.history.until(users, 0), log.history.until(users + 1, 0)
    first_targets = Cut.between(log.history, np.minimum(first + 1, stop), stop)
    places, owners = first_targets.places, np.repeat(np.arange(len(users)), first_targets.lengths)
    for start in range(0, len(places), size):
        place, owner = places[start : start + size], owners[start : start + size]
        history = Cut.between(log.history, np.maximum(first[owner], place - settings.history_length), place)
        targets = Cut.between(log.history, place, place + 1)
        left = stop[owner] - place
        splits = np.where(left == 1, "test", np.where(left == 2, "val", "train"))
        yield sequence_batch(log, users[owner], day, history, targets, splits, place - first[owner], settings)
