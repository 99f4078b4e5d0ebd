"""Systems side by side: every figure of every system against loops over plain lists."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.__main__ import main
from models.baselines import history, scorer
from models.baselines.hstu import HSTU
from models.baselines.popularity import training_counts
from models.baselines.prompt_ranker import PromptRanker
from models.baselines.scorer import HistoryScorer
from models.contract.evaluation_specs import SampledConfig
from models.contract.language_models import PromptConfig
from models.contract.settings import SequentialConfig, TowersConfig
from models.data.content import ContentMatrix
from models.data.item_texts import ItemTexts
from models.evaluation.evaluate_systems import SystemsSpec, SystemsTask, run
from models.evaluation.fitted import Weights, fit_weights
from models.evaluation.validation import Validation
from models.metrics.sampled_candidates import SampledCandidates
from models.saved import load_towers, save_sequential, save_towers
from models.towers.repeats import REPEAT_SPEED
from models.towers.towers import Towers
from tests.builders.encoders import save_tiny_llama
from tests.builders.tensors import random_vectors, write_matrix, write_snapshot
from tests.builders.texts import write_texts
from tests.oracles import retrieval

ITEMS, HIST, TAR = 30, 6, 3
DAY = 86_400


def made_rows(num_rows, num_users, seed, known):
    """Rows of a few users with items among the first `known` ones; some rows have no history."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        length = int(rng.integers(0, HIST + 1))
        popular = 1 + (rng.random(length + TAR) ** 2 * known).astype(int)
        times = 1_300_000_000 + np.sort(rng.integers(0, 60 * DAY, length))
        targets = popular[length:][: rng.integers(1, TAR + 1)].tolist()
        user = f"u{rng.integers(num_users)}"
        rows.append({"user_id": user, "hist": popular[:length].tolist(), "ts": times.tolist(), "tar": targets})
    return rows


def as_table(rows):
    def padded(name, width, kind):
        return pa.array([row[name] + [0] * (width - len(row[name])) for row in rows], pa.list_(kind))

    return pa.table(
        {
            "user_id": [row["user_id"] for row in rows],
            "hist_items": padded("hist", HIST, pa.int32()),
            "hist_ts": padded("ts", HIST, pa.int64()),
            "hist_len": pa.array([len(row["hist"]) for row in rows], pa.int32()),
            "tar_items": padded("tar", TAR, pa.int32()),
            "tar_len": pa.array([len(row["tar"]) for row in rows], pa.int32()),
        }
    )


def made_test_day():
    """A row per user with the items bought in the window and at any time before; the known items' recent purchases."""
    rng = np.random.default_rng(2)
    # Two items that occur equally often are equally near to their mean, so that rounding decides which is nearer.
    rows = [row for row in made_rows(50, 50, 3, ITEMS) if len(set(row["hist"])) != 2 or len(row["hist"]) % 2]
    for number, row in enumerate(rows):
        more = rng.integers(0, ITEMS + 1, 4).tolist()  # 0: an item without a number
        older = rng.integers(1, ITEMS + 1, 3).tolist()
        row |= {"user_id": f"d{number}", "bought": sorted({*row["tar"], *more}), "seen": sorted({*row["hist"], *older})}
    return rows, {int(item): int(rng.integers(0, 9)) for item in rng.permutation(ITEMS)[:KNOWN] + 1}


def purchases_of(rows):
    return [
        (row["user_id"], item, int(item in row["bought"]), int(item in row["seen"]))
        for row in rows
        for item in sorted({*row["bought"], *row["seen"]})
    ]


