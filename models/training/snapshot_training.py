"""What all trainings from snapshots share around the loop: they open snapshots, make batches, join ranks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from models.contract.failures import BadInput
from models.contract.snapshot import Snapshot, open_snapshot
from models.contract.training_specs import TrainingSpec
from models.contract.whole_files import require_folder
from models.data.stream import ArrowReader, open_reader
from models.training.checkpoint import fingerprint_of, step_seed
from models.training.distributed import Ranks, joined
from models.training.trainer import Batch, Metrics, Task, Trainer, TrainResult

SpecT = TypeVar("SpecT", bound=TrainingSpec)


class SnapshotBatches(Generic[SpecT]):
    """The reading half of a `Task`: makes an epoch's batches from the training snapshot.

    Args:
        spec: the training's settings.
        train: the training snapshot.
        columns: the columns to read.
        ranks: the processes that train together.

    Attributes:
        generator: for random draws in a batch; seeded for each batch by seed, rank, epoch and batch number.
    """

    keeps_untrained = False

    def __init__(self, spec: SpecT, train: Snapshot, columns: list[str], ranks: Ranks) -> None:
        self.spec, self.train_snapshot, self.columns, self.ranks = spec, train, columns, ranks
        self.generator = torch.Generator().manual_seed(spec.train.seed)

    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return len(self._reader(epoch=0))

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Batch, int]]:
        """See `Task.batches`."""
        for number, batch in enumerate(self._reader(epoch).batches(start), start):
            self.generator.manual_seed(step_seed(self.spec.train.seed, self.ranks.rank, epoch, number))
            yield self._prepare(batch), len(next(iter(batch.values())))

    def save_last(self, path: Path, state: dict[str, Tensor]) -> Metrics:
        """See `Task.save_last`. Does nothing, because the best state is already saved."""
        return {}

    def _prepare(self, batch: Batch) -> Batch:
        """The model's inputs, made from the snapshot's columns."""
        raise NotImplementedError

    def _reader(self, epoch: int) -> ArrowReader:
        """A reader of this rank's batches of an epoch. Each epoch has its own order; only full batches are read."""
        train, ranks = self.spec.train, self.ranks
        return open_reader(
            self.train_snapshot,
            self.columns,
            train.batch_size,
            seed=train.seed * 1_000_003 + epoch,
            drop_last=True,
            config=self.spec.stream,
            rank=ranks.rank,
            ranks=ranks.size,
        )


def opened_snapshots(spec: TrainingSpec) -> tuple[Snapshot, Snapshot]:
    """The training snapshot and the validation snapshot.

    Raises:
        BadInput: a snapshot is missing or damaged, or the validation snapshot is empty.
    """
    for key in ("train_snapshot", "val_snapshot"):
        require_folder(getattr(spec, key), key)
    train = open_snapshot(spec.train_snapshot, spec.stream.run.verify_sha256)
    val = open_snapshot(spec.val_snapshot, spec.stream.run.verify_sha256)
    if not val.rows:
        raise BadInput(f"val_snapshot: {spec.val_snapshot} holds no rows")
    return train, val


def train_from_snapshots(spec: TrainingSpec, make_task: Callable[..., Task]) -> TrainResult:
    """Open the snapshots, join the ranks, train.

    Args:
        spec: the training's settings.
        make_task: called with the snapshots `train` and `val`, and with `ranks`, after torch was seeded.

    Raises:
        BadInput: a snapshot is missing, damaged or empty; also as `Trainer.run`.
    """
    if spec.train.run.threads:
        torch.set_num_threads(spec.train.run.threads)
    torch.manual_seed(spec.train.seed)
    train, val = opened_snapshots(spec)
    with joined(spec.train.device, spec.train.run.rank_timeout) as ranks:
        task = make_task(train=train, val=val, ranks=ranks)
        fingerprint = fingerprint_of(spec, [train.path, val.path], ranks)
        return Trainer(task, spec.train, spec.out_dir, fingerprint, ranks).run()
