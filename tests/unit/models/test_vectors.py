"""Item vectors outside the lake: copies and indexes, and whether their measured losses are right."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.__main__ import main
from models.export import item_vectors as vectors
from tests.builders.tensors import write_snapshot

ITEMS, USERS, WIDTH = 3000, 60, 16
NEEDS_FAISS = "needs the extra `ann`: faiss-cpu"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Snapshots in another order than item_idx, with vectors in clusters, as towers make them."""
    folder = tmp_path_factory.mktemp("vectors")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, WIDTH))
    item = (centres[rng.integers(40, size=ITEMS)] + 0.4 * rng.normal(size=(ITEMS, WIDTH))).astype(np.float32)
    user = (centres[rng.integers(40, size=USERS)] + 0.4 * rng.normal(size=(USERS, WIDTH))).astype(np.float32)
    order = rng.permutation(ITEMS)
    columns = {
        "item_id": [f"item {n}" for n in order + 1],
        "item_idx": pa.array(order + 1, pa.int32()),
        "item_emb": pa.array(list(item[order]), pa.list_(pa.float32())),
    }
    write_snapshot(folder / "items", pa.table(columns), row_group_size=500)
    users = {"user_id": [f"u{n}" for n in range(USERS)], "user_emb": pa.array(list(user), pa.list_(pa.float32()))}
    write_snapshot(folder / "users", pa.table(users))
    return folder, item, user


def export(folder, tmp_path, **changes):
    spec = {"items": str(folder / "items"), "users": str(folder / "users"), "out_dir": str(tmp_path / "out")}
    (tmp_path / "spec.json").write_text(json.dumps(spec | changes))
    assert main(["export-vectors", "--spec", str(tmp_path / "spec.json")]) == 0
    return json.loads((tmp_path / "out" / "result.json").read_text())


def naive_best(user, item, k):
    """The sets of the k best rows, one per user."""
    return [set(sorted(range(len(item)), key=lambda row: -float(one @ item[row]))[:k]) for one in user]


def naive_recall(found, user, item, k):
    best = naive_best(user, item, k)
    return np.mean([len(best[number] & set(rows)) / k for number, rows in enumerate(found)])


def test_copies_say_what_they_lose(data, tmp_path):
    folder, item, user = data
    about = export(folder, tmp_path, index="none", k=20)
    out, copies = tmp_path / "out", about["copies"]
    assert (about["items"], about["width"], about["queries"], "index" in about) == (ITEMS, WIDTH, USERS, False)
    rows = pq.read_table(out / "items.parquet").to_pydict()
    assert rows["item_idx"] == list(range(1, ITEMS + 1)) and rows["item_id"][41] == "item 42"
    whole = np.fromfile(out / "vectors.f32", "<f4").reshape(ITEMS, WIDTH)
    np.testing.assert_array_equal(whole, item)
    half = np.fromfile(out / "vectors.f16", "<f2").reshape(ITEMS, WIDTH).astype(np.float32)
    scale = np.fromfile(out / "scales.f32", "<f4")
    small = np.fromfile(out / "vectors.i8", np.int8).reshape(ITEMS, WIDTH) * scale[:, None]
    assert (np.abs(small - item) <= scale[:, None] / 2 + 1e-6).all()
    for name, found in (("float32", whole), ("float16", half), ("int8", small)):
        assert copies[name]["max_error"] == pytest.approx(np.abs(found - item).max(), abs=1e-7)
        own = [list(rows) for rows in naive_best(user, found, 20)]
        assert copies[name]["recall"] == pytest.approx(naive_recall(own, user, item, 20), abs=1 / (20 * USERS))
    assert copies["float32"]["recall"] == 1 and copies["int8"]["recall"] > 0.9
    assert copies["float16"]["bytes"] == ITEMS * WIDTH * 2 and copies["int8"]["bytes"] == ITEMS * (WIDTH + 4)


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("hnsw", 0.95), ("ivf", 0.6)])
def test_an_index_finds_what_it_says(data, tmp_path, kind, least):
    faiss = pytest.importorskip("faiss", reason=NEEDS_FAISS)
    folder, item, user = data
    about = export(folder, tmp_path, index=kind)
    assert about["index"]["kind"] == kind and about["k"] == 50
    index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT and index.ntotal == ITEMS
    _, found = index.search(user, 50)
    assert about["index"]["recall"] == pytest.approx(naive_recall(found.tolist(), user, item, 50), abs=1e-3)
    assert about["index"]["recall"] >= least
    assert about["index"]["ms_a_query"] > 0


def test_few_items_have_an_index_too(data, tmp_path):
    pytest.importorskip("faiss", reason=NEEDS_FAISS)
    folder = data[0]
    rows = {"item_id": ["a", "b"], "item_idx": pa.array([5, 2], pa.int32())}
    vector = pa.array([[1.0] * WIDTH, [0.0] * WIDTH], pa.list_(pa.float32()))
    write_snapshot(tmp_path / "items", pa.table(rows | {"item_emb": vector}), files=1)
    about = export(folder, tmp_path, items=str(tmp_path / "items"), index="ivf")
    assert about["k"] == 2 and about["index"]["recall"] == about["copies"]["int8"]["recall"] == 1
    assert pq.read_table(tmp_path / "out" / "items.parquet")["item_id"].to_pylist() == ["b", "a"]


def test_what_does_not_fit_is_refused(data, tmp_path, capsys, monkeypatch):
    narrow = {"user_id": ["u"], "user_emb": pa.array([[1.0]], pa.list_(pa.float32()))}
    write_snapshot(tmp_path / "users", pa.table(narrow), files=1)
    spec = {"items": str(data[0] / "items"), "users": str(tmp_path / "users"), "out_dir": str(tmp_path / "out")}
    (tmp_path / "spec.json").write_text(json.dumps(spec | {"index": "none"}))
    assert main(["export-vectors", "--spec", str(tmp_path / "spec.json")]) == 2
    assert "items have width 16, users 1: other models made them" in capsys.readouterr().err
    monkeypatch.setattr(vectors, "NEEDED", "faiss_that_nobody_has")
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert main(["export-vectors", "--spec", str(tmp_path / "spec.json")]) == 2
    assert "hnsw needs faiss_that_nobody_has: pip install 'learn-spark[ann]'" in capsys.readouterr().err