KNOWN = 24
TRAIN, TEST = made_rows(90, 25, 0, 24), made_rows(70, 20, 1, ITEMS)
DAY_ROWS, DAY_ITEMS = made_test_day()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_snapshot(folder / "train", as_table(TRAIN))
    write_snapshot(folder / "test", as_table(TEST))
    write_snapshot(folder / "day", as_table(DAY_ROWS))
    known = {"item_idx": list(DAY_ITEMS), "purchases": list(DAY_ITEMS.values())}
    write_snapshot(folder / "known", pa.table(known))
    names = ["user_id", "item_idx", "is_target", "is_seen"]
    bought = pa.table(dict(zip(names, map(list, zip(*purchases_of(DAY_ROWS), strict=True)), strict=True)))
    write_snapshot(folder / "purchases", bought)
    write_matrix(folder / "matrix", random_vectors(ITEMS))
    write_matrix(folder / "other", random_vectors(ITEMS, dim=5, seed=3))
    write_matrix(folder / "small", random_vectors(ITEMS - 1))
    torch.manual_seed(0)
    towers = Towers(TowersConfig(d_model=16, heads=2, embedding_dim=8, content_residual=True), 16)
    save_towers(folder / "towers", towers)
    again = Towers(TowersConfig(d_model=16, heads=2, embedding_dim=8, content_residual=True, repeat_bias=True), 16)
    again.repeat_weight.data.fill_(-0.04 / REPEAT_SPEED)
    save_towers(folder / "repeats", again)
    save_sequential(folder / "hstu", HSTU(SequentialConfig(kind="hstu", d_model=8), ITEMS + 1))
    return folder


@pytest.fixture
def spec(data, tmp_path):
    return {
        "train_snapshot": str(data / "train"),
        "test_snapshot": str(data / "test"),
        "candidates": "catalogue",
        "content_matrix": str(data / "matrix"),
        "out_dir": str(tmp_path / "out"),
        "systems": [
            {"name": "towers", "kind": "model", "folder": str(data / "towers"), "popularity_prior": 0.5},
            {"name": "hstu", "kind": "model", "folder": str(data / "hstu")},
            {"name": "repeats", "kind": "model", "folder": str(data / "repeats")},
            {"name": "popularity", "kind": "popularity"},
            {"name": "last item", "kind": "last_item"},
            {"name": "cooccurrence", "kind": "cooccurrence", "recency_decay": 0.7},
            {"name": "cooccurrence and prior", "kind": "cooccurrence", "popularity_prior": 0.3},
            {"name": "mean content", "kind": "mean_content"},
            {"name": "other content", "kind": "mean_content", "content_matrix": str(data / "other")},
            {
                "name": "content and prior",
                "kind": "mean_content",
                "folder": str(data / "towers"),
                "popularity_prior": 0.5,
            },
        ],
        "ks": [2, 5],
        "popularity_days": 20,
        "long_tail_max": 4,
        "cold_user_max": 2,
        "resamples": 300,
    }


@pytest.fixture
def day(data, spec):
    """The same systems, evaluated on the rows of a test day."""
    snapshots = {"test_snapshot": "day", "known_items": "known", "purchases": "purchases"}
    return spec | {key: str(data / name) for key, name in snapshots.items()} | {"candidates": "known"}


