"""Training of the conversion model out of snapshots. Shapes: B pairs, K embedding width."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from models.checkpoint import save_cvr
from models.cvr import CVRModel
from models.distributed import Ranks, global_mean
from models.settings import CVRConfig, StreamConfig, TrainConfig
from models.snapshot import Snapshot
from models.spec import Settings
from models.stream import ArrowReader, epoch_reader, read_column
from models.trainer import Batch, TrainResult
from models.training import train_from_snapshots

COLUMNS = ["user_emb", "item_emb", "label", "weight"]


class CVRSpec(Settings):
    """The spec of `train-cvr`.

    Attributes:
        train_snapshot, val_snapshot: snapshot folders with the columns user_emb, item_emb (lists of floats),
            label (0 or 1), weight; validation samples are later than training samples.
        out_dir: gets model.safetensors, config.json, metrics.jsonl, result.json.
        cvr, train, stream: settings, all with defaults.
    """

    train_snapshot: Path
    val_snapshot: Path
    out_dir: Path
    cvr: CVRConfig = CVRConfig()
    train: TrainConfig = TrainConfig(batch_size=512)
    stream: StreamConfig = StreamConfig()


class CVRTask:
    """Weighted cross-entropy; validated by AUC and log loss."""

    metric = "auc"

    def __init__(self, spec: CVRSpec, train: Snapshot, val: Snapshot, ranks: Ranks) -> None:
        self.spec, self.train_snapshot, self.ranks = spec, train, ranks
        self.val = {name: read_column(val, name) for name in COLUMNS}
        if set(np.unique(self.val["label"])) != {0, 1}:
            raise ValueError(f"val_snapshot: {val.path} must hold labels 0 and 1, both")
        widths = (self.val["user_emb"].shape[1], self.val["item_emb"].shape[1])
        self.model = CVRModel(spec.cvr, *widths)

    def steps_per_epoch(self) -> int:
        return len(self._reader(epoch=0))

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Batch, int]]:
        for batch in self._reader(epoch).batches(start):
            yield {name: value.float() for name, value in batch.items()}, len(batch["label"])

    def loss(self, batch: Batch) -> Tensor:
        _, logit_B = self.model(batch["user_emb"], batch["item_emb"])
        loss_B = F.binary_cross_entropy_with_logits(logit_B, batch["label"], reduction="none")
        weight = batch["weight"].sum()
        return global_mean((loss_B * batch["weight"]).sum() / weight, weight)

    def evaluate(self) -> dict[str, float]:
        _, probability_B = self.model.score(self.val["user_emb"], self.val["item_emb"])
        label_B, weight_B = self.val["label"], self.val["weight"]
        return {
            "auc": float(roc_auc_score(label_B, probability_B, sample_weight=weight_B)),
            "log_loss": float(log_loss(label_B, probability_B.astype(np.float64), sample_weight=weight_B)),
        }

    def save(self, path: Path, state: dict[str, Tensor]) -> None:
        save_cvr(path, self.model, state)

    def _reader(self, epoch: int) -> ArrowReader:
        return epoch_reader(self.train_snapshot, COLUMNS, self.spec.train, self.spec.stream, self.ranks, epoch)


def run(spec: CVRSpec) -> TrainResult:
    """Train the conversion model as the spec says; errors as of `Trainer.run`, ValueError for bad input."""
    return train_from_snapshots(spec, partial(CVRTask, spec))
