"""The events that sequences are made of: sides, order, a rank limit for heavy users, and their packed form.

A packed event is two longs beside its user: `[second: 32 | item_idx: 30 | side: 2]` and
`[microsecond: 20 | tie: 44]`. It halves what the shuffle carries, and sorts by time, then tie. If event types are kept,
the last 7 bits of the tie are the type's code: `[microsecond: 20 | tie: 37 | type: 7]`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.config.sections import SequenceSettings
from learn_spark.lake.frames import only_row, tasks_for

HISTORY, TARGET = 1, 2
SECOND_BITS, SIDE_BITS, TIE_BITS, TYPE_BITS = 32, 2, 44, 7
EVENTS_PER_TASK = 2_000_000  # about 120 MB of a task's memory; with more tasks, Comet's batches get small
_FEWEST_PER_TASK = 20_000
_SAMPLED = 0.001
_SEEN_IN_SAMPLE = 1000  # about a million events
_MOST_HEAVY = 1000


@dataclass(frozen=True)
class HeavyUser:
    """A user with so many events that they must not be shuffled whole; `events` is an estimate."""

    user_id: str
    events: int


@dataclass(frozen=True)
class Survey:
    """What a build finds out before it shuffles: the number of its events, and at most 1,000 users to limit."""

    rows: int
    heavy: list[HeavyUser]


def sided_events(interactions: DataFrame, settings: SequenceSettings) -> DataFrame:
    """Events of either side: user_id, item_idx, event_ts, ds, `tie` and `side` (1 history, 2 target, 3 both)."""
    is_history = F.col("event_type").isin(settings.history_events)
    is_target = F.col("event_type").isin(settings.target_events)
    side = F.when(is_history, HISTORY).otherwise(0) + F.when(is_target, TARGET).otherwise(0)
    tie = _tie(settings.seed)
    if settings.event_types:
        tie = F.shiftleft(F.shiftright(tie, TYPE_BITS), TYPE_BITS) + _code(settings.event_types)
    return interactions.select("user_id", "item_idx", "event_ts", "ds", tie.alias("tie"), side.alias("side")).where(
        "side > 0"
    )


def survey(events: DataFrame) -> Survey:
    """One narrow scan that counts the events and, from one in a thousand, finds users with about a million or more."""
    drawn = F.when(F.rand(seed=1) < _SAMPLED, F.col("user_id"))
    counts = events.select(drawn.alias("user_id")).groupBy("user_id").agg(F.count(F.lit(1)).alias("events"))
    is_heavy = F.col("user_id").isNotNull() & (F.col("events") >= _SEEN_IN_SAMPLE)
    found = only_row(
        counts.agg(
            F.coalesce(F.sum("events"), F.lit(0)).alias("rows"),
            F.collect_list(F.when(is_heavy, F.struct("user_id", "events"))).alias("heavy"),
        )
    )
    users = [HeavyUser(user["user_id"], round(user["events"] / _SAMPLED)) for user in found["heavy"]]
    return Survey(found["rows"], heaviest(users))


def heaviest(users: Iterable[HeavyUser]) -> list[HeavyUser]:
    """Each user once, with the largest estimate of any survey, the heaviest first; at most 1,000."""
    most: dict[str, int] = {}
    for user in users:
        most[user.user_id] = max(most.get(user.user_id, 0), user.events)
    found = [HeavyUser(*pair) for pair in most.items()]
    return sorted(found, key=lambda user: (-user.events, user.user_id))[:_MOST_HEAVY]


def limited(events: DataFrame, heavy: Sequence[HeavyUser], settings: SequenceSettings) -> DataFrame:
    """Drops, before any shuffle, events of heavy users that no sequence can hold.

    As-of dates are midnights, so of each of a user's days a history holds at most the last H events, and targets the
    first T (a random sample: those with the lowest ties). Every cut has the same result with and without the limit.
    """
    if not heavy:
        return events
    is_heavy = F.col("user_id").isin([user.user_id for user in heavy])
    theirs = events.where(is_heavy)
    is_random = settings.sampling == "random"
    newest, oldest = [F.desc("event_ts"), F.desc("tie")], [F.asc("event_ts"), F.asc("tie")]
    by_history = [F.asc("tie")] if is_random else newest
    by_target = [F.asc("tie")] if is_random else oldest
    return (
        events.where(~is_heavy)
        .unionByName(_first_of_day(theirs, HISTORY, by_history, settings.history_length))
        .unionByName(_first_of_day(theirs, TARGET, by_target, settings.target_length))
    )


def tasks_of(events: DataFrame, rows: int) -> int:
    """How many tasks to use for `rows` events."""
    return tasks_for(events.sparkSession, rows, EVENTS_PER_TASK, _FEWEST_PER_TASK)


def packed(events: DataFrame, tasks: int | None = None, stored: DataFrame | None = None) -> DataFrame:
    """`user_id`, `event` and `order`, all of a user's events in one partition, in no order.

    Args:
        events: user_id, item_idx, event_ts, tie, side.
        tasks: partitions. Spark does not change an explicit number at run time, and only then does Comet hand its
            batches to Python unchanged. None: Spark decides.
        stored: user_id, past_items, past_ts, and past_types if types are kept: older events of users, already in
            order, as separate rows.
    """
    micros = F.unix_micros("event_ts")
    second = F.expr("unix_micros(event_ts) DIV 1000000")
    item = F.shiftleft(F.col("item_idx").cast("bigint"), SIDE_BITS)
    event = F.shiftleft(second, SECOND_BITS) + item + F.col("side")
    order = F.shiftleft(micros % 1_000_000, TIE_BITS) + F.col("tie")
    rows = events.select("user_id", event.alias("event"), order.alias("order"))
    if stored is not None:
        rows = rows.unionByName(stored, allowMissingColumns=True)
    return rows.repartition(tasks, "user_id") if tasks else rows.repartition("user_id")


def _first_of_day(events: DataFrame, side: int, order: list[Column], limit: int) -> DataFrame:
    """Of one side: each user's first events of each day; Spark applies the limit before the shuffle too."""
    own = events.where(F.col("side").bitwiseAND(side) > 0).withColumn("side", F.lit(side))
    place = F.row_number().over(Window.partitionBy("user_id", "ds").orderBy(*order))
    return own.withColumn("place", place).where(F.col("place") <= limit).drop("place")


def _code(types: Sequence[str]) -> Column:
    """The type's code, from 1 on; 0 for a type that no sequence has."""
    codes = [F.when(F.col("event_type") == name, code) for code, name in enumerate(types, 1)]
    return F.coalesce(*codes, F.lit(0))


def _tie(seed: int | None) -> Column:
    """44 bits that order events of the same time: by event_id, or shuffled by a seed."""
    key = F.col("event_id") if seed is None else F.xxhash64("event_id", F.lit(seed))
    return F.shiftright(key, 64 - TIE_BITS) + F.lit(1 << (TIE_BITS - 1))
