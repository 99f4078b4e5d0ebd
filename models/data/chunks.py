"""Chunks of rows between files and batches. A chunk is a dict of columns by name, arrays of one length."""

from collections.abc import Iterator

import numpy as np

Chunk = dict[str, np.ndarray]


def shuffled(chunks: Iterator[Chunk], capacity: int, rng: np.random.Generator) -> Iterator[Chunk]:
    """Shuffles rows in a buffer: when it holds more than 2 x `capacity`, all but a random `capacity` of them leave."""
    held: list[Chunk] = []
    num_held = 0
    for chunk in chunks:
        held.append(chunk)
        num_held += num_rows(chunk)
        if num_held > 2 * capacity:
            pool = _take(_concat(held), rng.permutation(num_held))
            yield _take(pool, slice(capacity, None))
            held, num_held = [_take(pool, slice(capacity))], capacity
    if num_held:
        yield _take(_concat(held), rng.permutation(num_held))


def exact_batches(chunks: Iterator[Chunk], batch_size: int, drop_last: bool) -> Iterator[Chunk]:
    """The same rows in chunks of `batch_size`; `drop_last` leaves out a smaller last chunk."""
    held: list[Chunk] = []
    num_held = 0
    for chunk in chunks:
        held.append(chunk)
        num_held += num_rows(chunk)
        if num_held < batch_size:
            continue
        pool, whole = _concat(held), num_held - num_held % batch_size
        for start in range(0, whole, batch_size):
            yield _take(pool, slice(start, start + batch_size))
        held, num_held = [_take(pool, slice(whole, None))], num_held - whole
    if num_held and not drop_last:
        yield _concat(held)


def num_rows(chunk: Chunk) -> int:
    """Number of rows of a chunk."""
    return len(next(iter(chunk.values())))


def _concat(chunks: list[Chunk]) -> Chunk:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _take(chunk: Chunk, rows: slice | np.ndarray) -> Chunk:
    return {name: values[rows] for name, values in chunk.items()}
