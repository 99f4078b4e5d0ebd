"""The training commands on tiny snapshots: real files, real Petastorm, in this process and in others."""

import json
import math
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from models.__main__ import main
from models.contract.snapshot import open_snapshot
from models.data.content import ContentMatrix
from models.saved import load_cvr, load_towers
from models.training import train_cvr, train_towers
from models.training.trainer import Trainer
from tests.builders.tensors import pairs_table, random_vectors, sequences_table, write_matrix, write_snapshot

NUM_ITEMS = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_snapshot(folder / "train", sequences_table(240, NUM_ITEMS))
    write_snapshot(folder / "val", sequences_table(80, NUM_ITEMS, seed=1))
    write_snapshot(folder / "pairs_train", pairs_table(600))
    write_snapshot(folder / "pairs_val", pairs_table(200, seed=1))
    write_matrix(folder / "matrix", random_vectors(NUM_ITEMS))
    return folder


@pytest.fixture
def towers_spec(data, tmp_path):
    return {
        "train_snapshot": str(data / "train"),
        "val_snapshot": str(data / "val"),
        "content_matrix": str(data / "matrix"),
        "out_dir": str(tmp_path / "towers"),
        "towers": {"d_model": 16, "heads": 2, "layers": 1, "embedding_dim": 8, "max_len": 6, "dropout": 0.0},
        "train": {
            "batch_size": 32,
            "epochs": 6,
            "learning_rate": 0.01,
            "warmup_ratio": 0.1,
            "seed": 1,
            "run": {"log_every": 5, "threads": 1},
        },
        "validation": {"k": 5, "popularity_prior": 0.0},
    }


@pytest.fixture
def cvr_spec(data, tmp_path):
    return {
        "train_snapshot": str(data / "pairs_train"),
        "val_snapshot": str(data / "pairs_val"),
        "out_dir": str(tmp_path / "cvr"),
        "cvr": {"fusion": "concat+product", "mid_dim": 4},
        "train": {"batch_size": 32, "epochs": 4, "learning_rate": 0.01, "seed": 1, "run": {"threads": 1}},
    }


def run(tmp_path, command, spec):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    return main([command, "--spec", str(path)])


def lines_of(spec, key):
    text = Path(spec["out_dir"], "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if key in line]


def changed(spec, **changes):
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        spec = spec | {outer: spec.get(outer, {}) | {inner: value} if inner else value}
    return spec


def test_towers_learn_and_come_back(data, tmp_path, towers_spec, capfd):
    before = threading.active_count()
    assert run(tmp_path, "train-towers", towers_spec) == 0
    assert threading.active_count() == before and capfd.readouterr().out == ""
    result = json.loads((tmp_path / "towers" / "result.json").read_text())
    evaluations, steps = lines_of(towers_spec, "recall_at_5"), lines_of(towers_spec, "loss")
    assert result["best"]["recall_at_5"] == max(e["recall_at_5"] for e in evaluations)
    assert result["best"]["recall_at_5"] > 1.3 * evaluations[0]["recall_at_5"]
    assert result["samples"] == 32 * result["steps"] and result["parameters"] > 0
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert {"step", "loss", "lr", "samples_per_s", "data_wait"} <= steps[0].keys()
    model, content = load_towers(towers_spec["out_dir"]), ContentMatrix(data / "matrix")
    assert model.embed_users(np.array([[1, 2]]), np.array([2]), content).shape == (1, 8)
    task_spec = train_towers.TowersSpec.model_validate(towers_spec)
    snapshots = [open_snapshot(data / name) for name in ("train", "val")]
    task = train_towers.TowersTask(task_spec, *snapshots, content)
    task.model = model
    assert task.evaluate() == pytest.approx(result["best"])


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"log_q": True, "mask_false_negatives": True}},
        {"towers": {"item_tower": "shared_self", "content_residual": True, "learned_scale": True}},
        {
            "loss": {"negatives": "full_softmax", "pairs": "next_item"},
            "towers": {"item_tower": "mlp", "id_residual": True, "item_bias": True, "user_tower": "pooling_mlp"},
        },
        {"loss": {"negatives": "sampled", "num_sampled": 20}, "towers": {"train_input": "single"}},
        {"stream": {"reader": "arrow"}, "validation": {"popularity_prior": 1.0}, "train": {"precision": "bfloat16"}},
    ],
)
def test_the_same_seed_repeats_the_run(tmp_path, towers_spec, changes):
    spec = {key: towers_spec.get(key, {}) | value for key, value in changes.items()}
    spec = towers_spec | spec
    spec["train"] = spec["train"] | {"epochs": 1, "run": {"log_every": 1, "threads": 1}}
    spec["towers"] = spec["towers"] | {"dropout": 0.1}
    curves = []
    for name in ("one", "two"):
        spec["out_dir"] = str(tmp_path / name)
        assert run(tmp_path, "train-towers", spec) == 0
        curves.append([(line["step"], line["loss"]) for line in lines_of(spec, "loss")])
    assert len(curves[0]) == 7 and curves[0] == curves[1]


