"""Cuts in numpy agree with naive loops on made-up logs: ties, one event, empty sides, sub-second times, any order.

If event types are kept, the last bits of a tie are the type.
"""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learn_spark.config.load import load_config
from learn_spark.sequences.cuts import UserEvents, cut
from learn_spark.sequences.events import HISTORY, SECOND_BITS, SIDE_BITS, TARGET, TIE_BITS, TYPE_BITS
from learn_spark.sequences.leave_one_out import prefix_rows
from tests.conftest import CONF
from tests.oracles.sequences import naive_history, naive_sample, naive_targets

USERS = ["17850", "0042", "ユーザー", ""]
AS_OF = date(2011, 6, 1)
BASE = datetime(2011, 5, 28)


@st.composite
def logs(draw):
    """Events (user, time, tie, item, side), some at the same time."""
    event = st.tuples(
        st.sampled_from(USERS),
        st.one_of(
            st.integers(0, 8 * 86_400_000_000),
            st.sampled_from([0, 4 * 86_400_000_000, 4 * 86_400_000_000 - 1, 4 * 86_400_000_000 + 500_000]),
        ).map(lambda micros: BASE + timedelta(microseconds=micros)),
        st.integers(0, (1 << TIE_BITS) - 1),
        st.integers(1, (1 << 30) - 1),
        st.sampled_from([HISTORY, TARGET, HISTORY | TARGET]),
    )
    return draw(st.lists(event, max_size=60, unique_by=lambda e: (e[0], e[1], e[2])))


def micros_of(ts):
    return int((ts.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))


def seconds_of(day):
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def packed(log):
    """The events in the packed form that Spark gives them."""
    seconds, micros = zip(*(divmod(micros_of(ts), 1_000_000) for _, ts, _, _, _ in log), strict=True)
    pairs = zip(log, seconds, micros, strict=True)
    rows = [
        (u, (s << SECOND_BITS) + (item << SIDE_BITS) + side, (m << TIE_BITS) + tie)
        for (u, _, tie, item, side), s, m in pairs
    ]
    user, event, order = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(user), pa.array(event, pa.int64()), pa.array(np.array(order, np.uint64).view(np.int64))],
        names=["user_id", "event", "order"],
    )


def by_user(found, events, users):
    items, times, types = (each.to_pylist() for each in found.lists(has_types=True))
    assert found.lists(has_types=False)[2].to_pylist() == [None] * len(items)
    names = events.names.take(users).to_pylist()
    return {name: (items[n], times[n], types[n]) for n, name in enumerate(names)}


def type_of(tie):
    return tie % (1 << TYPE_BITS)


