"""Metrics against scikit-learn and naive reference implementations."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.utils._python_dispatch import TorchDispatchMode

from models.metrics import auc, ranks


def weighted_auc(label, score, weight=None):
    weight = np.ones(len(label)) if weight is None else weight
    return auc.Scored.of(label, score, weight, np.zeros(len(label), int)).auc()


def naive_auc(rows):
    """Weighted AUC of rows (label, score, weight) by a loop over pairs."""
    won = total = 0.0
    for label_i, score_i, weight_i in rows:
        for label_j, score_j, weight_j in rows:
            if label_i == 1 and label_j == 0:
                total += weight_i * weight_j
                won += weight_i * weight_j * (1.0 if score_i > score_j else 0.5 if score_i == score_j else 0.0)
    return won / total if total else None


def naive_users(label, score, user, weight):
    values = []
    for one in sorted(set(user)):
        rows = [(a, s, w) for a, s, u, w in zip(label, score, user, weight, strict=True) if u == one]
        value = naive_auc(rows)
        if value is not None:
            values.append((value, sum(w for _, _, w in rows)))
    return values


def naive_retrieval(scores, targets, hidden, num_targets, k):
    """Recall and NDCG by loops; `scores` are users x items. A rank counts all other items that are not worse."""
    recalls, ndcgs = [], []
    for user, row in enumerate(scores):
        hits = gain = 0
        for target in targets[user]:
            rank = 1 + sum(1 for i, s in enumerate(row) if i != target and i not in hidden[user] and s >= row[target])
            if rank <= k:
                hits, gain = hits + 1, gain + 1 / math.log2(rank + 1)
        ideal = sum(1 / math.log2(r + 1) for r in range(1, min(num_targets[user], k) + 1))
        recalls.append(hits / num_targets[user])
        ndcgs.append(gain / ideal)
    return sum(recalls) / len(recalls), sum(ndcgs) / len(ndcgs)


@pytest.fixture
def rows():
    generator = np.random.default_rng(3)
    n = 400
    return {
        "label": generator.integers(0, 2, n),
        "score": generator.integers(0, 25, n) / 7.0,  # many ties
        "user": generator.integers(0, 40, n),
        "weight": generator.integers(1, 4, n).astype(np.float32),
    }


def test_auc_equals_scikit_learn(rows):
    want = roc_auc_score(rows["label"], rows["score"], sample_weight=rows["weight"])
    assert weighted_auc(rows["label"], rows["score"], rows["weight"]) == pytest.approx(want, abs=1e-12)
    want = roc_auc_score(rows["label"], rows["score"])
    assert weighted_auc(rows["label"], rows["score"]) == pytest.approx(want, abs=1e-12)


def test_auc_of_one_class_is_nan():
    assert math.isnan(weighted_auc(np.ones(3), np.arange(3.0)))
    assert math.isnan(auc.uauc(np.ones(3), np.arange(3.0), np.zeros(3, int)))
    assert not len(auc.user_aucs(np.empty(0), np.empty(0), np.empty(0, int))[0])


def test_user_aucs_equal_the_naive_ones(rows):
    values = naive_users(rows["label"], rows["score"], rows["user"], rows["weight"].astype(float))
    args = (rows["label"], rows["score"], rows["user"], rows["weight"])
    assert auc.uauc(*args) == pytest.approx(sum(v for v, _ in values) / len(values), abs=1e-12)
    weighted = sum(v * w for v, w in values) / sum(w for _, w in values)
    value_U, weight_U = auc.user_aucs(*args)
    assert np.average(value_U, weights=weight_U) == pytest.approx(weighted, abs=1e-6)


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    generator = np.random.default_rng(2)
    value, weight = generator.normal(0.3, 1, 4000), generator.uniform(0.5, 2, 4000)
    low, high = auc.mean_interval(value, weight, resamples=400, seed=1)
    mean = np.average(value, weights=weight)
    error = np.sqrt((weight**2 * (value - mean) ** 2).sum()) / weight.sum()
    assert (low, high) == (
        pytest.approx(mean - 1.645 * error, abs=0.004),
        pytest.approx(mean + 1.645 * error, abs=0.004),
    )
    assert all(map(math.isnan, auc.mean_interval(np.empty(0), np.empty(0), 10, seed=1)))


def test_users_with_one_label_are_left_out():
    label, user = np.array([1, 0, 1, 1]), np.array([5, 5, 9, 9])
    value_U, weight_U = auc.user_aucs(label, np.array([0.9, 0.1, 0.3, 0.2]), user)
    assert value_U.tolist() == [1.0]
    assert weight_U.tolist() == [2.0]


def test_a_resample_is_the_auc_of_the_repeated_rows(rows):
    scored = auc.Scored.of(rows["label"], rows["score"], rows["weight"], rows["user"])
    want = []
    for times_U in auc.user_draws(40, 10, seed=1):
        repeat = times_U[rows["user"]].astype(int)
        label, score, weight = (np.repeat(rows[name], repeat) for name in ("label", "score", "weight"))
        want.append(roc_auc_score(label, score, sample_weight=weight))
    assert scored.resampled(40, 10, seed=1) == pytest.approx(want, abs=1e-12)


def test_a_resample_without_a_class_is_left_out():
    scored = auc.Scored.of(np.array([1, 0]), np.array([0.9, 0.1]), np.ones(2), np.array([0, 1]))
    found = scored.resampled(2, 40, seed=1)
    assert set(found[np.isfinite(found)]) == {1.0} and np.isnan(found).any()
    assert auc.gain_interval(found, found) == (0.0, 0.0)
    assert all(map(math.isnan, auc.gain_interval(np.full(3, np.nan), np.zeros(3))))


def test_gain_interval_holds_the_gain_and_repeats_with_its_seed():
    generator = np.random.default_rng(0)
    user, label = generator.integers(0, 200, 4000), generator.integers(0, 2, 4000)
    weak = label + generator.normal(0, 3, 4000)
    strong = label + generator.normal(0, 1, 4000)
    with_, without = (auc.Scored.of(label, score, np.ones(4000), user) for score in (strong, weak))
    with_R, without_R = (scored.resampled(200, 200, seed=4) for scored in (with_, without))
    low, high = auc.gain_interval(with_R, without_R)
    assert 0 < low < with_.auc() - without.auc() < high
    assert (with_R == with_.resampled(200, 200, seed=4)).all()
    assert auc.gain_interval(without_R, without_R) == (0, 0)


@pytest.mark.parametrize("tile", [(1, 1), (3, 7), (256, 2048)])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_recall_and_ndcg_equal_the_naive_ones(tile, k):
    generator = np.random.default_rng(8)
    # Small integers: sums are exact, so ties are real ties in every tile.
    user, item = generator.integers(-2, 3, (17, 4)), generator.integers(-2, 3, (30, 4))
    bias = generator.integers(0, 3, 30)
    targets = [sorted(generator.choice(30, generator.integers(0, 6), replace=False)) for _ in range(17)]
    hidden = [set(generator.choice(30, 5, replace=False)) - set(own) for own in targets]
    num_targets = np.array([len(own) + 1 for own in targets])  # one target per user is no candidate
    pairs = np.array([(u, i) for u, own in enumerate(targets) for i in own])
    hidden_pairs = np.array([(u, i) for u, own in enumerate(hidden) for i in own])
    rank_P = ranks.target_ranks(
        torch.tensor(user, dtype=torch.float32),
        torch.tensor(item, dtype=torch.float32),
        torch.tensor(bias, dtype=torch.float32),
        pairs,
        hidden_pairs,
        tile=tile,
    )
    want = naive_retrieval(user @ item.T + bias, targets, hidden, num_targets, k)
    assert ranks.recall_ndcg(rank_P, pairs[:, 0], num_targets, k) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("tile", [(1, 1), (3, 7), (256, 2048)])
@pytest.mark.parametrize("held_bias", [-2.0, 0.0, 3.0, "one a pair"])
def test_what_a_user_holds_has_a_bias_of_its_own(tile, held_bias):
    generator = np.random.default_rng(9)
    user, item = generator.integers(-2, 3, (17, 4)), generator.integers(-2, 3, (30, 4))
    is_held = generator.random((17, 30)) < 0.3
    pairs = np.argwhere(generator.random((17, 30)) < 0.1)
    assert 5 < is_held[*pairs.T].sum() < len(pairs) - 5
    tensors = (torch.tensor(x, dtype=torch.float32) for x in (user, item, np.zeros(30)))
    held = generator.permutation(np.argwhere(is_held))
    bias = generator.integers(-3, 4, (17, 30)) if held_bias == "one a pair" else np.full((17, 30), held_bias)
    given = bias[*held.T] if held_bias == "one a pair" else held_bias
    rank_P = ranks.target_ranks(*tensors, pairs, held, given, tile)
    score = user @ item.T + bias * is_held
    assert rank_P.tolist() == [int((score[u] >= score[u, i]).sum()) for u, i in pairs]


def test_equal_scores_rank_last():
    zeros = torch.zeros(1, 1)
    rank_P = ranks.target_ranks(zeros, torch.zeros(10, 1), torch.zeros(10), np.array([[0, 3]]))
    assert rank_P.tolist() == [10]


@pytest.mark.parametrize("tile", [(5, 16), (64, 48), (256, 2048)])
def test_equal_items_tie_wherever_they_stand(tile):
    torch.manual_seed(0)
    user, item = torch.randn(70, 64), torch.randn(37, 64).repeat(3, 1)
    bias = torch.randn(37).repeat(3)
    pairs = np.array([(u, i) for u in range(70) for i in sorted({u % 37, u % 37 + 37, u % 37 + 74, (u * 7) % 111})])
    rank_P = ranks.target_ranks(user, item, bias, pairs, tile=tile)
    exact = user.double() @ item[:37].double().T + bias[:37].double()
    want = [3 * int((exact[u] >= exact[u, i % 37]).sum()) for u, i in pairs]
    assert rank_P.tolist() == want


def test_a_target_without_a_score_ranks_last():
    user = torch.full((1, 4), torch.nan)
    assert ranks.target_ranks(user, torch.ones(10, 4), torch.zeros(10), np.array([[0, 3]])).tolist() == [10]


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        sizes = [
            value.numel() for value in (made if isinstance(made, tuple | list) else [made]) if torch.is_tensor(value)
        ]
        self.numel = max([self.numel, *sizes])
        return made


def test_ranking_never_holds_users_times_items():
    users, items = 900, 5000
    pairs = np.stack([np.arange(users), np.arange(users) * 5], axis=1)
    with Largest() as largest:
        rank_P = ranks.target_ranks(torch.randn(users, 4), torch.randn(items, 4), torch.zeros(items), pairs)
    assert len(rank_P) == users
    assert largest.numel == ranks.TILE[0] * ranks.TILE[1] < users * items / 8


def naive_calibration(label, probability, weight, bins):
    """Calibration row by row: a row's bin is that of the middle of the weight of all rows with its probability."""
    total = sum(weight)
    members = {}
    for p, y, w in zip(probability, label, weight, strict=True):
        below = sum(v for q, v in zip(probability, weight, strict=True) if q < p)
        equal = sum(v for q, v in zip(probability, weight, strict=True) if q == p)
        members.setdefault(min(int((below + equal / 2) / total * bins), bins - 1), []).append((p, y, w))
    rows = []
    for _, inside in sorted(members.items()):
        size = sum(w for _, _, w in inside)
        rows.append((sum(p * w for p, _, w in inside) / size, sum(y * w for _, y, w in inside) / size, size))
    return rows, sum(abs(p - y) * size for p, y, size in rows) / total


@pytest.mark.parametrize("bins", [1, 4, 10])
def test_calibration_equals_the_naive_one(bins):
    generator = np.random.default_rng(bins)
    probability = generator.integers(0, 30, 200) / 30  # many ties
    label, weight = generator.integers(0, 2, 200), generator.integers(1, 4, 200).astype(np.float32)
    rows, error = auc.calibration(label, probability, weight, bins)
    expected, expected_error = naive_calibration(label, probability, weight, bins)
    assert [tuple(row.values()) for row in rows] == [pytest.approx(one) for one in expected]
    assert error == pytest.approx(expected_error)
    assert list(rows[0]) == ["predicted", "observed", "weight"]


def test_calibration_of_what_is_right_is_zero_and_of_one_value_one_row():
    probability = np.repeat([0.0, 0.25, 1.0], 4)
    label = np.array([0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1])
    rows, error = auc.calibration(label, probability)
    assert error == 0 and [row["observed"] for row in rows] == [0.0, 0.25, 1.0]
    rows, error = auc.calibration(label, np.full(12, 0.5, np.float32))
    assert len(rows) == 1 and rows[0]["weight"] == 12 and error == pytest.approx(abs(5 / 12 - 0.5))
