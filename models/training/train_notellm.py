"""Trains a text encoder on pairs of co-occurring items.

Shapes: B pairs, L tokens, I items, T related items per item, N items that have a related one.
"""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.baselines.notellm import NoteLLM, pair_loss, related_items
from models.contract.failures import BadInput
from models.contract.snapshot import Snapshot
from models.contract.training_specs import NoteLLMSpec
from models.contract.whole_files import require_folder
from models.data.content import ContentMatrix
from models.data.item_texts import ItemTexts
from models.data.stream import read_column
from models.evaluation.validation import Validation
from models.saved import NOTELLM, save_language
from models.training.checkpoint import step_seed
from models.training.distributed import Ranks
from models.training.snapshot_training import train_from_snapshots
from models.training.trainer import Batch, TrainResult

COLUMNS = ("user_id", "hist_items", "tar_items")


class NoteLLMTask:
    """Trains on pairs of co-occurring items; validated as the towers are, with means over histories as user vectors."""

    keeps_untrained = True  # the untrained text encoder may be the best

    def __init__(
        self, spec: NoteLLMSpec, train: Snapshot, val: Snapshot, num_items: int, ranks: Ranks | None = None
    ) -> None:
        if ranks and ranks.size > 1:
            raise BadInput(f"{spec.command} runs in one process, {ranks.size} were started")
        self.spec = spec
        rows = (read_column(train, name) for name in COLUMNS)
        highest = math.inf if spec.model.max_score is None else spec.model.max_score
        self.related_IT = related_items(
            *rows, num_items=num_items, most=spec.model.related, scores=(spec.model.min_score, highest)
        )
        self.anchor_N = np.flatnonzero(self.related_IT[:, 0])
        if len(self.anchor_N) < 2:
            raise BadInput(f"train_snapshot: {train.path} holds no items that go together")
        self.batch_size = min(spec.train.batch_size, len(self.anchor_N))
        self.validation = Validation(val, num_items, spec.validation)
        self.metric = self.validation.metric
        self.model = NoteLLM(spec.model, ItemTexts(spec.item_texts), num_items)

    def steps_per_epoch(self) -> int:
        """Number of full batches of an epoch; leftover items are skipped."""
        return len(self.anchor_N) // self.batch_size

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Batch, int]]:
        """See `Task.batches`."""
        rng = np.random.default_rng(step_seed(self.spec.train.seed, epoch))
        anchor_N = rng.permutation(self.anchor_N)
        partner_N = self.related_IT[anchor_N, rng.integers(0, (self.related_IT[anchor_N] > 0).sum(1))]
        for number in range(start, self.steps_per_epoch()):
            rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
            item_2B = np.concatenate([anchor_N[rows], partner_N[rows]])
            ids_2BL, length_2B = self.model.tokens(item_2B)
            yield {"item": torch.from_numpy(item_2B), "ids": ids_2BL, "length": length_2B}, self.batch_size

    def loss(self, batch: Batch) -> Tensor:
        """See `Task.loss`."""
        return pair_loss(self.model(batch["ids"], batch["length"]), batch["item"], self.model.scale)

    def evaluate(self) -> dict[str, float]:
        """See `Task.evaluate`."""
        vectors_IK = self.model.vectors()
        rows = self.validation.rows
        user_BK = self.model.embed_users(rows["hist_items"], rows["hist_len"])
        return self.validation.figures(user_BK, vectors_IK)

    def save(self, path: Path, state: dict[str, Tensor]) -> None:
        """See `Task.save`."""
        save_language(path, NOTELLM, self.model, state)

    def save_last(self, path: Path, state: dict[str, Tensor]) -> dict[str, object]:
        """See `Task.save_last`. Does nothing, because the best state is already saved."""
        return {}


def run(spec: NoteLLMSpec) -> TrainResult:
    """Train as the spec says, in one process; raises as `Trainer.run`, and BadInput."""
    num_items = ContentMatrix(require_folder(spec.content_matrix, "content_matrix")).rows
    return train_from_snapshots(spec, partial(NoteLLMTask, spec, num_items=num_items))
