"""Batches of texts of similar length, within a budget of tokens that shrinks when memory runs out."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch


def pack_by_length(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Row numbers of each batch: longest rows first, at most `batch_tokens` after padding. Empty rows are left out."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    order = order[: np.count_nonzero(lengths)]
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // lengths[order[start]])
        yield order[start : start + rows]
        start += rows


def run_batches(work: Callable[[np.ndarray], None], lengths: Sequence[int], batch_tokens: int) -> list[int]:
    """Calls `work` on the rows of each batch. When memory runs out, the remaining batches become smaller.

    Args:
        work: computes and keeps the results of the given rows; it may be called again for the same rows.
        lengths: number of tokens of every row.
        batch_tokens: the most padded tokens of a batch; each time memory runs out, half the failed batch's.

    Returns:
        The rows that do not even fit alone.
    """
    lengths_N = np.asarray(lengths, dtype=np.int64)
    pending = np.arange(len(lengths_N))
    too_large: list[int] = []
    budget = batch_tokens
    while True:
        done = 0
        batches = list(pack_by_length(lengths_N[pending], budget))
        for place, batch in enumerate(batches):
            if not _fits(work, pending[batch]):
                break
            done = place + 1
        else:
            return sorted(too_large)
        # Outside the except block, where the traceback no longer holds the failed batch's tensors.
        _free_memory()
        failed = pending[batches[done]]
        if len(failed) == 1:
            too_large.append(int(failed[0]))
            done += 1
        else:
            budget = max(1, len(failed) * int(lengths_N[failed].max()) // 2)
        pending = pending[np.concatenate([*batches[done:], np.array([], dtype=np.int64)])]


def shared_prefix(rows: Sequence[tuple[int, ...]]) -> int:
    """The length of the prefix that all rows share, short enough to leave each row at least one id of its own."""
    if not rows:
        return 0
    first, last = min(rows), max(rows)  # rows between the extremes share whatever prefix these two share
    length = min(map(len, rows)) - 1
    return next((place for place in range(length) if first[place] != last[place]), max(length, 0))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether it is a device's out-of-memory error, or that of torch's CPU allocator, which has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _fits(work: Callable[[np.ndarray], None], rows: np.ndarray) -> bool:
    try:
        work(rows)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
