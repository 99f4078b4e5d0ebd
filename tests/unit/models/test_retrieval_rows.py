"""A test day of a handful of users whose answers can be counted by hand."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from models.baselines.mean_content import item_vectors, user_means
from models.baselines.scorer import Scorer
from models.contract.evaluation_specs import SystemsSpec
from models.data.content import ContentMatrix
from models.evaluation.evaluate_systems import SystemsTask, run
from tests.builders.tensors import write_matrix, write_snapshot

ITEMS = 6
AXES = np.eye(ITEMS + 1, dtype=np.float32)[:, 1:]
INTS = pa.list_(pa.int32())


@pytest.fixture
def spec(tmp_path):
    # The vectors of items 1 to 6 are the axes. Item 6 has no recent purchase.
    rows = {
        "user_id": ["a", "b"],
        "hist_items": pa.array([[2, 2, 0], [4, 5, 5]], INTS),
        "hist_ts": pa.array([[1, 2, 0], [1, 2, 3]], pa.list_(pa.int64())),
        "hist_len": pa.array([2, 3], pa.int32()),
        "tar_items": pa.array([[1], [5]], INTS),
    }
    known = {
        "item_idx": pa.array([6, 5, 4, 3, 2, 1], pa.int32()),
        "purchases": pa.array([0, 9, 1, 1, 1, 1], pa.int64()),
    }
    purchases = {
        # a bought 1 (new) and something unknown; b bought 5 again, and 4 before.
        "user_id": ["a", "a", "a", "b", "b"],
        "item_idx": pa.array([1, 0, 2, 5, 4], pa.int32()),
        "is_target": pa.array([1, 1, 0, 1, 0], pa.int32()),
        "is_seen": pa.array([0, 0, 1, 1, 1], pa.int32()),
    }
    test = write_snapshot(tmp_path / "test", pa.table(rows))
    return SystemsSpec(
        train_snapshot=test,
        test_snapshot=test,
        known_items=write_snapshot(tmp_path / "known", pa.table(known)),
        purchases=write_snapshot(tmp_path / "purchases", pa.table(purchases)),
        candidates="known",
        content_matrix=write_matrix(tmp_path / "matrix", AXES),
        out_dir=tmp_path / "out",
        systems=[{"name": kind, "kind": kind} for kind in ("popularity", "last_item", "mean_content")],
        ks=(1, 2),
        resamples=10,
    )


def vectors(spec, popularity_prior=0.0, repeat_bias=None):
    """Figures if user a's vector is that of item 1, and b's that of item 3."""
    task = SystemsTask(spec)
    bias = np.where(task.rows.is_candidate_I, popularity_prior * task.rows.prior_I, -np.inf)
    raised = None if repeat_bias is None else lambda place: np.full(len(place), repeat_bias)
    pointing = Scorer(task.rows.test["hist_items"], bias, AXES[[1, 3]], AXES, raised)
    return task.figures(pointing, task.ranks(pointing))


def new(figures):
    return figures["segments"]["new_to_user"]


def test_figures_counted_by_hand(spec):
    result = run(spec)
    data, systems = result["data"], result["systems"]
    assert data["users"] == 2
    assert (data["candidates"], data["targets"]) == (6, 3)
    assert (data["targets_no_candidate"], data["targets_new"]) == (1, 2)
    # a: one of two targets is first, the other is no candidate; b: item 3 is first, 5 is tied with the rest.
    pointing = vectors(spec)
    assert pointing["recall_at_1"] == pytest.approx((0.5 + 0) / 2)
    assert pointing["ndcg_at_1"] == pytest.approx((1 + 0) / 2)
    # New to the user: only a has such targets.
    assert new(pointing)["recall_at_1"] == pytest.approx(0.5)
    # Popularity puts 5 first (b's target).
    assert systems["popularity"]["recall_at_1"] == pytest.approx((0 + 1) / 2)
    # The last item of b's history is 5, of a's 2. After 2, popularity decides: 5 leads, and 1 is tied with the rest.
    assert systems["last_item"]["recall_at_1"] == pytest.approx((0 + 1) / 2)
    assert new(systems["last_item"])["recall_at_1"] == new(systems["popularity"])["recall_at_1"] == 0
    # The mean of b's history is nearest to item 5, which b bought twice.
    assert systems["mean_content"]["recall_at_1"] == pytest.approx((0 + 1) / 2)
    assert json.loads((spec.out_dir / "result.json").read_text()) == result


def test_the_prior_counts(spec):
    popularity = run(spec)["systems"]["popularity"]
    assert vectors(spec, popularity_prior=10.0)["recall_at_1"] == popularity["recall_at_1"]
    assert vectors(spec)["recall_at_1"] == pytest.approx(0.25)


def test_what_the_history_holds_has_the_models_bias(spec):
    """b's history holds b's target 5, and 4; item 3 is nearest to b's vector."""
    raised = vectors(spec, repeat_bias=10.0)
    assert raised["recall_at_2"] == pytest.approx((0.5 + 1) / 2), "4 and 5 tie before 3; a's 2 stands before 1"
    assert raised["recall_at_1"] == 0
    assert new(raised)["recall_at_1"] == new(vectors(spec))["recall_at_1"] == 0.5
    assert vectors(spec)["recall_at_2"] == pytest.approx(0.5 / 2)


def test_what_the_history_holds_and_nobody_bought_keeps_its_bias(spec, tmp_path):
    """Histories may hold events other than purchases. Where bought items are hidden, those items stay candidates."""
    purchases = {"user_id": ["a", "a"], "item_idx": [1, 3], "is_target": [1, 0], "is_seen": [0, 1]}
    path = write_snapshot(tmp_path / "views", pa.table(purchases), files=1)
    viewed = spec.model_copy(update={"purchases": path})
    assert new(vectors(viewed))["recall_at_1"] == 1
    raised = new(vectors(viewed, repeat_bias=10.0))
    assert (raised["recall_at_1"], raised["recall_at_2"]) == (0, 1), "2, which a only looked at, stands before 1"


def test_strangers_in_the_purchases_are_an_error(spec, tmp_path):
    purchases = pa.table({"user_id": ["z"], "item_idx": [1], "is_target": [1], "is_seen": [0]})
    path = write_snapshot(tmp_path / "strangers", purchases, files=1)
    with pytest.raises(ValueError, match="users that test_snapshot lacks"):
        run(spec.model_copy(update={"purchases": path}))


def test_several_rows_of_a_user_have_no_purchases_of_their_own(spec, tmp_path):
    twice = pa.concat_tables([pa.parquet.read_table(file) for file in sorted(spec.test_snapshot.glob("*.parquet"))] * 2)
    path = write_snapshot(tmp_path / "twice", twice)
    with pytest.raises(ValueError, match="test_snapshot has several rows of a user"):
        run(spec.model_copy(update={"test_snapshot": path}))


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
