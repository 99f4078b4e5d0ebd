"""The loader alone: sequences of 50 + 20 items into shuffled batches of tensors, against Petastorm's own loader.

Sizes are numbers of rows. Both read the same files, give batches of 128 rows, and shuffle in a buffer of 65,536 rows.
"""

import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.ratios import Ratio, Target
from benchmarks.stream import BATCH, leave_checksum, write_sequences
from models.contract.settings import StreamConfig
from models.contract.snapshot import open_snapshot
from models.data.stream import PetastormReader

COLUMNS = ["hist_items", "hist_len", "tar_items", "tar_len"]
SHUFFLE_ROWS = 65_536

CHECK = "benchmarks.stream:check_rows"
BENCH = Benchmark(
    name="loader",
    sizes=(128_000, 512_000),
    quick_sizes=(25_600,),
    prepare="benchmarks.loader:prepare",
    contenders=(
        Contender("ours", "benchmarks.loader:ours", CHECK),
        Contender("batched", "benchmarks.loader:batched", CHECK),
    ),
    ratios=(Ratio("batched", "ours", Target(">=", 1.5)),),
)


def prepare(task: Task) -> None:
    """Makes snapshots of all sizes."""
    for size in task.sizes:
        write_sequences(_snapshot(task, size), int(size), seed=1)


def ours(task: Task) -> None:
    """This project's reader over Petastorm."""
    snapshot = open_snapshot(_snapshot(task, task.size))
    reader = PetastormReader(snapshot, COLUMNS, BATCH, seed=1, config=StreamConfig(shuffle_rows=SHUFFLE_ROWS))
    import petastorm  # noqa: F401 - before the clock, as below

    with task.clock():
        _consume(task, reader)


def batched(task: Task) -> None:
    """Petastorm's fastest loader.

    Asked for one epoch, Petastorm often gives fewer rows, and with several workers the first rows of endless epochs are
    not one epoch (docs/decisions/0002-petastorm.md). So it is used as ours uses it: one worker reads endless epochs,
    which are cut after one.
    """
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    from petastorm import make_batch_reader
    from petastorm.pytorch import BatchedDataLoader

    files = [f"file://{file}" for file in open_snapshot(_snapshot(task, task.size)).files]
    options = {"schema_fields": COLUMNS, "seed": 1, "num_epochs": None, "workers_count": 1}
    with task.clock(), make_batch_reader(files, **options) as reader:
        epoch = OneEpoch(reader, int(task.size))
        _consume(task, BatchedDataLoader(epoch, batch_size=BATCH, shuffling_queue_capacity=SHUFFLE_ROWS))


class OneEpoch:
    """A Petastorm reader that ends after `rows` rows."""

    def __init__(self, reader: Iterable[tuple], rows: int) -> None:
        self._reader, self._rows = reader, rows

    def __getattr__(self, name: str) -> object:
        return getattr(self._reader, name)

    def __iter__(self) -> Iterator[tuple]:
        left = self._rows
        while left > 0:
            rows = next(self._reader)
            left -= len(rows.hist_len)
            yield rows


def _consume(task: Task, batches: Iterable[dict[str, Tensor]]) -> None:
    rows = total = 0
    for batch in batches:
        rows += len(batch["hist_len"])
        total += sum(int(batch[name].sum()) for name in COLUMNS)
    leave_checksum(task, f"{rows}:{total}")


def _snapshot(task: Task, size: float) -> Path:
    return task.folder / "loader_inputs" / f"{int(size)}"


if __name__ == "__main__":
    sys.exit(main(BENCH))
