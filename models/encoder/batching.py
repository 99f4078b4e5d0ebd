"""How texts become batches: by length, within a budget of tokens that shrinks where memory runs out."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch


def pack_by_length(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Row numbers by batch: longest first, at most `batch_tokens` after padding, empty rows left out."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    order = order[: np.count_nonzero(lengths)]
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // lengths[order[start]])
        yield order[start : start + rows]
        start += rows


def run_batches(work: Callable[[np.ndarray], None], lengths: Sequence[int], batch_tokens: int) -> list[int]:
    """Calls `work` on the rows of each batch; where memory runs out, on smaller batches from there on.

    Args:
        work: computes and keeps the results of the rows it gets; it may be asked for them again.
        lengths: tokens of every row.
        batch_tokens: the most padded tokens of a batch; halved each time that memory runs out.

    Returns:
        the rows that do not even fit alone.
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
        # Outside the handler, so that the traceback no longer holds the failed batch's tensors.
        _free_memory()
        failed = pending[batches[done]]
        if len(failed) == 1:
            too_large.append(int(failed[0]))
            done += 1
        else:
            budget = max(1, len(failed) * int(lengths_N[failed].max()) // 2)
        pending = pending[np.concatenate([*batches[done:], np.array([], dtype=np.int64)])]


def shared_prefix(rows: Sequence[tuple[int, ...]]) -> int:
    """The number of first ids that all rows share, at least one id of each row left over."""
    if not rows:
        return 0
    first, last = min(rows), max(rows)  # what the extremes share, all between them share
    length = min(map(len, rows)) - 1
    return next((place for place in range(length) if first[place] != last[place]), max(length, 0))


def is_out_of_memory(error: RuntimeError) -> bool:
    """A device's out-of-memory error, or that of torch's CPU allocator, which has no class of its own."""
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
