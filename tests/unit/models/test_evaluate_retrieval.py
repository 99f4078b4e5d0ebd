"""Retrieval figures on a handful of users whose answers can be counted by hand."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.baselines.mean_content import item_vectors, user_means
from models.contract.settings import TowersConfig
from models.data.content import ContentMatrix
from models.evaluation.evaluate_retrieval import RetrievalSpec, run
from models.saved import save_towers
from models.towers.towers import Towers
from tests.builders.tensors import write_matrix, write_snapshot

ITEMS = 6


def lists(rows):
    return pa.array(rows, pa.list_(pa.float32()))


def towers_of(folder, repeat_weight):
    towers = Towers(TowersConfig(d_model=4, heads=1, temperature=1.0, repeat_bias=repeat_weight is not None), ITEMS)
    if repeat_weight is not None:
        towers.repeat_weight.data.fill_(repeat_weight)
    save_towers(folder, towers)
    return folder


@pytest.fixture
def spec(tmp_path):
    # Items 1..6 lie on the axes; user a points at item 1, b at item 3. Item 6 was never bought recently.
    axes = np.eye(ITEMS + 1, dtype=np.float32)[:, 1:]
    users = pa.table(
        {
            "user_id": ["a", "b"],
            "user_emb": lists([axes[1].tolist(), axes[3].tolist()]),
            "hist_items": pa.array([[2, 2, 0], [4, 5, 5]], pa.list_(pa.int32())),
        }
    )
    items = pa.table(
        {
            "item_idx": pa.array([6, 5, 4, 3, 2, 1], pa.int32()),
            "item_emb": lists([axes[i].tolist() for i in (6, 5, 4, 3, 2, 1)]),
            "popularity_recent": pa.array([0, 9, 1, 1, 1, 1], pa.int64()),
            "popularity_all": pa.array([99, 1, 1, 1, 1, 1], pa.int64()),
        }
    )
    pairs = pa.table(
        {
            # a bought 1 (new) and something unknown; b bought 5 again, and 4 before.
            "user_id": ["a", "a", "a", "b", "b"],
            "item_idx": pa.array([1, 0, 2, 5, 4], pa.int32()),
            "is_target": pa.array([1, 1, 0, 1, 0], pa.int32()),
            "is_seen": pa.array([0, 0, 1, 1, 1], pa.int32()),
        }
    )
    return RetrievalSpec(
        users=write_snapshot(tmp_path / "users", users),
        items=write_snapshot(tmp_path / "items", items),
        pairs=write_snapshot(tmp_path / "pairs", pairs),
        content_matrix=write_matrix(tmp_path / "matrix", axes),
        towers=towers_of(tmp_path / "towers", None),
        out_dir=tmp_path / "out",
        popularity_weight=0.0,
        ks=(1, 2),
    )


def test_figures_counted_by_hand(spec):
    result = run(spec)
    assert result["users"] == 2
    assert (result["items"], result["targets"]) == (6, 3)
    assert (result["targets_not_known"], result["targets_new"]) == (1, 2)
    # a: one of two targets stands first, the other cannot; b: item 3 first, 5 tied with the rest.
    assert result["recall_at_1"] == pytest.approx((0.5 + 0) / 2)
    assert result["ndcg_at_1"] == pytest.approx((1 + 0) / 2)
    # New to the user: only a has such targets.
    assert result["new_recall_at_1"] == pytest.approx(0.5)
    # Recent popularity puts 5 first (b's target); all-time popularity 6.
    assert result["popularity_recall_at_1"] == pytest.approx((0 + 1) / 2)
    # Of b's history 5 came last, of a's 2; what follows 2 is popularity, where 5 leads and 1 is level with the rest.
    assert result["last_item_recall_at_1"] == pytest.approx((0 + 1) / 2)
    assert result["last_item_new_recall_at_1"] == result["popularity_new_recall_at_1"] == 0
    # The mean of b's history is nearest to item 5, which b bought twice.
    assert result["mean_content_recall_at_1"] == pytest.approx((0 + 1) / 2)
    assert json.loads((spec.out_dir / "result.json").read_text()) == result


def test_the_prior_counts(spec):
    with_prior = run(spec.model_copy(update={"popularity_weight": 10.0}))
    assert with_prior["recall_at_1"] == with_prior["popularity_recall_at_1"]
    assert with_prior["without_prior_recall_at_1"] == pytest.approx(0.25)


def test_what_the_history_holds_has_the_models_bias(spec, tmp_path):
    """b's target, 5, stands in b's history, as 4 does; 3 is nearest."""
    raised = run(spec.model_copy(update={"towers": towers_of(tmp_path / "raised", 2.0)}))
    assert raised["recall_at_2"] == pytest.approx((0.5 + 1) / 2), "4 and 5 tie before 3; a's 2 stands before 1"
    assert raised["recall_at_1"] == 0
    assert raised["new_recall_at_1"] == run(spec)["new_recall_at_1"] == 0.5
    assert run(spec)["recall_at_2"] == pytest.approx(0.5 / 2)


def test_strangers_in_the_pairs_are_an_error(spec, tmp_path):
    pairs = pa.table({"user_id": ["z"], "item_idx": [1], "is_target": [1], "is_seen": [0]})
    path = write_snapshot(tmp_path / "strangers", pairs, files=1)
    with pytest.raises(ValueError, match="users that the users' snapshot lacks"):
        run(spec.model_copy(update={"pairs": path}))


def test_mean_content_equals_the_plain_mean(tmp_path):
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(9, 5)).astype(np.float16)
    vectors[0] = 0
    content = ContentMatrix(write_matrix(tmp_path / "matrix", vectors))
    hist = torch.tensor([[1, 8, 8], [3, 0, 0], [0, 0, 0]])
    unit = vectors.astype(np.float64)
    unit[1:] /= np.linalg.norm(unit[1:], axis=1, keepdims=True)
    want = np.stack([unit[row].sum(0) for row in hist.numpy()])
    want[:2] /= np.linalg.norm(want[:2], axis=1, keepdims=True)
    assert user_means(hist, content, batch_size=2).numpy() == pytest.approx(want, abs=1e-5)
    assert item_vectors(torch.tensor([4, 2]), content).numpy() == pytest.approx(unit[[4, 2]], abs=1e-5)
