"""Trains a language model's adapters on prompts that end with the next item's text.

Shapes: B rows, L tokens.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.baselines.prompt_ranker import PromptRanker
from models.contract.evaluation_specs import SampledConfig
from models.contract.failures import BadInput
from models.contract.snapshot import Snapshot
from models.contract.training_specs import PromptSpec
from models.contract.whole_files import require_folder
from models.data.content import ContentMatrix
from models.data.item_texts import ItemTexts
from models.data.stream import read_column
from models.encoder.tokens import padded
from models.metrics.sampled_candidates import SampledCandidates
from models.saved import PROMPTS, save_language
from models.training.distributed import Ranks, global_mean
from models.training.snapshot_training import SnapshotBatches, train_from_snapshots
from models.training.trainer import Batch, TrainResult

COLUMNS = ["hist_items", "hist_len", "tar_items", "tar_len"]


class PromptTask(SnapshotBatches[PromptSpec]):
    """Trains on each row's history as a prompt and one of its targets as answer; validated on sampled candidates."""

    metric = "mrr"
    keeps_untrained = True  # the untrained language model may be the best

    def __init__(self, spec: PromptSpec, train: Snapshot, val: Snapshot, num_items: int, ranks: Ranks) -> None:
        super().__init__(spec, train, COLUMNS, ranks)
        self.model = PromptRanker(spec.model, ItemTexts(spec.item_texts), num_items)
        self.val = {name: read_column(val, name) for name in COLUMNS}
        config = SampledConfig(rows=spec.model.validation_rows, candidates=spec.model.candidates, seed=spec.train.seed)
        self.sampled = SampledCandidates(self.val, np.arange(1, num_items), config)
        if not len(self.sampled.row_S):
            raise BadInput(f"val_snapshot: no row of {val.path} has both a history and a target")

    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch, at most as many as `train_rows` fill."""
        most = max(1, self.spec.model.train_rows // (self.spec.train.batch_size * self.ranks.size))
        return min(super().steps_per_epoch(), most)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Batch, int]]:
        """See `Task.batches`."""
        return islice(super().batches(epoch, start), self.steps_per_epoch() - start)

    def loss(self, batch: Batch) -> Tensor:
        """See `Task.loss`."""
        loss = self.model(batch["ids"], batch["first"], batch["length"])
        return global_mean(loss, (batch["length"] - batch["first"]).sum())

    def evaluate(self) -> dict[str, float]:
        """See `Task.evaluate`."""
        scores, _ = self.model.sampled_scores(self.val, self.sampled)
        return self.sampled.figures(scores)

    def save(self, path: Path, state: dict[str, Tensor]) -> None:
        """See `Task.save`."""
        save_language(path, PROMPTS, self.model, state)

    def _prepare(self, batch: Batch) -> Batch:
        """Prompts, each followed by one of the row's targets, drawn uniformly."""
        tar_len_B = batch["tar_len"].clamp(min=1)
        place_B = (torch.rand(len(tar_len_B), generator=self.generator) * tar_len_B).long()
        item_B = batch["tar_items"].gather(1, place_B[:, None])[:, 0].tolist()
        histories = zip(batch["hist_items"].numpy(), batch["hist_len"].tolist(), strict=True)
        prompts = [self.model.prompt(hist_H, hist_len) for hist_H, hist_len in histories]
        answers = [self.model.answer(item) for item in item_B]
        whole = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
        ids_BL, length_B = padded(whole, self.model.language.tokenizer.pad_id)
        return {"ids": ids_BL, "first": torch.tensor(list(map(len, prompts))), "length": length_B}


def run(spec: PromptSpec) -> TrainResult:
    """Train as the spec says; raises as `Trainer.run`, and BadInput."""
    num_items = ContentMatrix(require_folder(spec.content_matrix, "content_matrix")).rows
    return train_from_snapshots(spec, partial(PromptTask, spec, num_items=num_items))
