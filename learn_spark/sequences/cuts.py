"""Cuts histories and targets out of many users' events at once: numpy on Arrow batches, no loop over users.

Shapes: E packed events, N events of a side, U users, R rows of a result.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from learn_spark.sequences.events import HISTORY, SECOND_BITS, SIDE_BITS, TARGET, TIE_BITS, TYPE_BITS

Keep = Literal["last", "first", "random"]

_SECOND_MASK = (1 << SECOND_BITS) - 1
_ITEM_MASK = (1 << (SECOND_BITS - SIDE_BITS)) - 1
_TIE_MASK = np.uint64((1 << TIE_BITS) - 1)
_TYPE_MASK = np.uint64((1 << TYPE_BITS) - 1)


@dataclass(frozen=True)
class Side:
    """The events that count on one side, by user and in order.

    Attributes:
        keys: (N,) int64, user number << 32 | second, ascending.
        items: (N,) int32.
        ties: (N,) uint64, orders events of the same time; if event types are kept, the last bits are their codes.
    """

    keys: np.ndarray
    items: np.ndarray
    ties: np.ndarray

    def until(self, users: np.ndarray, second: int) -> np.ndarray:
        """(U,) for each user number, the place of the first event at `second` or later."""
        return np.searchsorted(self.keys, (users << SECOND_BITS) + second)


@dataclass(frozen=True)
class Cut:
    """Chosen events of R rows: row r owns `places[offsets[r]:offsets[r + 1]]`, oldest first."""

    side: Side
    places: np.ndarray
    offsets: np.ndarray

    @classmethod
    def between(cls, side: Side, first: np.ndarray, stop: np.ndarray) -> Self:
        """Row r holds the events first[r] .. stop[r] - 1."""
        offsets = _offsets(stop - first)
        return cls(side, np.repeat(first - offsets[:-1], stop - first) + np.arange(offsets[-1]), offsets)

    @property
    def lengths(self) -> np.ndarray:
        """(R,) events per row."""
        return np.diff(self.offsets)

    def of_rows(self, chosen: np.ndarray) -> Self:
        """The rows where `chosen` (R,) is true."""
        lengths = self.lengths
        return replace(self, places=self.places[np.repeat(chosen, lengths)], offsets=_offsets(lengths[chosen]))

    def sampled(self, limit: int) -> Self:
        """Keeps, in each row, the `limit` events with the lowest ties, still in order."""
        lengths = self.lengths
        rows = np.repeat(np.arange(len(lengths)), lengths)
        by_tie = np.lexsort((self.side.ties[self.places], rows))
        rank = np.arange(len(rows)) - np.repeat(self.offsets[:-1], lengths)
        chosen = np.sort(by_tie[rank < limit])
        return replace(self, places=self.places[chosen], offsets=_offsets(np.minimum(lengths, limit)))

    def lists(self, has_types: bool) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Items, seconds and types as lists of their own lengths; types are null if events have none."""
        offsets = pa.array(self.offsets, pa.int32())
        lists = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in self._values(has_types)]
        return self._with_types(lists)

    def padded(self, length: int, has_types: bool) -> tuple[pa.Array, pa.Array, pa.Array]:
        """As `lists`, but each list is padded with zeros to `length`."""
        rows = np.repeat(np.arange(len(self.lengths)), self.lengths)
        columns = np.arange(len(self.places)) - np.repeat(self.offsets[:-1], self.lengths)
        offsets = pa.array(np.arange(len(self.lengths) + 1) * length, pa.int32())
        lists = []
        for values in self._values(has_types):
            matrix = np.zeros((len(self.lengths), length), values.dtype)
            matrix[rows, columns] = values
            lists.append(pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1))))
        return self._with_types(lists)

    def _values(self, has_types: bool) -> list[np.ndarray]:
        values = [self.side.items[self.places], self.side.keys[self.places] & _SECOND_MASK]
        return [*values, (self.side.ties[self.places] & _TYPE_MASK).astype(np.int8)] if has_types else values

    def _with_types(self, lists: list[pa.Array]) -> tuple[pa.Array, pa.Array, pa.Array]:
        types = lists[2] if len(lists) > 2 else pa.nulls(len(self.lengths), pa.list_(pa.int8()))
        return lists[0], lists[1], types