def mean_content_scores(folder, rows):
    vectors = np.fromfile(folder / "vectors.f16", "<f2").reshape(ITEMS + 1, -1).astype(np.float64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    scores = []
    for row in rows:
        mean = unit[row["hist"]].sum(0) if row["hist"] else np.zeros(unit.shape[1])
        scores.append(unit @ mean / max(np.linalg.norm(mean), 1e-12))
    return np.array(scores)


def model_scores(data, name, rows):
    from models.saved import load_retriever

    model, content = load_retriever(data / name), ContentMatrix(data / "matrix")
    item_IK = model.embed_items(np.arange(ITEMS + 1), content).astype(np.float64)
    scores = []
    for row in rows:  # each alone
        times = np.array([row["ts"] or [0]])
        user_K = model.embed_users(
            np.array([row["hist"] or [0]]), np.array([len(row["hist"])]), content, hist_ts_BH=times
        )[0]
        scores.append(item_IK @ user_K)
    return scores


def naive_scores(data, rows=TEST, counts=None):
    """Scores by system. Popularity and prior are from `counts`, or else from the training rows and the histories."""
    prior = np.log1p(counts) if counts else np.array(retrieval.naive_prior(rows, ITEMS + 1, 20))
    counts = counts or retrieval.naive_counts(TRAIN, ITEMS + 1)
    users = retrieval.naive_users(TRAIN, ITEMS + 1)
    is_held = np.array([[item in row["hist"] for item in range(ITEMS + 1)] for row in rows])
    cooccurrence = [[retrieval.naive_cooccurrence(row, users, decay) for row in rows] for decay in (0.7, 0.9)]
    return {
        "towers": model_scores(data, "towers", rows) + 0.5 * prior,
        "hstu": model_scores(data, "hstu", rows),
        "repeats": model_scores(data, "repeats", rows) - 0.04 / 0.07 * is_held,
        "popularity": [counts] * len(rows),
        "last item": [retrieval.naive_last_item(row, counts) for row in rows],
        "cooccurrence": cooccurrence[0],
        "cooccurrence and prior": (np.array(cooccurrence[1]) + 0.3 * prior).round(9),
        "mean content": mean_content_scores(data / "matrix", rows),
        "other content": mean_content_scores(data / "other", rows),
        "content and prior": mean_content_scores(data / "matrix", rows) / 0.07 + 0.5 * prior,
    }


def segments_of(ranks, rows=TEST):
    counts = retrieval.naive_counts(TRAIN, ITEMS + 1)
    length = {number: len(row["hist"]) for number, row in enumerate(rows)}
    tests = {
        "cold_items": lambda number, item: counts[item] == 0,
        "long_tail_items": lambda number, item: 0 < counts[item] <= 4,
        "other_items": lambda number, item: counts[item] > 4,
        "cold_users": lambda number, item: length[number] <= 2,
        "other_users": lambda number, item: length[number] > 2,
    }
    return {name: {key: rank for key, rank in ranks.items() if test(*key)} for name, test in tests.items()}


def assert_equal_figures(found, ranks):
    assert found["targets"] == len(ranks) > 0
    for k in (2, 5):
        (recall, ndcg), _ = retrieval.naive_figures(ranks, k)
        assert found[f"recall_at_{k}"] == pytest.approx(recall, abs=1e-12)
        assert found[f"ndcg_at_{k}"] == pytest.approx(ndcg, abs=1e-12)


@pytest.mark.parametrize("keep_seen", [True, False])
def test_every_system_has_the_figures_of_the_loops(data, tmp_path, spec, monkeypatch, keep_seen):
    monkeypatch.setattr(scorer, "BLOCK_SCORES", 7 * (ITEMS + 1))  # several blocks, the last one smaller
    monkeypatch.setattr(history, "CHUNK_ROWS", 13)
    result = run(SystemsSpec.model_validate(spec | {"filter_seen": not keep_seen}))
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result
    asked = [(n, item) for n, row in enumerate(TEST) if row["hist"] for item in set(row["tar"])]
    seen = [(n, item) for n, item in asked if item in TEST[n]["hist"]]
    counts = retrieval.naive_counts(TRAIN, ITEMS + 1)[1:]
    kept = asked if keep_seen else sorted(set(asked) - set(seen))
    assert result["data"] == {
        "rows": len({n for n, _ in kept}),
        "users": len({TEST[n]["user_id"] for n, _ in kept}),
        "targets": len(kept),
        "targets_no_candidate": 0,
        "targets_new": len(set(asked) - set(seen)),
        "targets_trained": sum(
            any(row["user_id"] == TEST[n]["user_id"] and item in row["tar"] for row in TRAIN) for n, item in kept
        ),
        "items": ITEMS,
        "candidates": ITEMS,
        "cold_items": counts.count(0),
        "long_tail_items": sum(0 < count <= 4 for count in counts),
        "rows_without_history": sum(not row["hist"] for row in TEST),
        "targets_seen_left_out": 0 if keep_seen else len(seen),
        "train_rows": 90,
        "train_users": len({row["user_id"] for row in TRAIN}),
    }
    assert len(seen) > 5 and result["data"]["rows_without_history"] > 3
    for name, scores in naive_scores(data).items():
        ranks, found = retrieval.naive_ranks(TEST, scores, keep_seen), result["systems"][name]
        with np.load(tmp_path / "out" / f"{name}.npz") as file:
            pairs = zip(file["row"].tolist(), file["item"].tolist(), strict=True)
            assert dict(zip(pairs, file["rank"].tolist(), strict=True)) == ranks, name
            users = [TEST[row]["user_id"] for row in file["row"]]
            assert len(set(zip(users, file["user"].tolist(), strict=True))) == len(set(users))
        assert_equal_figures(found, ranks)
        for segment, own in segments_of(ranks).items():
            assert_equal_figures(found["segments"][segment], own)
        assert ("new_to_user" in found["segments"]) == keep_seen
        if keep_seen:
            assert_equal_figures(found["segments"]["new_to_user"], retrieval.naive_ranks(TEST, scores, False))
        assert found["seconds"] > 0 and found["seconds_per_user"] * result["data"]["rows"] == pytest.approx(
            found["seconds"]
        )
        assert (found["parameters"] > 0) == (name in ("towers", "hstu", "repeats"))


@pytest.mark.parametrize("candidates", ["known", "catalogue"])
@pytest.mark.parametrize("keep_seen", [True, False])
def test_a_test_day_has_the_figures_of_the_loops(data, day, candidates, keep_seen):
    """Known items are ranked; targets are all purchases of the window; those that are no candidates are missed."""
    result = run(
        SystemsSpec.model_validate(day | {"candidates": candidates, "filter_seen": not keep_seen, "ks": [2, 5, 50]})
    )
    asked = [(n, item) for n, row in enumerate(DAY_ROWS) if row["hist"] for item in row["bought"]]
    new = [(n, item) for n, item in asked if item not in DAY_ROWS[n]["seen"]]
    kept, ranked = asked if keep_seen else new, set(DAY_ITEMS) if candidates == "known" else set(range(1, ITEMS + 1))
    lost = [item for _, item in kept if item not in ranked]
    assert len(lost) > (10 if candidates == "known" else 1) and 10 < len(new) < len(asked) - 10
    counted = {name: result["data"][name] for name in ("targets", "targets_no_candidate", "targets_new", "candidates")}
    assert list(counted.values()) == [len(kept), len(lost), len(new), len(ranked)]
    assert result["data"]["targets_seen_left_out"] == len(asked) - len(kept)
    counts = [DAY_ITEMS.get(item, 0) for item in range(ITEMS + 1)]
    for name, scores in naive_scores(data, DAY_ROWS, counts).items():
        found = result["systems"][name]
        ranks = retrieval.naive_ranks(DAY_ROWS, scores, keep_seen, ranked)
        assert_equal_figures(found, ranks)
        assert found["recall_at_50"] < 1, "a list as long as the catalogue does not find what is no candidate"
        for segment, own in segments_of(ranks, DAY_ROWS).items():
            assert_equal_figures(found["segments"][segment], own)
        if keep_seen:
            of_new = retrieval.naive_ranks(DAY_ROWS, scores, False, ranked)
            assert_equal_figures(found["segments"]["new_to_user"], of_new)


def test_weights_are_fitted_on_other_rows_and_vectors_stay(data, spec, tmp_path):
    """Figures of validation and test rows equal those of the loops with the fitted weights."""
    systems = [
        {"name": name, "kind": "model", "folder": str(data / folder), "popularity_prior": 0.5, "fitted": fitted}
        for name, folder, fitted in (("towers", "towers", False), ("fitted", "towers", True), ("again", "hstu", True))
    ]
    validation = {"metric": "ndcg", "k": 5, "popularity_days": 20}
    spec |= {"systems": systems, "val_snapshot": str(data / "train"), "validation": validation}
    found = run(SystemsSpec.model_validate(spec))["systems"]
    assert found["towers"]["fitted"] is None
    prior = {name: np.array(retrieval.naive_prior(rows, ITEMS + 1, 20)) for name, rows in (("v", TRAIN), ("t", TEST))}
    held = {
        name: np.array([[item in row["hist"] for item in range(ITEMS + 1)] for row in rows])
        for name, rows in (("v", TRAIN), ("t", TEST))
    }
    for name, folder in (("fitted", "towers"), ("again", "hstu")):
        fitted = found[name]["fitted"]
        repeat, weight = fitted["repeat_bias"], fitted["popularity_prior"]
        scores = model_scores(data, folder, TEST) + weight * prior["t"] + repeat * held["t"]
        assert_equal_figures(found[name], retrieval.naive_ranks(TEST, scores, True))
        on_validation = model_scores(data, folder, TRAIN) + weight * prior["v"] + repeat * held["v"]
        (_, ndcg), _ = retrieval.naive_figures(retrieval.naive_ranks(TRAIN, on_validation, True), 5)
        assert fitted["after"]["ndcg_at_5"] == pytest.approx(ndcg, abs=1e-9)
        assert fitted["after"]["ndcg_at_5"] > fitted["before"]["ndcg_at_5"] and fitted["tried"] < 60


def test_users_of_one_model_meet_items_of_another(data, spec, tmp_path):
    """Figures of mixed vectors equal those of the loops; an item that a matrix lacks has the vector of no content."""
    torch.manual_seed(4)
    other = Towers(TowersConfig(d_model=16, heads=2, embedding_dim=8), 16).eval()
    save_towers(tmp_path / "other", other)
    ours, theirs = (str(data / "towers"), str(data / "matrix")), (str(tmp_path / "other"), str(data / "small"))
    systems = [
        dict(zip(("folder", "content_matrix", "items_of", "items_matrix"), (*users, *items), strict=True))
        | {"name": name, "kind": "model", "popularity_prior": 0.5}
        for name, users, items in (("same", ours, ours), ("items", ours, theirs), ("users", theirs, ours))
    ]
    found = run(SystemsSpec.model_validate(spec | {"systems": [spec["systems"][0], *systems]}))["systems"]
    assert found["same"]["recall_at_5"] == found["towers"]["recall_at_5"]
    known, content, small = load_towers(data / "towers"), ContentMatrix(data / "matrix"), ContentMatrix(data / "small")
    item_I = np.arange(ITEMS + 1)
    vectors = {
        "items": (known, content, other.embed_items(np.where(item_I < small.rows, item_I, 0), small)),
        "users": (other, small, known.embed_items(item_I, content)),
    }
    prior = np.array(retrieval.naive_prior(TEST, ITEMS + 1, 20))
    for name, (model, matrix, item_IK) in vectors.items():
        scores = []
        for row in TEST:
            hist = np.array([row["hist"] or [0]])
            user_1K = model.embed_users(np.where(hist < matrix.rows, hist, 0), np.array([len(row["hist"])]), matrix)
            scores.append(item_IK.astype(np.float64) @ user_1K[0] + 0.5 * prior)
        assert_equal_figures(found[name], retrieval.naive_ranks(TEST, scores, True))
    assert found["items"]["recall_at_5"] != found["towers"]["recall_at_5"]


def test_targets_that_no_item_stands_for_are_missed_by_all(data, spec, tmp_path):
    rows = [row | {"unknown": number % 3} for number, row in enumerate(TEST)]
    table = as_table(rows).append_column("tar_unknown", pa.array([row["unknown"] for row in rows], pa.int32()))
    write_snapshot(tmp_path / "own", table)
    found = run(SystemsSpec.model_validate(spec | {"test_snapshot": str(tmp_path / "own")}))
    missed = {(n, -each): 10**9 for n, row in enumerate(rows) if row["hist"] for each in range(row["unknown"])}
    assert found["data"]["targets_no_candidate"] == len(missed) > 30
    for name, scores in naive_scores(data).items():
        assert_equal_figures(found["systems"][name], retrieval.naive_ranks(TEST, scores, True) | missed)


def test_a_planted_repeat_is_found():
    """Users take items of their history and popular ones; the vectors are random."""
    rng = np.random.default_rng(4)
    users, items = 300, 200
    hist_BH = np.stack([rng.choice(items - 1, 8, replace=False) + 1 for _ in range(users)])
    popular_I = rng.exponential(1.0, items)
    target_P2 = np.array(
        [(user, item) for user in range(users) for item in np.unique([*hist_BH[user, :3], *popular_I.argsort()[-2:]])]
    )
    validation = object.__new__(Validation)
    validation.k, validation.metric, validation.popularity_prior = 10, "recall_at_10", 1.0
    validation.rows, validation.target_P2 = {"hist_items": hist_BH}, target_P2
    validation._popularity_I = popular_I.astype(np.float32)
    user_BK, item_IK = (rng.normal(0, 1, (rows, 4)).astype(np.float32) for rows in (users, items))
    fitted = fit_weights(user_BK, item_IK, validation, Weights())
    assert fitted.weights.repeat_bias >= 4 and fitted.weights.popularity_prior > 0
    assert fitted.after["recall_at_10"] > fitted.before["recall_at_10"] + 0.3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "need val_snapshot"),
        ({"val_snapshot": "x", "filter_seen": True}, "seen items among the candidates"),
        ({"val_snapshot": "x", "systems": [{"name": "a", "kind": "popularity", "fitted": True}]}, "only a model"),
    ],
)
def test_what_cannot_be_fitted_is_refused(data, spec, changes, told):
    system = {"name": "a", "kind": "model", "folder": str(data / "towers"), "fitted": True}
    with pytest.raises(ValueError, match=told):
        SystemsSpec.model_validate(spec | {"systems": [system]} | changes)


