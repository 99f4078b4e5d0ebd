"""The ranker with and without embeddings, on made-up rows whose truth is known."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.contract.settings import RankerConfig
from models.evaluation.code_features import MOST, code_features
from models.evaluation.evaluate_ranker import RankerSpec, RankerTask, raw_embeddings, run, segments
from models.evaluation.ranker import Ranker
from tests.builders.tensors import random_vectors, write_matrix, write_snapshot

SMALL = RankerConfig(max_iter=40, min_samples_leaf=20)
ITEMS = 50


def rows_table(n=6000, seed=0):
    """Rows whose labels depend on user_events and the first number of mid_emb; the other embeddings are noise."""
    generator = np.random.default_rng(seed)
    events, mid = generator.integers(0, 40, n), generator.normal(size=(n, 4))
    label = generator.random(n) < 1 / (1 + np.exp(1.5 - 0.03 * events - mid[:, 0]))
    lists = {
        "user_emb": generator.normal(size=(n, 8)),
        "item_emb": generator.normal(size=(n, 8)),
        "mid_emb": mid,
    }
    columns = {
        "user_id": pa.array([f"u{i}" for i in generator.integers(0, 300, n)]),
        "item_idx": pa.array(generator.integers(1, ITEMS + 1, n).astype(np.int32)),
        "label": pa.array(label.astype(np.int32)),
        "weight": pa.array(generator.integers(1, 3, n).astype(np.float32)),
        "day": pa.array(np.sort(generator.integers(0, 20, n)).astype(np.int32)),
        "user_events": pa.array(events.astype(np.float32)),
        "item_events": pa.array(generator.integers(0, 60, n).astype(np.float32)),
        "item_bucket": pa.array(generator.integers(0, 60, n).astype(np.float32)),
        "cvr_score": pa.array(generator.random(n).astype(np.float32)),
    }
    columns["is_test"] = pa.array((columns["day"].to_numpy() >= 14).astype(np.int32))
    for name, values in lists.items():
        flat = pa.array(values.astype(np.float32).ravel())
        columns[name] = pa.ListArray.from_arrays(pa.array(np.arange(n + 1) * values.shape[1], pa.int32()), flat)
    return pa.table(columns)


def spec_for(folder, table, **changes):
    settings = {
        "rows": write_snapshot(folder / "rows", table, row_group_size=10_000),
        "content_matrix": write_matrix(folder / "matrix", random_vectors(ITEMS, dim=24)),
        "out_dir": folder / "out",
        "base": ("user_events", "item_events", "item_bucket"),
        "categorical": ("item_bucket",),
        "tail_events": 15,
        "resamples": 40,
        "threads": 1,
        "ranker": SMALL,
        "num_seeds": 2,
        "trial_seeds": 2,
    }
    return RankerSpec(**(settings | changes))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    spec = spec_for(tmp_path_factory.mktemp("ranker"), rows_table())
    return run(spec), json.loads((spec.out_dir / "result.json").read_text())


def test_embeddings_that_say_something_help(found):
    result, written = found
    low, high = result["auc_gain_ci90"]
    assert 0.03 < low < result["auc_gain"] < high
    assert result["auc_gain"] == result["auc_with"] - result["auc_without"]
    assert len(set(result["auc_gain_by_seed"])) == 2 and min(result["auc_gain_by_seed"]) > low
    for name in ("uauc", "wuauc"):
        low, high = result[f"{name}_gain_ci90"]
        assert 0 < low < result[f"{name}_gain"] < high
        assert result[f"{name}_gain"] == result[f"{name}_with"] - result[f"{name}_without"]
    assert written == json.loads(json.dumps(result))


def test_noise_and_shuffled_embeddings_bring_nothing(found):
    alone = found[0]["alone"]
    assert alone["mid_emb"]["auc_gain_ci90"][0] > 0.03
    for name in ("user_emb", "item_emb", "item_content", "item_id", "shuffled"):
        assert alone[name]["auc_gain"] < 0.1 * alone["mid_emb"]["auc_gain"]
        assert alone[name]["auc_gain_ci90"][0] < 0.005


def test_raw_content_keeps_the_distances_that_its_width_can(tmp_path):
    spec = spec_for(tmp_path, rows_table(60))
    items = np.array([3, 50, 3, 7])
    whole, narrow = (raw_embeddings(items, spec, width) for width in (24, 2))
    unit = random_vectors(ITEMS, dim=24)[items].astype("<f2").astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for first, second in ((0, 1), (1, 3)):
        distance = np.linalg.norm(whole["item_content"][first] - whole["item_content"][second])
        assert distance == pytest.approx(np.linalg.norm(unit[first] - unit[second]), rel=1e-5)
    assert narrow["item_content"].shape == narrow["item_id"].shape == (4, 2)
    for vectors in (*whole.values(), *narrow.values()):
        assert (vectors[0] == vectors[2]).all() and (vectors[0] != vectors[1]).any()


def test_segments_cover_the_test_rows(found):
    parts, rows = found[0]["segments"], found[0]["rows"]["test"]
    assert parts["cold_users"]["rows"] + parts["other_users"]["rows"] == rows
    assert set(parts) == {"cold_users", "other_users", "cold_items", "long_tail_items", "other_items"}
    assert all(part["auc_gain_ci90"][0] <= part["auc_gain"] <= part["auc_gain_ci90"][1] for part in parts.values())


def test_segments_by_events_before_the_sample(tmp_path):
    spec = spec_for(tmp_path, rows_table(60), cold_events=10, tail_events=12)
    found = segments(spec, np.array([0, 9, 10, 99]), np.array([5, 12, 13, 10]))
    assert found["cold_users"].tolist() == [True, True, False, False]
    assert found["cold_items"].tolist() == [True, False, False, False]
    assert found["long_tail_items"].tolist() == [True, True, False, True]
    assert found["other_items"].tolist() == [False, False, True, False]


def test_validation_is_the_end_of_the_training_window(tmp_path):
    table = rows_table(400)
    task = RankerTask(spec_for(tmp_path, table), table)
    day = table.column("day").to_numpy()
    assert day[task.train].max() < day[task.valid].min() <= day[task.valid].max() < day[task.test].min()
    assert len(task.train) + len(task.valid) + len(task.test) == 400


def test_one_label_is_an_error_that_says_so(tmp_path):
    table = rows_table(400)
    ones = table.set_column(table.schema.get_field_index("label"), "label", pa.array(np.ones(400, np.int32)))
    with pytest.raises(ValueError, match="test rows hold one label only"):
        run(spec_for(tmp_path, ones))
    X_NF, label_N = np.zeros((4, 1), np.float32), np.ones(4)
    part = (X_NF, label_N, label_N)
    with pytest.raises(ValueError, match="training rows hold one label only"):
        Ranker(SMALL, [0], threads=1).fit(part, part, [])


def test_the_trees_are_equal_for_any_number_of_threads(tmp_path):
    table = rows_table(1500)
    found = [run(spec_for(tmp_path / str(threads), table, threads=threads, alone=False)) for threads in (1, 2)]
    assert found[0] == found[1]


def test_trials_of_fewer_seeds_stand_against_the_same_seeds_alone(tmp_path):
    """A mean over more seeds scores better by itself, so a trial of one seed must not be compared with it."""
    table = rows_table(1500)
    of_one = run(spec_for(tmp_path / "one", table, num_seeds=1, trial_seeds=1))
    of_many = run(spec_for(tmp_path / "many", table, num_seeds=3, trial_seeds=1))
    assert (of_one["alone"], of_one["trial_seeds"]) == (of_many["alone"], of_many["trial_seeds"])
    assert of_many["alone"]["mid_emb"]["auc_without"] == of_one["auc_without"] != of_many["auc_without"]
    asked = run(spec_for(tmp_path / "asked", table, num_seeds=3, trial_seeds=3))
    assert asked["alone"]["mid_emb"]["auc_without"] == of_many["auc_without"]


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(ValueError, match="no column pair_events"):
        run(spec_for(tmp_path, rows_table(400), base=("user_events", "item_events", "pair_events"), categorical=()))


@pytest.mark.process
def test_the_ranker_needs_no_torch():
    """If torch is imported first, the trees use its OpenMP, too, and take several times longer."""
    code = "import sys, models.evaluation.evaluate_ranker; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=400)


@pytest.mark.process
def test_the_trees_need_no_openmp_of_the_system():
    """Slim images have no OpenMP and LightGBM's wheel contains none, so torch's is used."""
    library = Path(torch.__file__).with_name("lib") / "libgomp.so.1"
    if not library.is_file():
        pytest.skip("this torch brings none")
    code = "import models.evaluation.ranker; print(open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=400, capture_output=True, text=True)
    loaded = {line.split()[-1] for line in done.stdout.splitlines() if line.endswith("libgomp.so.1")}
    assert loaded == {str(library)}


def test_codes_are_numbered_by_how_often_training_has_them():
    rng = np.random.default_rng(3)
    codes = np.minimum(rng.geometric(0.01, size=(5000, 3)) - 1, 399).astype(np.int32)
    codes[::9] = -1
    train = np.arange(4000)
    found = code_features(codes, train)
    keys = {
        "item_codes": [[*column] for column in codes.T.tolist()],
        "item_code_prefixes": [[tuple(row[: level + 1]) for row in codes.tolist()] for level in range(3)],
    }
    for name, columns in keys.items():
        for column, seen in zip(found[name].T, columns, strict=True):
            counts = Counter(seen[:4000])
            by_category = {}
            for category, key in zip(column.tolist(), seen, strict=True):
                by_category.setdefault(category, set()).add(key)
            alone = [by_category[category] for category in sorted(by_category) if category]
            assert all(len(keys) == 1 for keys in alone) and len(alone) == min(len(counts), MOST - 1)
            often = [counts[next(iter(keys))] for keys in alone]
            assert often == sorted(counts.values(), reverse=True)[: len(alone)]
    few = code_features(np.array([[4], [4], [9], [7]]), np.array([0, 1, 2]))["item_codes"]
    assert few.tolist() == [[1], [1], [2], [0]], "no training row has 7"


def test_codes_that_say_something_help_as_categories(tmp_path):
    """Labels depend on the second code, whose numbers have no order; item_emb is noise."""
    table, rng = rows_table(), np.random.default_rng(4)
    codes = rng.integers(0, 200, (len(table), 2))
    is_liked = rng.random(200) < 0.5
    label = rng.random(len(table)) < np.where(is_liked[codes[:, 1]], 0.7, 0.3)
    table = table.set_column(table.schema.get_field_index("label"), "label", pa.array(label.astype(np.int32)))
    codes = pa.array(list(codes.astype(np.int32)), pa.list_(pa.int32()))
    alone = run(spec_for(tmp_path, table.append_column("item_codes", codes), codes=True))["alone"]
    assert alone["item_codes"]["auc_gain_ci90"][0] > 0.08
    assert alone["item_emb_and_codes"]["auc_gain_ci90"][0] > 0.05
    assert alone["item_emb"]["auc_gain"] < 0.02
    assert alone["item_code_prefixes"]["auc_gain"] < 0.5 * alone["item_codes"]["auc_gain"], "a prefix begins with noise"
    with pytest.raises(ValueError, match="no column item_codes"):
        run(spec_for(tmp_path / "without", table, codes=True))
