"""Training of the conversion model out of snapshots. Shapes: B pairs, K embedding width, L labels: conversion first.

What the probability is of, depends on the samples.

Observed labels: of a conversion after an exposure, at the rate at which exposures convert.

Sampled labels: a purchase line of user u is one of item i with probability P(i|u), and draws k negatives from all
lines of the window, in which i has the share q_i; draws of what u bought in the window are dropped, which leaves a
share r of them (u bought i nowhere in it). A line so gives the pair P(i|u) times as a positive and k q_i r times as a
negative, and cross-entropy is least at the logit

    f(u, i) = log(P(i|u) / r) - log(k q_i):

the lift over popularity, at a base rate that k sets. With `log_q` the loss is taken at f - log(k q_i) instead, which
leaves f(u, i) = log(P(i|u) / r): the odds of item i on a line of u against all items that u does not buy in the window,
which for what is bought seldom (r near 1, P small) is P(i|u) itself, and above it for what u is sure to buy. Where
validated, a negative draw is weighed by 1 / (k q_i), so that one expected draw stands for its item: every figure is
then of lines against the whole catalogue, and so is the base rate, about one by the number of items. (The correction
is that of sampled softmax: Bengio & Senécal 2008; the towers' is `towers.loss.log_q`.)

Other labels of the same pairs (a click, a cart) are learned beside the conversion, as outputs of the same middle layer.
The loss is the conversion's cross-entropy plus that of each other label times its weight. The best state is chosen by
the conversion's AUC alone.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from models.contract.failures import BadInput
from models.contract.snapshot import Snapshot, open_snapshot
from models.contract.training_specs import CVRSpec
from models.contract.whole_files import require_folder
from models.data.stream import read_column
from models.metrics.auc import calibration, uauc
from models.saved import load_cvr, save_cvr
from models.towers.cvr import CVRModel
from models.towers.space import mapped_into
from models.training.distributed import Ranks, global_mean
from models.training.snapshot_training import SnapshotBatches, train_from_snapshots
from models.training.trainer import Batch, Metrics, TrainResult

COLUMNS = ["user_emb", "item_emb", "label", "weight"]
LOG_Q = "log_q"
OTHER_LABELS = "other_labels"


class CVRTask(SnapshotBatches[CVRSpec]):
    """Weighted cross-entropy; validated by AUC, also within users, log loss and calibration."""

    metric = "auc"

    def __init__(self, spec: CVRSpec, train: Snapshot, val: Snapshot, ranks: Ranks) -> None:
        more = [name for name, is_read in ((LOG_Q, spec.log_q), (OTHER_LABELS, bool(spec.other_labels))) if is_read]
        super().__init__(spec, train, [*COLUMNS, *more], ranks)
        self.val = {name: read_column(val, name) for name in [*self.columns, "user_id"]}
        if set(np.unique(self.val["label"])) != {0, 1}:
            raise BadInput(f"val_snapshot: {val.path} must hold labels 0 and 1, both")
        if spec.other_labels and (found := self.val[OTHER_LABELS].shape[1]) != len(spec.other_labels):
            raise BadInput(f"val_snapshot: {val.path} has {found} other labels, the spec {len(spec.other_labels)}")
        self.label_weights = torch.tensor([1.0, *spec.other_labels.values()])
        widths = (self.val["user_emb"].shape[1], self.val["item_emb"].shape[1])
        self.model = CVRModel(spec.cvr, *widths, other_labels=tuple(spec.other_labels))

    def loss(self, batch: Batch) -> Tensor:
        _, logit_BL = self.model(batch["user_emb"], batch["item_emb"])
        if self.spec.log_q:
            logit_BL = logit_BL - batch[LOG_Q][:, None]
        others = [batch[OTHER_LABELS]] if self.spec.other_labels else []
        label_BL = torch.cat([batch["label"][:, None], *others], dim=1)
        loss_BL = F.binary_cross_entropy_with_logits(logit_BL, label_BL, reduction="none")
        loss_B = loss_BL @ self.label_weights.to(loss_BL)
        weight = batch["weight"].sum()
        return global_mean((loss_B * batch["weight"]).sum() / weight, weight)

    def evaluate(self) -> Metrics:
        """The conversion's figures, and those of each other label with its name behind: auc and auc.cart."""
        _, probability_BL = self.model.score_labels(self.val["user_emb"], self.val["item_emb"])
        label_B, weight_B = self.val["label"], self.val["weight"].astype(np.float64)
        if self.spec.log_q:
            weight_B = np.where(label_B == 1, weight_B, weight_B * np.exp(-self.val[LOG_Q].astype(np.float64)))
        metrics = self._figures(label_B, probability_BL[:, 0], weight_B)
        for label, name in enumerate(self.spec.other_labels):
            figures = self._figures(self.val[OTHER_LABELS][:, label], probability_BL[:, 1 + label], weight_B)
            metrics |= {f"{figure}.{name}": value for figure, value in figures.items()}
        return metrics

    def _figures(self, label_B: np.ndarray, probability_B: np.ndarray, weight_B: np.ndarray) -> Metrics:
        """How well a label is foreseen; None for what needs both a 0 and a 1."""
        has_both = len(np.unique(label_B)) == 2
        within_users = uauc(label_B, probability_B, self.val["user_id"], weight_B)
        deciles, error = calibration(label_B, probability_B, weight_B)
        loss = log_loss(label_B, probability_B.astype(np.float64), sample_weight=weight_B, labels=[0, 1])
        return {
            "auc": float(roc_auc_score(label_B, probability_B, sample_weight=weight_B)) if has_both else None,
            "uauc": within_users if np.isfinite(within_users) else None,
            "log_loss": float(loss),
            "calibration_error": error,
            "calibration": deciles,
        }

    def save(self, path: Path, state: dict[str, Tensor]) -> None:
        save_cvr(path, self.model, state)

    def save_last(self, path: Path, state: dict[str, Tensor]) -> Metrics:
        earlier = self.spec.earlier
        if earlier is None:
            return {}
        self.model.load_state_dict(state)
        pairs = open_snapshot(require_folder(earlier.pairs, "earlier.pairs"), self.spec.stream.run.verify_sha256)
        mid_PD, _ = self.model.score(read_column(pairs, "user_emb"), read_column(pairs, "item_emb"))
        both = read_column(pairs, "earlier_user_emb"), read_column(pairs, "earlier_item_emb")
        earlier_PE, _ = load_cvr(earlier.cvr).score(*both)
        mapped, found = mapped_into(self.model, mid_PD, earlier_PE)
        save_cvr(path, mapped)
        return {"release": earlier.release, "id": earlier.space, **found}

    def _prepare(self, batch: Batch) -> Batch:
        return {name: value.float() for name, value in batch.items()}


def run(spec: CVRSpec) -> TrainResult:
    """Train the conversion model as the spec says; errors as of `Trainer.run`, BadInput."""
    return train_from_snapshots(spec, partial(CVRTask, spec))