def test_what_is_no_candidate_is_not_sampled(data, day, tmp_path):
    spec = SystemsSpec.model_validate(day | {"sampled": {"rows": 99, "candidates": 6, "seed": 3}})
    found = run(spec)["systems"]
    drawn = SystemsTask(spec).sampled
    assert set(drawn.item_SC.ravel()) <= set(DAY_ITEMS)
    can_be = [n for n, row in enumerate(DAY_ROWS) if row["hist"] and row["tar"][0] in DAY_ITEMS]
    assert drawn.row_S.tolist() == can_be and 10 < len(can_be) < sum(bool(row["hist"]) for row in DAY_ROWS)
    assert found["popularity"]["sampled"]["rows"] == len(can_be)


def test_intervals_are_those_of_resampled_users_with_all_their_rows(data, spec):
    spec |= {"systems": spec["systems"][5:6], "resamples": 4000}
    found = run(SystemsSpec.model_validate(spec))["systems"]["cooccurrence"]
    ranks = retrieval.naive_ranks(TEST, naive_scores(data)["cooccurrence"], True)
    rng = np.random.default_rng(5)
    for figures, own in [(found, ranks), (found["segments"]["cold_users"], segments_of(ranks)["cold_users"])]:
        _, values = retrieval.naive_figures(own, 5)
        users = sorted({TEST[number]["user_id"] for number, _ in ranks})
        by_user = [[value for number, value in values.items() if TEST[number]["user_id"] == user] for user in users]
        means = []
        for _ in range(4000):
            drawn = [value for user in rng.integers(len(users), size=len(users)) for value in by_user[user]]
            means.append(np.mean(drawn, axis=0))
        want = np.quantile(means, [0.05, 0.95], axis=0)
        for column, name in enumerate(("recall_at_5", "ndcg_at_5")):
            low, high = figures["ci90"][name]
            assert low < figures[name] < high
            assert (low, high) == pytest.approx(want[:, column], abs=0.02)