def test_cvr_learns_and_comes_back(data, tmp_path, cvr_spec):
    assert run(tmp_path, "train-cvr", cvr_spec) == 0
    result = json.loads((tmp_path / "cvr" / "result.json").read_text())
    assert result["best"]["auc"] > 0.7
    mid, probability = load_cvr(cvr_spec["out_dir"]).score(np.zeros((3, 8)), np.ones((3, 8)))
    assert mid.shape == (3, 4) and ((probability > 0) & (probability < 1)).all()


def test_early_stopping_and_the_time_budget(tmp_path, cvr_spec):
    cvr_spec["train"] |= {"epochs": 500, "evaluate_every": 1, "patience": 2, "learning_rate": 1e-9}
    assert run(tmp_path, "train-cvr", cvr_spec) == 0
    result = json.loads((tmp_path / "cvr" / "result.json").read_text())
    assert result["stopped"] == "patience" and result["steps"] < 100
    cvr_spec["train"] |= {"patience": 1000, "max_seconds": 0.2}
    assert run(tmp_path, "train-cvr", cvr_spec) == 0
    assert json.loads((tmp_path / "cvr" / "result.json").read_text())["stopped"] == "max_seconds"


def lucky_start(task, monkeypatch):
    """Makes the state before training score better than any later one."""
    original = task.evaluate

    def evaluate(self):
        metrics = original(self)
        self.evaluated = getattr(self, "evaluated", 0) + 1
        return metrics | {self.metric: 2.0} if self.evaluated == 1 else metrics

    monkeypatch.setattr(task, "evaluate", evaluate)


def test_a_lucky_score_of_random_weights_is_not_the_best(tmp_path, cvr_spec, monkeypatch):
    lucky_start(train_cvr.CVRTask, monkeypatch)
    cvr_spec["train"] |= {"patience": 1}
    assert run(tmp_path, "train-cvr", cvr_spec) == 0
    result = json.loads((tmp_path / "cvr" / "result.json").read_text())
    trained = [line["auc"] for line in lines_of(cvr_spec, "auc") if line["step"]]
    assert result["best_step"] > 0 and result["best"]["auc"] == max(trained) > 0.7


@pytest.mark.parametrize("content_residual", [True, False])
def test_towers_keep_the_start_only_if_it_ranks_by_content(tmp_path, towers_spec, monkeypatch, content_residual):
    lucky_start(train_towers.TowersTask, monkeypatch)
    spec = changed(towers_spec, towers__content_residual=content_residual, train__epochs=2)
    assert run(tmp_path, "train-towers", spec) == 0
    result = json.loads((tmp_path / "towers" / "result.json").read_text())
    assert (result["best_step"] == 0) == content_residual


def nan_loss(loss):
    return loss * float("nan")


def nan_gradient(loss):
    return loss + torch.sqrt(loss * 0)


