"""Trains the sequential baselines from snapshots.

Shapes: B rows, H history length, T target length, J = H + T joined length, L input length, N packed positions,
P trained positions, D model width, M candidates, I items, S items drawn per position, C = 1 + S.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.baselines.popularity import trained_items
from models.contract.snapshot import Snapshot
from models.contract.training_specs import SequentialSpec
from models.contract.whole_files import require_folder
from models.data.content import ContentMatrix
from models.evaluation.validation import Validation
from models.layers.packing import Packing, last_places
from models.saved import SEQUENTIAL, save_sequential
from models.towers.losses import Candidates, next_item_info_nce
from models.towers.repeats import Held, held_items, history_logits, is_held
from models.training.distributed import Ranks, global_mean
from models.training.snapshot_training import SnapshotBatches, train_from_snapshots
from models.training.trainer import Batch, TrainResult

COLUMNS = ["hist_items", "hist_len", "tar_items", "tar_len"]
MAX_REDRAWS = 50


class SequentialTask(SnapshotBatches[SequentialSpec]):
    """Predicts the next item at every trained position; validated as the towers are."""

    def __init__(self, spec: SequentialSpec, train: Snapshot, val: Snapshot, num_items: int, ranks: Ranks) -> None:
        self.num_items, self.model = num_items, SEQUENTIAL[spec.model.kind](spec.model, num_items)
        times = ("hist_ts",) if self.model.needs_time else ()
        target_times = ("tar_ts",) if times and spec.model.positions == "all" else ()
        super().__init__(spec, train, [*COLUMNS, *times, *target_times], ranks)
        self.validation = Validation(val, num_items, spec.validation, times)
        self.metric = self.validation.metric
        self.catalogue = torch.from_numpy(trained_items(train, num_items))

    def loss(self, batch: Batch) -> Tensor:
        packing = Packing(batch["length"], self.model.device)
        label_N = packing.packed(batch["label"])
        is_trained_N = label_N > 0
        state_ND = self.model.states(batch["item"], batch.get("ts"), packing)
        state_PD, label_P = state_ND[is_trained_N], label_N[is_trained_N]
        held_PH = None
        if self.model.repeat_bias is not None:
            held_PH = packing.packed(held_items(batch["item"]))[is_trained_N]
        if self.spec.model.loss == "bce":
            loss = self._binary_loss(state_PD, label_P, packing.packed(batch["negative"])[is_trained_N])
        elif self.spec.model.loss == "sampled":
            loss = self._sampled_loss(state_PD, label_P, packing.packed(batch["drawn"])[is_trained_N], held_PH)
        else:
            held = None
            if held_PH is not None and self.model.repeat_bias is not None:
                logit_PH = self._history_logits(batch["item"], state_ND, packing)[is_trained_N]
                held = Held(held_PH, logit_PH, self.model.repeat_bias)
            loss = self._softmax_loss(state_PD, label_P, batch["candidates"], held)
        return global_mean(loss, is_trained_N.sum())

    def _binary_loss(self, state_PD: Tensor, label_P: Tensor, negative_P: Tensor) -> Tensor:
        """-log sigma(score of the label) - log(1 - sigma(score of the negative)), averaged over the positions."""
        positive_P, below_P = ((state_PD * self.model.items(item_P)).sum(1) for item_P in (label_P, negative_P))
        return (F.softplus(-positive_P) + F.softplus(below_P)).sum() / max(len(label_P), 1)

    def _history_logits(self, item_BL: Tensor, state_ND: Tensor, packing: Packing) -> Tensor:
        """Scores at every position of all input items of its row, in input order: [N, L]."""
        position_BL = torch.arange(item_BL.shape[1], device=item_BL.device).expand_as(item_BL)
        return packing.packed(history_logits(state_ND[packing.at(position_BL)], self.model.items(item_BL)))

    def _softmax_loss(self, state_PD: Tensor, label_P: Tensor, item_M: Tensor, held: Held | None) -> Tensor:
        """Softmax cross-entropy of the label against the candidates other than it. Each position counts as a row."""
        vector_MD = self.model.items(item_M)
        candidates = Candidates(vector_MD, vector_MD.new_zeros(len(item_M)), item_M)
        return next_item_info_nce(state_PD, self.model.items(label_P), label_P, 1.0, candidates, held=held)

    def _sampled_loss(self, state_PD: Tensor, label_P: Tensor, drawn_PS: Tensor, held_PH: Tensor | None) -> Tensor:
        """Softmax cross-entropy of the label against the items drawn for its position, except those equal to it.

        If scores of all items are fewer numbers than the drawn items' vectors, all scores are computed: one matrix
        product instead of gathered rows.
        """
        positive_P1 = (state_PD * self.model.items(label_P)).sum(1, keepdim=True)
        if self.num_items <= drawn_PS.shape[1] * state_PD.shape[1]:
            vector_ID = self.model.items(torch.arange(self.num_items, device=drawn_PS.device))
            score_PS = (state_PD @ vector_ID.T).gather(1, drawn_PS)
        else:
            score_PS = (self.model.items(drawn_PS) @ state_PD[:, :, None])[:, :, 0]
        score_PS = score_PS.masked_fill(drawn_PS == label_P[:, None], -torch.inf)
        score_PC = torch.cat([positive_P1, score_PS], dim=1)  # the label first
        if held_PH is not None and self.model.repeat_bias is not None:
            item_PC = torch.cat([label_P[:, None], drawn_PS], dim=1)
            score_PC = score_PC + self.model.repeat_bias * is_held(held_PH, item_PC)
        loss_P = score_PC.logsumexp(1) - score_PC[:, 0]
        return loss_P.sum() / max(len(label_P), 1)

    def evaluate(self) -> dict[str, float]:
        rows = self.validation.rows
        user_BK = self.model.embed_users(rows["hist_items"], rows["hist_len"], hist_ts_BH=rows.get("hist_ts"))
        item_IK, repeat_bias = self.model.embed_items(np.arange(self.num_items)), self.model.repeat_bias
        return self.validation.figures(user_BK, item_IK, None if repeat_bias is None else repeat_bias.item())

    def save(self, path: Path, state: dict[str, Tensor]) -> None:
        save_sequential(path, self.model, state)

    def _prepare(self, batch: Batch) -> Batch:
        """Inputs, their times if needed, the next item as label at each trained position, candidates or negatives."""
        config, rows = self.spec.model, {name: value.numpy() for name, value in batch.items()}
        item_BJ, length_B = _joined(rows, "items")
        if config.positions == "last":  # trains the first target only, in rows with a history
            length_B = np.where(rows["hist_len"] > 0, rows["hist_len"] + np.minimum(rows["tar_len"], 1), 0)
        kept_B, place_BL = last_places(np.maximum(length_B - 1, 0), config.max_len)
        is_input_BL = np.arange(place_BL.shape[1]) < kept_B[:, None]
        is_trained_BL = is_input_BL.copy()
        if config.positions == "last":
            is_trained_BL &= place_BL == (rows["hist_len"] - 1)[:, None]
        prepared = {
            "length": kept_B,
            "item": np.where(is_input_BL, np.take_along_axis(item_BJ, place_BL, 1), 0).astype(np.int64),
            "label": np.where(is_trained_BL, np.take_along_axis(item_BJ, place_BL + 1, 1), 0).astype(np.int64),
        }
        if self.model.needs_time:
            ts_BJ = _joined(rows, "ts")[0] if "tar_ts" in rows else rows["hist_ts"]
            prepared["ts"] = np.where(is_input_BL, np.take_along_axis(ts_BJ, place_BL, 1), 0)
        prepared = {name: torch.from_numpy(value) for name, value in prepared.items()}
        if config.loss == "bce":
            prepared["negative"] = self._negatives(prepared["label"], torch.from_numpy(item_BJ).long())
        elif config.loss == "sampled":
            shape = (*place_BL.shape, config.num_sampled)
            prepared["drawn"] = self.catalogue[torch.randint(len(self.catalogue), shape, generator=self.generator)]
        else:
            prepared["candidates"] = self.catalogue
        return prepared

    def _negatives(self, label_BL: Tensor, own_BJ: Tensor) -> Tensor:
        """For every label a uniformly drawn item of the catalogue that is not one of the row's items: int64 [B, L].

        A row that holds nearly the whole catalogue may still get one of its own items after MAX_REDRAWS draws.
        """
        drawn_BL, is_wrong_BL = torch.zeros_like(label_BL), label_BL > 0
        for _ in range(MAX_REDRAWS):
            row_W = is_wrong_BL.nonzero()[:, 0]
            if not len(row_W):
                break
            place_W = torch.randint(len(self.catalogue), row_W.shape, generator=self.generator)
            drawn_BL[is_wrong_BL] = self.catalogue[place_W]
            is_wrong_BL[is_wrong_BL.clone()] = (own_BJ[row_W] == self.catalogue[place_W][:, None]).any(1)
        return drawn_BL


def run(spec: SequentialSpec) -> TrainResult:
    """Train a sequential baseline as the spec says; raises as `Trainer.run`, and BadInput."""
    num_items = ContentMatrix(require_folder(spec.content_matrix, "content_matrix")).rows
    return train_from_snapshots(spec, partial(SequentialTask, spec, num_items=num_items))


def _joined(rows: dict[str, np.ndarray], what: str) -> tuple[np.ndarray, np.ndarray]:
    """History and targets of each row joined and right-padded, and their joint length: [B, H + T], [B]."""
    hist_BH, tar_BT, hist_len_B = rows[f"hist_{what}"], rows[f"tar_{what}"], rows["hist_len"]
    joined_BJ = np.concatenate([hist_BH, np.zeros_like(tar_BT)], axis=1)
    np.put_along_axis(joined_BJ, hist_len_B[:, None] + np.arange(tar_BT.shape[1]), tar_BT, 1)
    return joined_BJ, (hist_len_B + rows["tar_len"]).astype(np.int64)
