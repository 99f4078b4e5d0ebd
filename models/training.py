"""From a spec to a trained model: what all trainings out of snapshots do before and around the loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from models.distributed import Ranks, joined
from models.resume import fingerprint_of
from models.settings import StreamConfig, TrainConfig
from models.snapshot import Snapshot, open_snapshot
from models.spec import require_folder
from models.trainer import Task, Trainer, TrainResult


class TrainingSpec(Protocol):
    """The keys that every training's spec has."""

    train_snapshot: Path
    val_snapshot: Path
    out_dir: Path
    train: TrainConfig
    stream: StreamConfig


def train_from_snapshots(spec: TrainingSpec, make_task: Callable[[Snapshot, Snapshot, Ranks], Task]) -> TrainResult:
    """Open the snapshots, join the ranks, train.

    Args:
        spec: the training's settings.
        make_task: gets the training and the validation snapshot and this process's rank; torch is seeded before.

    Raises:
        ValueError: a snapshot is missing, damaged or empty; and what `Trainer.run` raises.
    """
    for key in ("train_snapshot", "val_snapshot"):
        require_folder(getattr(spec, key), key)
    if spec.train.threads:
        torch.set_num_threads(spec.train.threads)
    torch.manual_seed(spec.train.seed)
    train = open_snapshot(spec.train_snapshot, spec.stream.verify_sha256)
    val = open_snapshot(spec.val_snapshot, spec.stream.verify_sha256)
    if not val.rows:
        raise ValueError(f"val_snapshot: {spec.val_snapshot} holds no rows")
    with joined(spec.train.rank_timeout) as ranks:
        task = make_task(train, val, ranks)
        fingerprint = fingerprint_of(spec, [train.path, val.path], ranks)
        return Trainer(task, spec.train, spec.out_dir, fingerprint, ranks).run()
