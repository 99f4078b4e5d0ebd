"""Trains the towers from snapshots.

Shapes: B users, H history length, T target length, K embedding width, I items, N sampled anchors, S sampled targets,
U distinct items of a batch, P history positions that are followed by an item.
"""

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.baselines.popularity import count_items, trained_items
from models.contract.event_types import check_weights, weights_by_code
from models.contract.failures import BadInput
from models.contract.snapshot import Snapshot
from models.contract.training_specs import TowersSpec
from models.contract.whole_files import require_folder
from models.data.content import ContentMatrix
from models.data.stream import read_column
from models.evaluation.validation import Validation
from models.saved import load_towers, save_towers
from models.towers.losses import Candidates, all_action_info_nce, next_item_info_nce, sample_positions
from models.towers.repeats import Held, HeldCandidates, held_items, history_logits, is_held, once
from models.towers.space import ScoringTowers, require_known_types, require_same_width, turn_into
from models.towers.towers import Towers, distinct
from models.training.distributed import Ranks, gathered, global_mean
from models.training.snapshot_training import SnapshotBatches, train_from_snapshots
from models.training.trainer import Batch, Metrics, TrainResult

COLUMNS = ["user_id", "hist_items", "hist_len", "tar_items", "tar_len"]


class TowersTask(SnapshotBatches[TowersSpec]):
    """Trains with InfoNCE on histories and targets; validated by retrieval of the next window's items."""

    def __init__(
        self, spec: TowersSpec, train: Snapshot, val: Snapshot, content: ContentMatrix, ranks: Ranks | None = None
    ) -> None:
        if val.event_types != train.event_types:
            named = (", ".join(each.event_types) or "none" for each in (train, val))
            raise BadInput("the training snapshot has the event types {}, the validation's {}".format(*named))
        types = train.event_types if spec.towers.event_types else ()
        weights = spec.loss.event_type_weights
        check_weights(weights, train.event_types, train.event_types)
        columns = [*(["hist_types"] if types or weights else []), *(["tar_types"] if weights else [])]
        super().__init__(spec, train, [*COLUMNS, *columns], ranks or Ranks())
        self.content = content
        self.validation = Validation(val, content.rows, spec.validation, ("hist_types",) if train.event_types else ())
        self.metric = self.validation.metric
        self.keeps_untrained = spec.towers.content_residual  # untrained towers with it rank by content
        self.model = Towers(spec.towers, content.dim, content.rows, types)
        self.weight_by_code = torch.from_numpy(weights_by_code(weights, train.event_types)) if weights else None
        if spec.earlier:
            earlier = load_towers(spec.earlier.towers)
            require_same_width(self.model, earlier)
            require_known_types(earlier, train.event_types)
        self.log_q_I = log_target_popularity(train, content.rows) if spec.loss.log_q else None
        if spec.loss.negatives != "in_batch":  # negatives are drawn from the items of the training rows
            self.catalogue = torch.from_numpy(trained_items(train, content.rows))

    def loss(self, batch: Batch) -> Tensor:
        input_UC = self.model.inputs(batch["content"], batch["items"])
        loss = self._next_item if self.spec.loss.pairs == "next_item" else self._all_action
        return loss(batch, input_UC)

    def _all_action(self, batch: Batch, input_UC: Tensor) -> Tensor:
        user_BNK = self.model.users(
            input_UC, batch["hist"], batch["hist_len"], batch["anchors"], batch.get("hist_types")
        )
        target_BSK = self.model.items(input_UC, batch["tar"], batch["tar_len"], batch["targets"])
        item_BS = batch["tar_items"].gather(1, batch["targets"])
        bias_BS = self.model.bias(item_BS)
        if self.log_q_I is not None:
            bias_BS = bias_BS - self.log_q_I.to(bias_BS.device)[item_BS]
        if self.spec.loss.negatives == "in_batch":
            candidates = self._batch_candidates(batch, target_BSK, item_BS, bias_BS)
        else:
            candidates = self._drawn_candidates(batch)
        held = None
        if self.model.repeat_bias is not None:
            held = HeldCandidates(once(batch["items"][batch["hist"]]), self.model.repeat_bias)
            bias_BS = bias_BS + held.bias * is_held(held.item_BH, item_BS)
        loss = all_action_info_nce(
            user_BNK,
            target_BSK,
            batch["is_anchor"],
            batch["is_target"],
            self.model.scale,
            candidates,
            batch["user_id"],
            bias_BS,
            self._own_items(batch, item_BS),
            held=held,
            weight_BT=batch.get("weight"),
        )
        target_B = (batch["is_target"] * batch["weight"] if "weight" in batch else batch["is_target"]).sum(1)
        return global_mean(loss, (batch["is_anchor"].sum(1) * target_B).sum())

    def _next_item(self, batch: Batch, input_UC: Tensor) -> Tensor:
        """The loss of next-item pairs: each position is a row of its own, with one anchor and one target."""
        position_BH = torch.arange(batch["hist"].shape[1], device=batch["hist"].device).expand_as(batch["hist"])
        is_trained_BH = batch["is_followed"]
        user_BHK = self.model.users(input_UC, batch["hist"], batch["hist_len"], position_BH, batch.get("hist_types"))
        row_P = batch["follower"][is_trained_BH]
        item_P, item_UK = batch["items"][row_P], self.model.items_alone(input_UC)
        candidates, bias_P = self._drawn_candidates(batch), self.model.bias(item_P)
        held = None
        if self.model.repeat_bias is not None:
            held_BHH, logit_BHH = self._held(batch, user_BHK, F.embedding(batch["hist"], item_UK))
            held = Held(held_BHH[is_trained_BH], logit_BHH[is_trained_BH], self.model.repeat_bias)
        anchor_PK, target_PK = user_BHK[is_trained_BH], F.embedding(row_P, item_UK)
        weight_P = batch["weight"][is_trained_BH] if "weight" in batch else None
        loss = next_item_info_nce(anchor_PK, target_PK, item_P, self.model.scale, candidates, bias_P, held, weight_P)
        return global_mean(loss, is_trained_BH.sum() if weight_P is None else weight_P.sum())

    def _held(self, batch: Batch, user_BHK: Tensor, item_BHK: Tensor) -> tuple[Tensor, Tensor]:
        """The items held at each position, and their logits there: [B, H, H] each, by place in the history."""
        hist_items_BH = batch["items"][batch["hist"]]
        logit_BHH = history_logits(self.model.scale * user_BHK, item_BHK) + self.model.bias(hist_items_BH)[:, None, :]
        return held_items(hist_items_BH), logit_BHH

    def _batch_candidates(self, batch: Batch, target_BSK: Tensor, item_BS: Tensor, bias_BS: Tensor) -> Candidates:
        width = self.spec.loss.num_targets if self.ranks.size > 1 else item_BS.shape[1]
        vector_GSK, is_target_GS, item_GS, bias_GS = (
            gathered(_widened(x, width)) for x in (target_BSK, batch["is_target"], item_BS, bias_BS)
        )
        merge = self.model.items_go_in_alone
        return Candidates.in_batch(vector_GSK, is_target_GS, gathered(batch["user_id"]), item_GS, bias_GS, merge)

    def _drawn_candidates(self, batch: Batch) -> Candidates:
        item_M = batch["candidates"]
        vector_MK = self.model.items_alone(self.model.inputs(batch["candidate_content"], item_M))
        weight = len(self.catalogue) / len(item_M)  # the sample stands for the whole catalogue
        return Candidates(vector_MK, self.model.bias(item_M) + math.log(weight), item_M)

    def _own_items(self, batch: Batch, item_BS: Tensor) -> Tensor | None:
        if self.spec.loss.negatives != "in_batch":
            return batch["tar_items"]  # all of them, sampled or not; padding is item 0, never a candidate
        if self.spec.loss.mask_false_negatives:
            return item_BS.masked_fill(~batch["is_target"], -1)
        return None

    def evaluate(self) -> dict[str, float]:
        rows = self.validation.rows
        user_BK = self.model.embed_users(
            rows["hist_items"], rows["hist_len"], self.content, hist_types_BH=rows.get("hist_types")
        )
        item_IK = self.model.embed_items(np.arange(self.content.rows), self.content)
        repeat_bias = self.model.repeat_bias
        return self.validation.figures(user_BK, item_IK, None if repeat_bias is None else repeat_bias.item())

    def save(self, path: Path, state: dict[str, Tensor]) -> None:
        save_towers(path, self.model, state)

    def save_last(self, path: Path, state: dict[str, Tensor]) -> Metrics:
        earlier = self.spec.earlier
        if earlier is None:
            return {}
        self.model.load_state_dict(state)
        before = ScoringTowers(load_towers(earlier.towers), ContentMatrix(earlier.content_matrix))
        rows = self.validation.rows
        items = [np.unique(rows[name]) for name in ("hist_items", "tar_items")]
        known_I = np.setdiff1d(np.union1d(*items), [0]).astype(np.int64)
        new = ScoringTowers(self.model, self.content)
        histories = (rows["hist_items"], rows["hist_len"], rows.get("hist_types"))
        found = turn_into(new, before, known_I, *histories, self.train_snapshot.event_types)
        save_towers(path, self.model)
        return {"release": earlier.release, "id": earlier.space, **found}

    def _prepare(self, batch: Batch) -> Batch:
        """Cuts the padding that all rows share, pairs histories with targets, and reads the content vectors."""
        hist_len_B, tar_len_B = batch["hist_len"].long(), batch["tar_len"].long()
        hist_items_BH = batch["hist_items"][:, : int(hist_len_B.max().clamp(min=1))]
        tar_items_BT = batch["tar_items"][:, : int(tar_len_B.max().clamp(min=1))].long()
        content_UC, hist_BH, tar_BT = self.content.unique(hist_items_BH, tar_items_BT)
        prepared = {
            "content": content_UC,
            "items": distinct(len(content_UC), (hist_BH, hist_items_BH), (tar_BT, tar_items_BT)),
            "hist": hist_BH,
            "hist_len": hist_len_B,
        }
        if self.spec.loss.pairs == "next_item":
            prepared |= _followers(hist_BH, hist_len_B, tar_BT, tar_len_B)
        else:
            prepared |= self._sampled_pairs(hist_BH.shape[1], hist_len_B, tar_BT.shape[1], tar_len_B)
            prepared |= {"tar": tar_BT, "tar_len": tar_len_B, "tar_items": tar_items_BT, "user_id": batch["user_id"]}
        if self.model.event_types:
            prepared["hist_types"] = batch["hist_types"][:, : hist_BH.shape[1]].long()
        if self.weight_by_code is not None:
            prepared["weight"] = self.weight_by_code[self._target_types(batch, prepared)]
        if self.spec.loss.negatives != "in_batch":
            prepared["candidates"] = item_M = self._drawn_items()
            prepared["candidate_content"] = self.content.gather(item_M)
        return prepared

    def _sampled_pairs(self, longest_hist: int, hist_len_B: Tensor, longest_tar: int, tar_len_B: Tensor) -> Batch:
        config = self.spec.loss
        anchor_BN, is_anchor_BN = sample_positions(hist_len_B, longest_hist, config.num_anchors, config, self.generator)
        target_BS, is_target_BS = sample_positions(tar_len_B, longest_tar, config.num_targets, config, self.generator)
        return {"anchors": anchor_BN, "is_anchor": is_anchor_BN, "targets": target_BS, "is_target": is_target_BS}

    def _target_types(self, batch: Batch, prepared: Batch) -> Tensor:
        """Type codes of the predicted events: the sampled targets [B, S], or the next event of each position [B, H]."""
        tar_BT = batch["tar_types"].long()
        if self.spec.loss.pairs == "all_action":
            return tar_BT.gather(1, prepared["targets"])
        return _following(batch["hist_types"][:, : prepared["hist"].shape[1]].long(), prepared["hist_len"], tar_BT)

    def _drawn_items(self) -> Tensor:
        if self.spec.loss.negatives == "full_softmax":
            return self.catalogue
        drawn = torch.randperm(len(self.catalogue), generator=self.generator)[: self.spec.loss.num_sampled]
        return self.catalogue[drawn]


