"""Two real ranks of a training on prompts, started by torchrun, against one process with both ranks' rows."""

import json
import subprocess
import sys

import pytest
import torch

from models.contract.snapshot import open_snapshot
from models.contract.training_specs import PromptSpec
from models.training.distributed import Ranks
from models.training.snapshot_training import SnapshotBatches
from models.training.train_prompts import PromptTask
from models.training.trainer import Trainer
from tests.builders.encoders import save_tiny_llama
from tests.builders.tensors import random_vectors, sequences_table, write_matrix, write_snapshot
from tests.builders.texts import write_texts

ITEMS, STEPS, BATCH = 30, 6, 4
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]


class DoubledTask(PromptTask):
    """Trains in one process on the rows of two ranks, with both ranks' prompts as one batch."""

    def steps_per_epoch(self):
        return STEPS

    def batches(self, epoch, start):
        prepared = []
        for rank in range(2):  # one rank after the other, because they share the task's generator
            self.ranks = Ranks(rank, 2)
            prepared.append([batch for batch, _ in SnapshotBatches.batches(self, epoch, start)])
        self.ranks = Ranks()
        for both in list(zip(*prepared, strict=True))[:STEPS]:
            width = max(batch["ids"].shape[1] for batch in both)
            wide = [torch.nn.functional.pad(batch["ids"], [0, width - batch["ids"].shape[1]]) for batch in both]
            lengths = {name: torch.cat([batch[name] for batch in both]) for name in ("first", "length")}
            yield {"ids": torch.cat(wide), **lengths}, 2 * BATCH


@pytest.fixture
def spec(tmp_path):
    """A training on texts of two and of three words, so that the ranks' answers have different numbers of tokens."""
    write_snapshot(tmp_path / "train", sequences_table(2 * BATCH * STEPS + 3, ITEMS), files=5)
    write_snapshot(tmp_path / "val", sequences_table(20, ITEMS, seed=1))
    llm = {"model": str(save_tiny_llama(tmp_path / "llama")), "lora": {"rank": 2, "dropout": 0.0}}
    return PromptSpec(
        train_snapshot=tmp_path / "train",
        val_snapshot=tmp_path / "val",
        content_matrix=write_matrix(tmp_path / "matrix", random_vectors(ITEMS)),
        item_texts=write_texts(tmp_path / "texts", ITEMS),
        model={
            "llm": llm,
            "heading": "red",
            "question": "blue",
            "history": 2,
            "max_tokens": 8,
            "validation_rows": 5,
            "candidates": 4,
        },
        train={
            "batch_size": BATCH,
            "epochs": 1,
            "learning_rate": 0.02,
            "seed": 1,
            "run": {"log_every": 1, "threads": 1},
        },
        stream={"reader": "arrow", "shuffle_rows": 32},
        out_dir=tmp_path / "two",
    )


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.long
@pytest.mark.process
def test_two_ranks_equal_one_process_with_both_ranks_rows(tmp_path, spec):
    file = tmp_path / "spec.json"
    file.write_text(spec.model_dump_json())
    command = [*TORCHRUN, "--nproc-per-node", "2", "-m", "models", spec.command, "--spec", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = spec.into(tmp_path / "one")
    torch.manual_seed(alone.train.seed)
    snapshots = [open_snapshot(folder) for folder in (alone.train_snapshot, alone.val_snapshot)]
    Trainer(DoubledTask(alone, *snapshots, ITEMS + 1, Ranks()), alone.train, alone.out_dir, "one").run()
    assert len(losses(spec.out_dir)) == STEPS
    assert losses(spec.out_dir) == pytest.approx(losses(alone.out_dir), rel=1e-5)
    two, one = (json.loads((folder / "result.json").read_text()) for folder in (spec.out_dir, alone.out_dir))
    assert two["samples"] == one["samples"] == 2 * BATCH * STEPS
