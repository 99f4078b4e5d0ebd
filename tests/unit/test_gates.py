"""Gates and figures of embedding health, against values that can be worked out by hand."""

import numpy as np
import pytest

from learn_spark.core.errors import QualityError
from learn_spark.features.gates import Gate, effective_rank, mean_cosine, require
from learn_spark.features.health import _nearest


def test_effective_rank_counts_directions() -> None:
    assert effective_rank(np.eye(8)) == pytest.approx(8)
    assert effective_rank(np.ones((100, 8))) == pytest.approx(1)
    assert effective_rank(np.repeat(np.eye(8)[:3], 5, axis=0)) == pytest.approx(3)
    assert effective_rank(np.zeros((4, 8))) == effective_rank(np.zeros((0, 8))) == 0


def test_mean_cosine_is_that_of_all_pairs() -> None:
    vectors = np.random.default_rng(1).normal(size=(20, 5))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(20) for j in range(20) if i != j]
    assert mean_cosine(vectors) == pytest.approx(np.mean(pairs))
    assert mean_cosine(np.ones((9, 4))) == pytest.approx(1)
    assert mean_cosine(np.ones((1, 4))) == 0


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        (Gate("g", 1.0, lower=1.0), True),
        (Gate("g", 0.9, lower=1.0), False),
        (Gate("g", 2.0, upper=2.0), True),
        (Gate("g", 2.1, lower=0.0, upper=2.0), False),
        (Gate("g", float("nan"), lower=0.0), False),
        (Gate("g", float("inf"), lower=0.0), False),
    ],
)
def test_a_gate_passes_within_its_limits(gate: Gate, passed: bool) -> None:
    assert gate.passed is passed


def test_require_names_every_failed_gate_with_value_and_limit() -> None:
    gates = [Gate("rank", 1.25, lower=4), Gate("rows", 7, lower=1), Gate("cosine", 0.99, lower=-1, upper=0.9)]
    with pytest.raises(QualityError) as error:
        require(gates)
    assert "rank is 1.25, must be at least 4" in str(error.value)
    assert "cosine is 0.99, must be at least -1 and at most 0.9" in str(error.value)
    assert "rows" not in str(error.value)
    require(gates[1:2])


def test_neighbours_are_the_nearest_others_by_title() -> None:
    vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 2.0], [-1.0, 0.0]])
    found = _nearest(["red", "crimson", "blue", "anti"], vectors)
    assert [entry["title"] for entry in found] == ["red", "crimson", "blue", "anti"]
    assert [near["title"] for near in found[0]["neighbours"]] == ["crimson", "blue", "anti"]
    assert found[0]["neighbours"][2]["cosine"] == -1.0
    assert _nearest(["alone"], vectors[:1]) == [{"title": "alone", "neighbours": []}]
    assert _nearest([], np.zeros((0, 1))) == []
