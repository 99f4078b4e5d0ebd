"""Gates and figures of embedding health, against values worked out by hand."""

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest

from learn_spark.config.load import load_config
from learn_spark.errors import QualityError
from learn_spark.features.checks import volume_gates, width_gates
from learn_spark.features.neighbours import _nearest
from learn_spark.pipeline import STEPS
from learn_spark.quality.code_figures import even_use, relative_error
from learn_spark.quality.drift import centroid_shift, neighbour_overlap
from learn_spark.quality.gates import Gate, VectorFigures, effective_rank, mean_cosine, require
from learn_spark.releases.lineage import compared, lines_of
from learn_spark.releases.registry import Part, Release
from learn_spark.runs.fingerprints import Fingerprints
from tests.conftest import CONF

LIMITS = load_config(CONF / "test.yaml").features.gates


def test_effective_rank_counts_directions() -> None:
    assert effective_rank(np.eye(8)) == pytest.approx(8)
    assert np.isnan(effective_rank(np.array([[1.0, np.nan], [0.0, 1.0]])))
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


def test_codes_are_used_evenly_or_not_and_say_all_or_nothing() -> None:
    assert even_use(np.array([5, 5, 5, 5]), 4) == pytest.approx(1)
    assert even_use(np.array([5, 5]), 4) == pytest.approx(0.5)
    assert even_use(np.array([9]), 4) == pytest.approx(0.25)
    vectors = np.array([[3.0, 0.0], [1.0, 0.0]])
    assert relative_error(vectors, vectors, 1.0) == 0
    assert relative_error(vectors, np.array([[2.0, 0.0], [2.0, 0.0]]), 1.0) == 1


def test_a_centroid_that_stays_has_no_shift_and_one_that_leaves_is_measured_in_lengths() -> None:
    old = np.random.default_rng(2).normal(size=(500, 6))
    length = np.sqrt((old**2).sum(1).mean())
    assert centroid_shift(old, old) == 0
    assert centroid_shift(old + np.eye(6)[0] * 3, old) == pytest.approx(3 / length)


def test_neighbours_survive_a_rotation_and_not_a_shuffle() -> None:
    rng = np.random.default_rng(3)
    old = rng.normal(size=(300, 8))
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    assert neighbour_overlap(old @ rotation, old) == pytest.approx(1)
    assert neighbour_overlap(rng.permutation(old), old) < 0.2


DAYS = [date(2024, 5, 1) + timedelta(days=number) for number in range(4)]


def release_of(own: dict[date, int], taken_over: dict[date, int] | None = None) -> Release:
    parts = {day: Part("old", users, 10, 5) for day, users in (taken_over or {}).items()}
    parts |= {day: Part("new", users, 10, 5) for day, users in own.items()}
    return Release("new", tuple(own), {}, {}, parts)


@pytest.mark.parametrize(
    ("own", "failed"),
    [
        ({DAYS[3]: 90}, []),
        ({DAYS[3]: 1}, ["users_of_new_days"]),  # a day with 1% of the usual rows
        ({DAYS[3]: 0}, []),  # no users at all: ingest decides whether such a day is allowed
        ({DAYS[2]: 80}, ["users_of_days_made_again"]),
        ({DAYS[2]: 101, DAYS[3]: 100}, []),
        ({DAYS[0]: 0}, ["users_of_days_made_again"]),
    ],
)
def test_volumes_are_those_of_the_release_before(own: dict[date, int], failed: list[str]) -> None:
    before = {DAYS[0]: 5000, DAYS[1]: 100, DAYS[2]: 100}
    gates = volume_gates(release_of(own, before), release_of(before), LIMITS)
    assert [gate.name for gate in gates if not gate.passed] == failed


def figures(narrowest: int, widest: int, rows: int = 9) -> VectorFigures:
    return VectorFigures(rows, 0, 1.0, 0.9, 1.1, 1.0, narrowest, widest)


@pytest.mark.parametrize(
    ("users", "items", "before", "failed"),
    [
        (figures(64, 64), figures(64, 64), {}, []),
        (figures(64, 64), figures(64, 64), {"user_emb": 64, "item_emb": 64}, []),
        (figures(32, 64), figures(64, 64), {}, ["user_emb_widths_apart"]),
        (figures(64, 64), figures(32, 32), {}, ["user_and_item_widths_apart"]),
        (figures(32, 32), figures(32, 32), {"user_emb": 64, "item_emb": 64}, ["widths_changed_by"]),
        (figures(32, 32), figures(0, 0, rows=0), {"item_emb": 64}, ["user_and_item_widths_apart"]),
    ],
)
def test_widths_are_the_same_everywhere(users, items, before, failed) -> None:
    gates = width_gates({"user_emb": users, "item_emb": items}, before)
    assert [gate.name for gate in gates if not gate.passed] == failed


def test_a_diff_names_what_changed() -> None:
    first, second = release_of({DAYS[0]: 100, DAYS[1]: 7}), release_of({DAYS[2]: 9}, {DAYS[0]: 100, DAYS[1]: 7})
    first = replace(first, models={"towers": "a", "cvr": "c"})
    second = replace(second, models={"towers": "b", "cvr": "c"})
    found = compared(first, second)
    assert found["days_added"] == str(DAYS[2])
    assert found["days_with_other_rows"] == f"{DAYS[0]} .. {DAYS[1]}"
    assert found["rows"]["users"] == [107, 116]
    assert found["models"] == {"towers": ["a", "b"]} and not found["same_space"] and "kept" not in found
    mapped = replace(second, models=second.models | {"space": "a-c"})
    assert compared(first, mapped)["same_space"] and mapped.space == first.space == ("a", "c")
    assert "days_added               2024-05-03" in lines_of(found)


def test_a_limit_makes_no_day_stale() -> None:
    def fingerprint(*settings: str) -> str:
        config = load_config(CONF / "test.yaml", settings)
        return Fingerprints(config, STEPS)("write_features", config.windows.end)

    assert fingerprint("features.gates={min_pair_auc: 0.9, max_centroid_shift: 9, min_users: 7}") == fingerprint()
    assert fingerprint("features.cold_events=1") != fingerprint()
