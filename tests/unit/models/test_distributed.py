"""Two real gloo ranks, started by torchrun, against one process with the doubled batch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from models.content import ContentMatrix
from models.distributed import Ranks
from models.snapshot import open_snapshot
from models.train_towers import TowersSpec, TowersTask
from models.trainer import Trainer
from tests.builders.tensors import random_vectors, sequences_table, write_matrix, write_snapshot

NUM_ITEMS, STEPS, BATCH = 60, 20, 10
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """20 steps of 2 x 10 rows an epoch, three rows too many; users, items and row groups are shared by both ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    write_snapshot(folder / "train", sequences_table(2 * BATCH * STEPS + 3, NUM_ITEMS), files=5)
    write_snapshot(folder / "val", sequences_table(60, NUM_ITEMS, seed=1))
    write_matrix(folder / "matrix", random_vectors(NUM_ITEMS))
    return {
        "train_snapshot": str(folder / "train"),
        "val_snapshot": str(folder / "val"),
        "content_matrix": str(folder / "matrix"),
        "out_dir": str(folder / "two"),
        "towers": {
            "d_model": 16,
            "heads": 2,
            "layers": 1,
            "out_dim": 8,
            "max_len": 6,
            "dropout": 0.0,
            "temperature": 0.5,
        },
        "loss": {"num_hist": 6, "num_targets": 4, "mask_false_negatives": True, "log_q": True},
        "train": {"batch_size": BATCH, "epochs": 1, "log_every": 1, "learning_rate": 0.005, "threads": 1},
        "stream": {"shuffle_rows": 32},
        "validation": {"k": 5},
    }


def torchrun(tmp_path, spec):
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    command = [*TORCHRUN, "--nproc-per-node", "2", "-m", "models", "train-towers", "--spec", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class DoubledTask(TowersTask):
    """Trains alone on what two ranks train on: both ranks' batches as one."""

    def steps_per_epoch(self):
        return STEPS

    def batches(self, epoch, start):
        readers = []
        for rank in range(2):
            self.ranks = Ranks(rank, 2)
            readers.append(self._reader(epoch).batches(start))
        self.ranks = Ranks()
        for first, second in zip(*readers, strict=True):
            both = {name: torch.cat([first[name], second[name]]) for name in first}
            yield self._prepare(both), 2 * BATCH


def test_two_ranks_equal_one_process_with_the_doubled_batch(tmp_path, spec):
    ranks = torchrun(tmp_path, spec)
    said = ranks.communicate(timeout=120)[0]
    assert ranks.returncode == 0, said
    alone = TowersSpec.model_validate(spec | {"out_dir": tmp_path / "one"})
    torch.manual_seed(alone.train.seed)
    snapshots = [open_snapshot(folder) for folder in (alone.train_snapshot, alone.val_snapshot)]
    task = DoubledTask(alone, *snapshots, ContentMatrix(alone.content_matrix))
    result = Trainer(task, alone.train, alone.out_dir, "one").run()
    folders = [Path(spec["out_dir"]), alone.out_dir]
    two, one = ((folder / "metrics.jsonl").read_text() for folder in folders)
    losses = [[line["loss"] for line in map(json.loads, text.splitlines()) if "loss" in line] for text in (two, one)]
    assert len(losses[0]) == STEPS
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    samples = json.loads((folders[0] / "result.json").read_text())["samples"]
    assert samples == result.samples == 2 * BATCH * STEPS
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("how", "says"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSTOP, "Timed out")], ids=["killed", "hanging"]
)
def test_a_rank_that_is_lost_ends_the_job(tmp_path, spec, how, says):
    train = spec["train"] | {"epochs": 100_000, "rank_timeout": 10}
    job = torchrun(tmp_path, spec | {"out_dir": str(tmp_path / "lost"), "train": train})
    metrics = tmp_path / "lost" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not metrics.is_file() or metrics.read_text().count("\n") < 10:
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    ranks = [child for child in psutil.Process(job.pid).children(recursive=True) if "train-towers" in child.cmdline()]
    assert len(ranks) == 2
    os.kill(ranks[1].pid, how)
    said = job.communicate(timeout=120)[0]
    assert job.returncode != 0 and says in said, said[-3000:]
    assert not any(rank.is_running() for rank in ranks)
    assert not (tmp_path / "lost" / "result.json").exists()