def run(spec: TowersSpec) -> TrainResult:
    """Train towers as the spec says; raises as `Trainer.run`, and BadInput."""
    content = ContentMatrix(require_folder(spec.content_matrix, "content_matrix"))
    return train_from_snapshots(spec, partial(TowersTask, spec, content=content))


def log_target_popularity(snapshot: Snapshot, num_rows: int) -> Tensor:
    """Log of every item's share of all targets, with one added to each count: float32 [I]."""
    count_I = count_items(read_column(snapshot, "tar_items"), num_rows)
    return torch.from_numpy(np.log((count_I + 1) / (count_I + 1).sum())).float()


def _followers(hist_BH: Tensor, hist_len_B: Tensor, tar_BT: Tensor, tar_len_B: Tensor) -> Batch:
    """The next item of each history position, as a row of the batch's distinct items, and whether there is one."""
    position_H = torch.arange(hist_BH.shape[1])
    is_last_BH = position_H == hist_len_B[:, None] - 1
    return {
        "follower": _following(hist_BH, hist_len_B, tar_BT),
        "is_followed": (position_H < hist_len_B[:, None]) & ~(is_last_BH & (tar_len_B == 0)[:, None]),
    }


def _following(hist_BH: Tensor, hist_len_B: Tensor, tar_BT: Tensor) -> Tensor:
    """For each history position the value at the next one; for the history's last, that of the first target: [B, H]."""
    is_last_BH = torch.arange(hist_BH.shape[1]) == hist_len_B[:, None] - 1
    return torch.where(is_last_BH, tar_BT[:, :1], F.pad(hist_BH[:, 1:], [0, 1]))


def _widened(x_BS: Tensor, width: int) -> Tensor:
    """Pads the second dimension with zeros up to `width`, because ranks exchange tensors of one shape."""
    return F.pad(x_BS, [0, 0] * (x_BS.ndim - 2) + [0, width - x_BS.shape[1]])