@pytest.mark.parametrize(
    ("broken", "told"), [(nan_loss, "loss is nan at step 30"), (nan_gradient, "gradient's norm is nan at step 30")]
)
def test_a_nan_keeps_the_last_good_model(tmp_path, cvr_spec, capsys, monkeypatch, broken, told):
    original = train_cvr.CVRTask.loss

    def nan_in_the_end(self, batch):
        self.calls = getattr(self, "calls", 0) + 1
        loss = original(self, batch)
        return broken(loss) if self.calls == 30 else loss

    monkeypatch.setattr(train_cvr.CVRTask, "loss", nan_in_the_end)
    assert run(tmp_path, "train-cvr", cvr_spec) == 3
    assert told in capsys.readouterr().err
    _, probability = load_cvr(cvr_spec["out_dir"]).score(np.zeros((1, 8)), np.ones((1, 8)))
    assert np.isfinite(probability).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__learn_rate": 1}, "unknown key `train.learn_rate`; did you mean learning_rate"),
        ({"tower": {}}, "unknown key `tower`; did you mean towers"),
        ({"train__learning_rate": "fast"}, "`train.learning_rate`: .*'fast'"),
        ({"towers__item_tower": "none"}, "towers.item_tower"),
        ({"content_matrix": "/nowhere"}, "content_matrix: no such folder: /nowhere"),
        ({"train__batch_size": 100_000}, "smaller than one batch"),
        ({"towers__max_len": 3}, "max_len 3"),
    ],
)
def test_bad_specs_exit_with_one_line_and_code_2(tmp_path, towers_spec, capsys, changes, message):
    assert run(tmp_path, "train-towers", changed(towers_spec, **changes)) == 2
    error = capsys.readouterr().err
    assert error.startswith("train-towers: ") and error.count("\n") == 1
    assert re.search(message, error)


def test_missing_keys_and_files(tmp_path, capsys):
    assert run(tmp_path, "train-cvr", {}) == 2
    assert "key `train_snapshot` is missing" in capsys.readouterr().err
    assert main(["train-cvr", "--spec", str(tmp_path / "none.json")]) == 2
    assert "none.json: No such file" in capsys.readouterr().err


@pytest.mark.process
def test_its_own_process_writes_nothing_to_stdout(tmp_path, towers_spec):
    towers_spec["train"]["epochs"] = 1
    (tmp_path / "spec.json").write_text(json.dumps(towers_spec))
    command = [sys.executable, "-m", "models", "train-towers", "--spec", str(tmp_path / "spec.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Warning" not in done.stderr
    told = (
        r"step \d+/7, loss \d+\.\d{4}, best recall_at_5 \d\.\d{4} at \d+, \d+ samples/s, \d+% waiting for data, about"
    )
    assert re.search(told, done.stderr) and "s left" in done.stderr


def test_steps_are_clipped_and_follow_warm_up_and_cosine(data, tmp_path, towers_spec):
    train = {"epochs": 2, "run": {"log_every": 1, "threads": 1}, "warmup_ratio": 0.2, "max_grad_norm": 0.01}
    spec = train_towers.TowersSpec.model_validate(towers_spec | {"train": towers_spec["train"] | train})
    snapshots = (open_snapshot(data / name) for name in ("train", "val"))
    task = train_towers.TowersTask(spec, *snapshots, ContentMatrix(data / "matrix"))
    trainer, norms = Trainer(task, spec.train, tmp_path / "towers", "one"), []
    step = trainer.optimizer.step

    def watched():
        norms.append(torch.stack([p.grad.norm() for p in trainer.parameters]).norm().item())
        step()

    trainer.optimizer.step = watched
    trainer.run()
    total, warm = 14, 3
    factors = [
        (n + 1) / warm if n < warm else (1 + math.cos(math.pi * (n - warm) / (total - warm))) / 2 for n in range(total)
    ]
    assert [line["lr"] for line in lines_of(towers_spec, "lr")] == pytest.approx([0.01 * factor for factor in factors])
    assert len(norms) == total and max(norms) <= 0.01 * 1.001
    assert isinstance(trainer.optimizer, torch.optim.AdamW) and trainer.optimizer.param_groups[0]["fused"]
