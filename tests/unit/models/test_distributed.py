"""Two real gloo ranks, started by torchrun, against one process with a doubled batch."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from models.contract.snapshot import open_snapshot
from models.data.content import ContentMatrix
from models.training.distributed import Ranks
from models.training.train_towers import TowersSpec, TowersTask
from models.training.trainer import Trainer
from tests.builders.commands import wait_for_lines
from tests.builders.tensors import random_vectors, sequences_table, write_matrix, write_snapshot

pytestmark = pytest.mark.process

NUM_ITEMS, STEPS, BATCH = 60, 20, 10
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]


@pytest.fixture(scope="module", params=["shared_causal", pytest.param("mlp", marks=pytest.mark.long)])
def spec(request, tmp_path_factory):
    """An epoch of 20 steps of 2 x 10 rows, plus three rows; both ranks have rows of the same users, items, row groups.

    With `shared_causal`, an item's vector depends on its place; with `mlp`, equal items of a batch are merged.
    """
    folder = tmp_path_factory.mktemp("ranks")
    write_snapshot(folder / "train", sequences_table(2 * BATCH * STEPS + 3, NUM_ITEMS), files=5)
    write_snapshot(folder / "val", sequences_table(60, NUM_ITEMS, seed=1))
    write_matrix(folder / "matrix", random_vectors(NUM_ITEMS))
    sizes = {"d_model": 16, "heads": 2, "layers": 1, "embedding_dim": 8, "max_len": 6}
    train = {"batch_size": BATCH, "epochs": 1, "learning_rate": 0.02, "seed": 1}
    return {
        "train_snapshot": str(folder / "train"),
        "val_snapshot": str(folder / "val"),
        "content_matrix": str(folder / "matrix"),
        "out_dir": str(folder / "two"),
        "towers": {**sizes, "dropout": 0.0, "temperature": 0.5, "item_tower": request.param},
        "loss": {"num_anchors": 6, "num_targets": 4, "mask_false_negatives": True, "log_q": True},
        "train": {**train, "run": {"log_every": 1, "threads": 1, "checkpoint_steps": 3}},
        "stream": {"reader": "arrow", "shuffle_rows": 32},
        "validation": {"k": 20, "popularity_prior": 0.0},
    }


def torchrun(tmp_path, spec):
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    command = [*TORCHRUN, "--nproc-per-node", "2", "-m", "models", "train-towers", "--spec", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class DoubledTask(TowersTask):
    """Trains in one process on the rows of two ranks, with both ranks' batches as one."""

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


@pytest.fixture(scope="module")
def two(tmp_path_factory, spec):
    """The folder of a model that two ranks have trained."""
    ranks = torchrun(tmp_path_factory.mktemp("two"), spec)
    said = ranks.communicate(timeout=400)[0]
    assert ranks.returncode == 0, said
    return Path(spec["out_dir"])


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def result(folder):
    return json.loads((folder / "result.json").read_text())


def test_two_ranks_equal_one_process_with_the_doubled_batch(tmp_path, spec, two):
    alone = TowersSpec.model_validate(spec | {"out_dir": tmp_path / "one"})
    torch.manual_seed(alone.train.seed)
    snapshots = [open_snapshot(folder) for folder in (alone.train_snapshot, alone.val_snapshot)]
    task = DoubledTask(alone, *snapshots, ContentMatrix(alone.content_matrix))
    Trainer(task, alone.train, alone.out_dir, "one").run()
    assert len(losses(two)) == STEPS
    assert losses(two) == pytest.approx(losses(alone.out_dir), rel=1e-6)
    assert result(two)["samples"] == result(alone.out_dir)["samples"] == 2 * BATCH * STEPS
    assert result(two)["best_step"] == result(alone.out_dir)["best_step"] == STEPS, "the last weights are compared"
    found, expected = weights(two), weights(alone.out_dir)
    for name, value in found.items():
        # Adam magnifies the rounding of gradients near zero: allowed is a hundredth of one of the twenty steps.
        torch.testing.assert_close(value, expected[name], atol=0.01 * alone.train.learning_rate, rtol=0)


def weights(folder):
    """The weights without the keys' bias, which shifts all scores of a row equally: its gradient is only rounding."""
    found = load_file(folder / "model.safetensors")
    for name in [name for name in found if name.endswith("qkv.bias")]:
        query, _, value = found[name].chunk(3)
        found[name] = torch.cat([query, value])
    return found


def started(tmp_path, spec, steps):
    """A job of two ranks that has done `steps` steps, and the ranks' processes."""
    job = torchrun(tmp_path, spec)
    wait_for_lines(job, Path(spec["out_dir"]) / "metrics.jsonl", steps)
    ranks = [child for child in psutil.Process(job.pid).children(recursive=True) if "train-towers" in child.cmdline()]
    assert len(ranks) == 2
    return job, ranks


@pytest.mark.parametrize("spec", ["shared_causal"], indirect=True)
@pytest.mark.long
def test_ranks_that_are_killed_go_on_with_the_curve_of_those_that_were_not(tmp_path, spec, two):
    spec = spec | {"out_dir": str(tmp_path / "killed")}
    job, ranks = started(tmp_path, spec, steps=8)
    for process in (job, *ranks):
        process.kill()
    job.communicate(timeout=300)
    assert not (tmp_path / "killed" / "result.json").exists()
    again = torchrun(tmp_path, spec)
    said = again.communicate(timeout=400)[0]
    assert again.returncode == 0, said
    assert losses(tmp_path / "killed") == losses(two)
    assert result(tmp_path / "killed")["best"] == result(two)["best"]


@pytest.mark.parametrize("spec", ["shared_causal"], indirect=True)
@pytest.mark.parametrize(
    ("how", "says"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSTOP, "Timed out")], ids=["killed", "hanging"]
)
@pytest.mark.long
def test_a_rank_that_is_lost_ends_the_job(tmp_path, spec, how, says):
    run = spec["train"]["run"] | {"rank_timeout": 10}
    train = spec["train"] | {"epochs": 100_000, "patience": 100_000, "run": run}
    job, ranks = started(tmp_path, spec | {"out_dir": str(tmp_path / "lost"), "train": train}, steps=10)
    os.kill(ranks[1].pid, how)
    said = job.communicate(timeout=400)[0]
    assert job.returncode != 0 and says in said, said[-3000:]
    assert not any(rank.is_running() for rank in ranks)
    assert not (tmp_path / "lost" / "result.json").exists()
