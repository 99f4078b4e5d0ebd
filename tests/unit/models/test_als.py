"""Alternating least squares against the written-out equations of a row; files, training, histories."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from models.__main__ import main
from models.baselines import als
from models.baselines.als import ALS, solved
from models.contract.settings import ALSConfig
from models.saved import load_retriever, save_als
from tests.builders.tensors import random_vectors, sequences_table, write_matrix, write_snapshot

FIXTURES = Path(__file__).parents[2] / "fixtures"
CONFIG = ALSConfig(d_model=4, alpha=3.0, regularization=0.1, iterations=6)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def of_row(other_JK, own, config=CONFIG):
    """Factors x of a row that has the rows `own` of the other side, by the paper's equations with all weights."""
    if not len(own):
        return np.zeros(config.d_model)
    weight_J, wanted_J = np.ones(len(other_JK)), np.zeros(len(other_JK))
    weight_J[own], wanted_J[own] = 1 + config.alpha, 1.0
    left = other_JK.T @ np.diag(weight_J) @ other_JK + config.regularization * len(own) * np.eye(config.d_model)
    return np.linalg.solve(left, other_JK.T @ (weight_J * wanted_J))


def loss_of(user_UK, item_IK, has_UI, config=CONFIG):
    weight_UI = 1 + config.alpha * has_UI
    penalty = (has_UI.sum(1) * (user_UK**2).sum(1)).sum() + (has_UI.sum(0) * (item_IK**2).sum(1)).sum()
    return (weight_UI * (has_UI - user_UK @ item_IK.T) ** 2).sum() + config.regularization * penalty


def groups(rng, users=60, items=21):
    """Which user has which item: two groups of users with separate items; nobody has item 0, padding."""
    is_even_U, is_even_I = np.arange(users) % 2 == 0, np.arange(items) % 2 == 0
    has_UI = (is_even_U[:, None] == is_even_I) & (rng.random((users, items)) < 0.4)
    has_UI[:, 0] = False
    return has_UI.astype(float)


@pytest.mark.parametrize("numbers", [1, 40, 1 << 22], ids=["rows alone", "few rows", "all at once"])
def test_rows_are_solved_as_the_paper_says_in_blocks_of_any_size(rng, monkeypatch, numbers):
    monkeypatch.setattr(als, "BLOCK_NUMBERS", numbers)
    has_RJ, other_JK = groups(rng), rng.normal(size=(21, 4))
    has_RJ[7] = 0
    found = solved(torch.from_numpy(other_JK), sparse.csr_matrix(has_RJ), CONFIG).numpy()
    np.testing.assert_allclose(found, [of_row(other_JK, np.flatnonzero(row)) for row in has_RJ], atol=1e-10)
    assert not found[7].any()


def test_each_turn_lowers_the_loss_and_unknown_items_stay_at_zero(rng):
    has_UI = groups(rng)
    has_UI[:, 20] = 0
    by_user, by_item = sparse.csr_matrix(has_UI), sparse.csr_matrix(has_UI.T)
    model = ALS(CONFIG, 21)
    model.begin(by_item, seed=1)
    losses = []
    for _ in range(5):
        model.iterate(by_user, by_item)
        users = solved(model.item_table, by_user, CONFIG).numpy()
        losses.append(loss_of(users, model.item_table.numpy(), has_UI))
    assert losses == sorted(losses, reverse=True)
    assert not model.embed_items(np.array([0, 20, 21, 500])).any()


def test_a_history_is_solved_by_its_known_items_whatever_their_order_and_repeats(rng):
    model = ALS(CONFIG, 21)
    with torch.no_grad():
        model.item_table[1:20] = torch.from_numpy(rng.normal(size=(19, 4)))
    items = model.item_table.numpy().astype(float)
    hist_BH = np.array([[3, 5, 9, 0], [9, 3, 5, 3], [20, 30, 0, 0], [0, 0, 0, 0], [5, 20, 0, 0]])
    found = model.embed_users(hist_BH, np.array([3, 4, 2, 0, 2]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], of_row(items, [3, 5, 9]), atol=1e-6)
    np.testing.assert_array_equal(found[0], found[1])
    assert not found[2:4].any()
    np.testing.assert_allclose(found[4], of_row(items, [5]), atol=1e-6)


def test_users_are_those_of_sparks_als_and_the_best_of_four_starts_fits_as_well():
    """The independent reference are Spark's factors of the same pairs, with the same alpha and penalty."""
    told = json.loads((FIXTURES / "spark_als.json").read_text())
    config, theirs = ALSConfig(d_model=4, alpha=5.0, regularization=0.05, iterations=12), np.array(told["user_factors"])
    has_UI = np.array([np.isin(np.arange(21), own) for own in told["users"]], float)
    hist_BH = np.array([own + [0] * (21 - len(own)) for own in told["users"]])
    length_B, by_user = has_UI.sum(1).astype(int), sparse.csr_matrix(has_UI)
    model = ALS(config, 21)
    with torch.no_grad():
        model.item_table.copy_(torch.tensor(told["item_factors"]))
    items = model.embed_items(np.arange(21))
    np.testing.assert_allclose(model.embed_users(hist_BH, length_B), theirs, atol=1e-4)
    ours = []
    for seed in range(4):  # they end in different local minima
        model.begin(by_user.T.tocsr(), seed)
        for _ in range(config.iterations):
            model.iterate(by_user, by_user.T.tocsr())
        ours.append(loss_of(model.embed_users(hist_BH, length_B), model.item_table.numpy(), has_UI, config))
    assert min(ours) == pytest.approx(loss_of(theirs, items, has_UI, config), rel=0.02), ours


def test_it_comes_back_from_its_folder(rng, tmp_path):
    model = ALS(CONFIG, 21)
    with torch.no_grad():
        model.item_table.copy_(torch.from_numpy(rng.normal(size=(21, 4))))
    save_als(tmp_path, model)
    loaded = load_retriever(tmp_path)
    np.testing.assert_array_equal(loaded.embed_items(np.arange(21)), model.embed_items(np.arange(21)))
    assert loaded.config == CONFIG


def test_the_command_keeps_the_best_iteration(rng, tmp_path):
    folders = {}
    for name, rows in (("train", 200), ("val", 60)):
        table = sequences_table(rows, 59, seed=rows)
        folders[name] = write_snapshot(tmp_path / name, table)
    matrix = write_matrix(tmp_path / "matrix", random_vectors(59, 8))
    spec = {
        "train_snapshot": str(folders["train"]),
        "val_snapshot": str(folders["val"]),
        "content_matrix": str(matrix),
        "model": CONFIG.model_dump(),
        "validation": {"k": 5, "popularity_prior": 0.0},
        "train": {"seed": 3, "device": "cpu"},
        "out_dir": str(tmp_path / "out"),
    }
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "spec.json"
    file.write_text(json.dumps(spec))
    assert main(["train-als", "--spec", str(file)]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    recalls = [line["recall_at_5"] for line in lines]
    assert [line["step"] for line in lines] == list(range(1, CONFIG.iterations + 1))
    assert result["best"]["recall_at_5"] == max(recalls) and recalls[result["best_step"] - 1] == max(recalls)
    assert (tmp_path / "out" / "model.safetensors").is_file()