def test_all_systems_rank_the_same_sampled_candidates(data, spec, tmp_path):
    prompt = {"llm": {"model": str(save_tiny_llama(tmp_path / "llama")), "lora": None}, "history": 3, "max_tokens": 4}
    prompt |= {"heading": "red", "question": "blue"}
    texts = write_texts(tmp_path / "texts", ITEMS)
    spec["systems"].append({"name": "llm", "kind": "prompt", "prompt": prompt})
    spec |= {"sampled": {"rows": 25, "candidates": 6, "seed": 3}, "item_texts": str(texts)}
    found = run(SystemsSpec.model_validate(spec))["systems"]
    rows = {
        "hist_items": np.array([row["hist"] + [0] * (HIST - len(row["hist"])) for row in TEST]),
        "hist_len": np.array([len(row["hist"]) for row in TEST]),
        "tar_items": np.array([row["tar"] + [0] * (TAR - len(row["tar"])) for row in TEST]),
    }
    drawn = SampledCandidates(rows, np.arange(1, ITEMS + 1), SampledConfig(rows=25, candidates=6, seed=3))
    for name, scores in naive_scores(data).items():
        ranks = []
        for row, items in zip(drawn.row_S, drawn.item_SC, strict=True):
            target, *others = (float(scores[row][item]) for item in items)
            ranks.append(1 + sum(other >= target - 1e-7 for other in others))
        assert found[name]["sampled"]["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks])), name
        assert found[name]["sampled"]["recall_at_1"] == pytest.approx(np.mean([rank == 1 for rank in ranks])), name
    without_llm = spec | {"systems": spec["systems"][:-1], "filter_seen": True}
    hidden = run(SystemsSpec.model_validate(without_llm))["systems"]
    assert hidden["last item"]["sampled"] == found["last item"]["sampled"], "what is drawn is ranked, seen or not"
    asked = PromptRanker(PromptConfig.model_validate(prompt), ItemTexts(texts), ITEMS + 1)
    scores, tokens = asked.sampled_scores(rows, drawn)
    llm = found["llm"]["sampled"]
    assert list(found["llm"]) == ["sampled"], "no figure over all items, which others have"
    assert llm["mrr"] == pytest.approx(drawn.figures(scores)["mrr"])
    assert (llm["parameters"], llm["tokens_per_user"]) == (0, tokens / 25)
    assert llm["seconds_per_user_all_items"] == pytest.approx(llm["seconds_per_user"] * ITEMS / 6)
    assert llm["model_parameters"] == sum(weight.numel() for weight in asked.parameters())


def test_equal_scores_stand_before_the_target(data, spec, tmp_path):
    write_matrix(tmp_path / "equal", np.ones((ITEMS + 1, 4)) * (np.arange(ITEMS + 1) > 0)[:, None])
    spec["systems"] = [{"name": "equal", "kind": "mean_content", "content_matrix": str(tmp_path / "equal")}]
    run(SystemsSpec.model_validate(spec))
    with np.load(tmp_path / "out" / "equal.npz") as file:
        assert (file["rank"] == ITEMS).all()
    dead = HistoryScorer(
        lambda hist, length: np.zeros((len(length), 5)),
        np.ones((3, 1), int),
        np.ones(3, int),
        np.array([-np.inf, 0, 0, 0, 0]),
    )
    assert dead.ranks(np.array([[0, 1], [2, 4]]), np.array([[0, 2], [2, 1], [2, 2]])).tolist() == [3, 2]


def test_every_event_of_prefix_rows_counts_once():
    events, rows = [3, 1, 3, 2, 2, 1], []
    for place in range(1, len(events)):
        hist = events[max(0, place - 3) : place]
        rows.append((7, hist + [0] * (3 - len(hist)), [events[place]]))
    rng = np.random.default_rng(0)
    user_R, hist_RH, tar_RT = (np.array(column) for column in zip(*[rows[n] for n in rng.permutation(5)], strict=True))
    assert training_counts(user_R, hist_RH, tar_RT, 5).tolist() == [0, 2, 2, 2, 0]
    hist_RH[0, 0] = 4  # only in a later history
    assert training_counts(user_R, hist_RH, tar_RT, 5)[4] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"systems": []}, "systems: "),
        ({"systems": [{"name": "a", "kind": "popularity"}, {"name": "a", "kind": "last_item"}]}, "of one name: a"),
        ({"systems": [{"name": "../a", "kind": "popularity"}]}, "systems.0.name"),
        ({"systems": [{"name": "a", "kind": "model"}]}, "system a: kind model needs a folder"),
        ({"systems": [{"name": "a", "kind": "popularity", "folder": "/x"}]}, "no other has one"),
        ({"systems": [{"name": "a", "kind": "prompt", "folder": "/x"}]}, "kind prompt need sampled and item_texts"),
        ({"systems": [{"name": "a", "kind": "popularity", "popularity_prior": 1}]}, "takes no popularity_prior"),
        ({"systems": [{"name": "a", "kind": "last_item", "content_matrix": "/x"}]}, "uses no content_matrix"),
        ({"systems": [{"name": "a", "kind": "model", "folder": "/x", "items_of": "/y"}]}, "items_of goes with"),
        ({"systems": [{"name": "a", "kind": "model", "folder": "/nowhere"}]}, "model /nowhere: cannot read"),
        ({"systems": [{"name": "a", "kind": "mean_content", "content_matrix": "small"}]}, "30 rows, .* 31"),
        ({"content_matrix": "small"}, "item_idx 30 .* outside the content matrix of 30 rows"),
        ({"train_snapshot": "/nowhere"}, "train_snapshot: no such folder: /nowhere"),
        ({"cold": 1}, "unknown key `cold`; known: .*candidates"),
        ({"candidates": "known"}, "candidates: known needs known_items and purchases; without a test day"),
        ({"candidates": "all"}, "`candidates`: .*'known' or 'catalogue'"),
        ({"purchases": "/nowhere"}, "give both, or none"),
    ],
)
def test_bad_specs_exit_with_one_line_and_code_2(data, tmp_path, spec, capsys, change, message):
    text = json.dumps(spec | change).replace('"small"', json.dumps(str(data / "small")))
    (tmp_path / "spec.json").write_text(text)
    assert main(["evaluate-systems", "--spec", str(tmp_path / "spec.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("evaluate-systems: ") and error.count("\n") == 1
    assert re.search(message, error)