@settings(deadline=None, max_examples=300)
@given(logs(), st.integers(1, 6), st.integers(1, 5))
def test_history_and_targets_are_those_of_naive_loops(log, length, days):
    if not log:
        return
    half = len(log) // 2
    batches = [packed(part) for part in (log[:half], log[half:]) if part]
    events = UserEvents.of(batches)
    users = np.arange(len(events.names), dtype=np.int64)
    start, end = AS_OF - timedelta(days=days), AS_OF + timedelta(days=days)
    cuts = {
        keep: cut(side, users, seconds_of(first), seconds_of(last), length, keep)
        for keep, side, first, last in (
            ("last", events.history, start, AS_OF),
            ("first", events.targets, AS_OF, end),
            ("random", events.history, start, AS_OF),
        )
    }
    found = {keep: by_user(found, events, users) for keep, found in cuts.items()}
    for user in {entry[0] for entry in log}:
        own = [(ts, tie, item) for name, ts, tie, item, side in log if name == user and side & HISTORY]
        aims = [(ts, tie, item) for name, ts, tie, item, side in log if name == user and side & TARGET]
        wanted = {
            "last": naive_history(own, AS_OF, length, days),
            "first": naive_targets(aims, AS_OF, length, days),
            "random": naive_sample(naive_history(own, AS_OF, 1000, days), length),
        }
        for keep, events_wanted in wanted.items():
            times = [micros_of(ts) // 1_000_000 for ts, _, _ in events_wanted]
            types = [type_of(tie) for _, tie, _ in events_wanted]
            assert found[keep][user] == ([item for _, _, item in events_wanted], times, types), keep


@settings(deadline=None, max_examples=200)
@given(logs(), st.integers(1, 6))
def test_a_stored_history_and_new_events_give_what_the_whole_log_gives(log, length):
    """The stored histories of any day hold everything that later histories need from before it."""
    log = [entry for entry in log if entry[4] & HISTORY]
    old = [entry for entry in log if entry[1].date() < AS_OF]
    new = [entry for entry in log if entry[1].date() >= AS_OF]
    if not old or not new:
        return
    state = UserEvents.of([packed(old)])
    numbers = np.arange(len(state.names), dtype=np.int64)
    stored = cut(state.history, numbers, 0, seconds_of(AS_OF), length, "last")
    lists = stored.lists(has_types=True)
    count, fresh = len(numbers), packed(new)
    names = [*fresh.schema.names, "past_items", "past_ts", "past_types"]
    none = pa.nulls(count, pa.int64())
    batches = [
        pa.RecordBatch.from_arrays([*fresh.columns, *(pa.nulls(len(new), each.type) for each in lists)], names=names),
        pa.RecordBatch.from_arrays([state.names.take(numbers), none, none, *lists], names=names),
    ]
    untyped = [batch.drop_columns("past_types") for batch in batches]
    users = np.arange(len(UserEvents.of(untyped).names), dtype=np.int64)
    end = seconds_of(AS_OF + timedelta(days=30))
    without = cut(UserEvents.of(untyped).history, users, 0, end, length, "last").lists(has_types=False)
    assert without[:2] == cut(UserEvents.of(batches).history, users, 0, end, length, "last").lists(has_types=True)[:2]
    with pytest.raises(ValueError, match="whose events have no types"):
        UserEvents.of(
            [
                batch.drop_columns("past_types").append_column("past_types", pa.nulls(len(batch), lists[2].type))
                for batch in batches
            ]
        )
    found = []
    for events in (UserEvents.of(batches), UserEvents.of([packed(log)])):
        users = np.arange(len(events.names), dtype=np.int64)
        end = seconds_of(AS_OF + timedelta(days=30))
        found.append(by_user(cut(events.history, users, 0, end, length, "last"), events, users))
    assert found[0] == found[1]


def test_padding_fills_with_zeros_behind():
    log = [("a", BASE + timedelta(days=n), n, n + 1, HISTORY) for n in range(3)]
    events = UserEvents.of([packed(log)])
    found = cut(events.history, np.array([0]), 0, seconds_of(AS_OF), 5, "last")
    items, times, types = found.padded(5, has_types=True)
    assert items.to_pylist() == [[1, 2, 3, 0, 0]]
    assert times.to_pylist()[0][3:] == [0, 0]
    assert types.to_pylist() == [[0, 1, 2, 0, 0]], "the ties of these events are their types"
    assert [each.type.value_type for each in (items, times, types)] == [pa.int32(), pa.int64(), pa.int8()]
    assert found.padded(5, has_types=False)[2].to_pylist() == [None]


@settings(deadline=None)
@given(logs().filter(bool), st.integers(1, 5), st.integers(1, 4))
def test_every_prefix_is_a_row_in_batches_of_any_size(log, size, length):
    events = UserEvents.of([packed(log)])
    users = np.arange(len(events.names), dtype=np.int64)
    changes = [f"sequences.history_length={length}", "sequences.keep_event_types=true"]
    of_length = load_config(CONF / "test.yaml", changes).sequences
    batches = list(prefix_rows(events, users, AS_OF, of_length, size))
    assert all(batch.num_rows <= size for batch in batches)
    found = {
        (row["user_id"], row["position"]): (
            list(zip(row["hist_items"], row["hist_types"], strict=True))[: row["hist_len"]],
            (row["tar_items"][0], row["tar_types"][0]),
            row["split"],
        )
        for batch in batches
        for row in batch.to_pylist()
    }
    expected = {}
    for user in {event[0] for event in log}:
        own = sorted(event for event in log if event[0] == user)
        items = [(item, type_of(tie)) for _, _, tie, item, side in own if side & HISTORY]
        for place in range(1, len(items)):
            split = {1: "test", 2: "val"}.get(len(items) - place, "train")
            expected[user, place] = (items[max(place - length, 0) : place], items[place], split)
    assert found == expected
