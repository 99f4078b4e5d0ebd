"""Training processes that are really killed, and resume."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.training.checkpoint import (
    CHECKPOINT,
    Position,
    fingerprint_of,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from models.training.distributed import Ranks
from models.training.train_towers import TowersSpec
from tests.builders.commands import wait_for_lines
from tests.builders.tensors import random_vectors, sequences_table, write_matrix, write_snapshot

NUM_ITEMS = 60


@pytest.fixture
def spec(tmp_path):
    write_snapshot(tmp_path / "train", sequences_table(400, NUM_ITEMS))
    write_snapshot(tmp_path / "val", sequences_table(60, NUM_ITEMS, seed=1))
    write_matrix(tmp_path / "matrix", random_vectors(NUM_ITEMS))
    return {
        "train_snapshot": str(tmp_path / "train"),
        "val_snapshot": str(tmp_path / "val"),
        "content_matrix": str(tmp_path / "matrix"),
        "out_dir": str(tmp_path / "whole"),
        "towers": {"d_model": 16, "heads": 2, "layers": 1, "embedding_dim": 8, "max_len": 6, "dropout": 0.2},
        "loss": {"num_anchors": 3, "num_targets": 2},
        "train": {
            "batch_size": 8,
            "epochs": 8,
            "evaluate_every": 30,
            "patience": 100,
            "seed": 1,
            "run": {"log_every": 1, "threads": 1, "checkpoint_steps": 7},
        },
        "stream": {"shuffle_rows": 64},
        "validation": {"k": 5, "popularity_prior": 0.0},
    }


def start(tmp_path, spec, command="train-towers"):
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "models", command, "--spec", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def curve(folder):
    """The lines of metrics.jsonl without the figures that depend on the clock."""
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "samples_per_s", "data_wait")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def kill_after(process, folder, lines):
    """Kills the process by SIGKILL once metrics.jsonl has `lines` lines; returns how many it then has."""
    file = Path(folder, "metrics.jsonl")
    wait_for_lines(process, file, lines)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return file.read_text().count("\n")


@pytest.mark.process
@pytest.mark.long
@pytest.mark.parametrize("command", ["train-towers", "train-sequential"])
def test_a_training_killed_twice_has_the_curve_of_one_that_was_not(tmp_path, spec, command):
    if command == "train-sequential":
        del spec["towers"], spec["loss"]
        spec["model"] = {"d_model": 16, "heads": 2, "layers": 1, "dropout": 0.2, "loss": "bce"}
    whole = start(tmp_path, spec, command)
    assert whole.communicate()[0] == "" and whole.returncode == 0
    expected = curve(spec["out_dir"])
    assert [line["step"] for line in expected if "loss" in line] == list(range(1, 401))
    spec["out_dir"] = str(tmp_path / "killed")
    for lines in (30, 200):
        assert kill_after(start(tmp_path, spec, command), spec["out_dir"], lines) < len(expected)
    last = start(tmp_path, spec, command)
    said = last.communicate()[1]
    assert last.returncode == 0, said
    assert curve(spec["out_dir"]) == expected
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed")]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "killed" / CHECKPOINT).exists()


def test_a_checkpoint_belongs_to_what_is_learned_not_to_how_fast(tmp_path, spec):
    def fingerprint(run=(), **train):
        own = spec["train"] | train | {"run": spec["train"]["run"] | dict(run)}
        told = TowersSpec(**(spec | {"train": own, "stream": spec["stream"] | {"run": {"verify_sha256": not run}}}))
        return fingerprint_of(told, [told.train_snapshot, told.val_snapshot], Ranks())

    first = fingerprint()
    run = {"threads": 2, "checkpoint_steps": 3, "checkpoint_seconds": 9, "rank_timeout": 77, "log_every": 5}
    assert fingerprint(run) == first
    assert fingerprint(batch_size=4) != first
    meta = tmp_path / "matrix" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"encoder_id": "another"}))
    assert fingerprint() != first


@pytest.fixture
def optimizer():
    return torch.optim.AdamW(torch.nn.Linear(2, 2).parameters(), fused=True)


def step(optimizer):
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_a_checkpoint_comes_back_bit_for_bit_and_only_for_its_own_training(tmp_path, optimizer):
    assert load_checkpoint(tmp_path, "abc") is None
    step(optimizer)
    position = Position("abc", step=7, epoch=1, batches=2, best={"auc": 0.7}, log_bytes=99)
    state = {"weight": torch.randn(3), "tied": torch.ones(2).expand(4, 2)}
    save_checkpoint(tmp_path, position, state, {"weight": torch.zeros(3)}, optimizer)
    assert load_checkpoint(tmp_path, "other") is None
    found, tensors = load_checkpoint(tmp_path, "abc")
    assert found == position
    assert torch.equal(tensors["model"]["weight"], state["weight"]) and not tensors["best"]["weight"].any()
    fresh = torch.optim.AdamW(optimizer.param_groups[0]["params"], fused=True)
    restore_optimizer(fresh, tensors["optimizer"])
    for key, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(value, fresh.state_dict()["state"][key][name])


class Marker:
    """Creates a file when it is unpickled."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


@pytest.mark.parametrize("kind", ["pickle", "torch", "truncated", "other format", "weights", "position"])
def test_anything_else_is_refused(tmp_path, optimizer, kind):
    file, marker = tmp_path / CHECKPOINT, tmp_path / "marker"
    save_checkpoint(tmp_path, Position("abc", step=7), {"weight": torch.ones(9)}, {}, optimizer)
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Marker(marker)))
    elif kind == "torch":
        torch.save({"model": Marker(marker)}, file)
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:-5])
    elif kind == "weights":
        file.write_bytes(file.read_bytes()[:-1] + b"\1")
    elif kind == "position":
        file.write_bytes(file.read_bytes().replace(b'step\\": 7', b'step\\": 8'))
    else:
        file.write_bytes(file.read_bytes().replace(b'format_version\\": 1', b'format_version\\": 2'))
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: damaged or foreign .* delete it to start anew"):
        load_checkpoint(tmp_path, "abc")
    assert not marker.exists()