@dataclass(frozen=True)
class UserEvents:
    """All events of a partition's users.

    Attributes:
        names: (U,) user ids; a user's number is its place here.
        history, targets: the sides.
    """

    names: pa.Array
    history: Side
    targets: Side

    @classmethod
    def of(cls, batches: Iterable[pa.RecordBatch]) -> Self:
        """From batches of `events.packed`."""
        table = pa.Table.from_batches(list(batches)).combine_chunks()
        names = table.column("user_id").chunk(0).dictionary_encode()
        users = names.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        users, events, order = _unpacked(table, users)
        keys = (users << SECOND_BITS) + ((events >> SECOND_BITS) & _SECOND_MASK)
        places = _sorted_places(keys, order)
        keys, events, ties = keys[places], events[places], order[places] & _TIE_MASK
        items = ((events >> SIDE_BITS) & _ITEM_MASK).astype(np.int32)
        of_side = [(events & side) > 0 for side in (HISTORY, TARGET)]
        return cls(names.dictionary, *(Side(keys[own], items[own], ties[own]) for own in of_side))


def cut(side: Side, users: np.ndarray, start: int, end: int, limit: int, keep: Keep) -> Cut:
    """At most `limit` events with start <= second < end of each of `users`: the last, the first or a random sample.

    A random sample is the events with the lowest ties: equal in every rerun, and a part of every larger sample.
    """
    first, stop = side.until(users, start), side.until(users, end)
    if keep == "last":
        first = np.maximum(first, stop - limit)
    elif keep == "first":
        stop = np.minimum(stop, first + limit)
    whole = Cut.between(side, first, stop)
    return whole.sampled(limit) if keep == "random" else whole


def _sorted_places(keys: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The permutation that sorts by key, then order: one integer sort, then only ties again."""
    places = np.argsort(keys)
    ordered = keys[places]
    same = ordered[1:] == ordered[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    again = places[tied]
    places[tied] = again[np.lexsort((order[again], keys[again]))]
    return places


def _unpacked(table: pa.Table, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(E,) user numbers, packed events and orders (uint64); stored histories become events in their own order."""
    if "past_items" not in table.column_names:
        return users, table.column("event").to_numpy(), table.column("order").to_numpy().view(np.uint64)
    past_items, past_ts = (table.column(name).chunk(0) for name in ("past_items", "past_ts"))
    lengths = pc.fill_null(pc.call_function("list_value_length", [past_items]), 0)
    lengths = lengths.to_numpy(zero_copy_only=False).astype(np.int64)
    place = np.arange(lengths.sum()) - np.repeat(_offsets(lengths)[:-1], lengths)
    items, seconds = (column.flatten().to_numpy().astype(np.int64) for column in (past_items, past_ts))
    past = (seconds << SECOND_BITS) + (items << SIDE_BITS) + HISTORY
    if "past_types" in table.column_names:
        place = (place << TYPE_BITS) + _past_types(table, len(items))
    is_new = pc.call_function("is_valid", [table.column("event").chunk(0)])
    events, order = (table.column(name).chunk(0).filter(is_new).to_numpy() for name in ("event", "order"))
    return (
        np.concatenate([users[is_new.to_numpy(zero_copy_only=False)], np.repeat(users, lengths)]),
        np.concatenate([events, past]),
        np.concatenate([order.view(np.uint64), place.astype(np.uint64)]),
    )


def _past_types(table: pa.Table, num: int) -> np.ndarray:
    """The codes of all events of stored histories, (num,) int64."""
    types = table.column("past_types").chunk(0).flatten().to_numpy()
    if len(types) != num:
        raise ValueError("user_history has rows whose events have no types: make them again with --restate")
    return types.astype(np.int64)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    """(R + 1,) where each row begins and the last ends."""
    return np.concatenate([[0], np.cumsum(lengths)])
