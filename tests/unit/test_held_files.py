"""Files beside the tables that hold forgotten users: which are found, which are deleted, which are made again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learn_spark.forgetting.held_files import Sought, matrices_with, snapshot_holds, without_rows
from learn_spark.forgetting.models import LEARNED, learned_models, mark
from learn_spark.lake.forget_requests import Request, hash_of, open_requests, request_id, requests_of, write_request
from learn_spark.lake.tables import Tables
from learn_spark.lake.tombstones import USER
from models.contract.content_matrix import MatrixMeta, block_digests, open_matrix, write_meta

SALT = "of this lake"


def sought(*users: str, numbers: tuple[int, ...] = ()) -> Sought:
    return Sought(SALT, {USER: frozenset(hash_of(SALT, name) for name in users)}, frozenset(numbers))


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        ("row (17, 4)", True),
        ("user=17.0;", True),
        ('{"user": "17"}', True),
        ("17", True),
        ("117 171 a17 17a", False),
        ("ann@shop.example,x", True),
        ("joann@shop.example,x", False),
        ("", False),
    ],
)
def test_an_id_counts_where_it_stands_by_itself(text: str, is_named: bool) -> None:
    assert sought("17", "ann@shop.example").is_named_in(text) == is_named


def test_a_snapshot_is_searched_by_ids_and_by_numbers_in_lists(tmp_path: Path) -> None:
    rows = {"user_id": ["u1", "u12"], "hist_items": [[3, 0], [4, 5]]}
    pq.write_table(pa.table(rows), tmp_path / "part-00000.parquet")
    assert snapshot_holds(tmp_path, sought("u12"))
    assert not snapshot_holds(tmp_path, sought("u"))
    assert snapshot_holds(tmp_path, sought(numbers=(5,)))
    assert not snapshot_holds(tmp_path, sought("u", numbers=(6,)))


def test_a_vector_is_zeros_in_a_new_file_and_the_old_one_is_gone(tmp_path: Path) -> None:
    lake = Tables(None, tmp_path)  # pyright: ignore[reportArgumentType] - artifacts need no session
    folder = lake.artifacts.path("matrix", "minilm")
    folder.mkdir(parents=True)
    vectors = np.arange(1, 13, dtype="<f2").reshape(4, 3)
    for name in ("vectors-1.f16", "vectors-2.f16", "vectors-3.f16"):  # the last one by a killed sweep
        (folder / name).write_bytes(vectors.tobytes())
    blocks = tuple(block_digests(folder / "vectors-2.f16", 4, 3, [0]))
    about = {"rows": 4, "dim": 3, "dtype": "float16", "encoder_id": "e", "texts": 7, "vectors": "vectors-2.f16"}
    write_meta(folder, MatrixMeta(**about, blocks=blocks))
    assert matrices_with(lake, [2, 9]) == {folder: [2]}
    without_rows(folder, [2])
    read, _ = open_matrix(folder)
    expected = vectors.copy()
    expected[2] = 0
    assert np.array_equal(read[np.arange(4)], expected), "verified by its digests"
    assert len(list(folder.glob("*.f16"))) == 1
    assert matrices_with(lake, [2, 9]) == {}


def test_a_model_is_due_for_as_long_as_its_weights_are_those_that_learned(tmp_path: Path) -> None:
    models, snapshots = tmp_path / "_artifacts" / "models", tmp_path / "_artifacts" / "snapshots"
    for name, users in {"train": ["u1", "u2"], "val": ["u3"], "clean": ["u4"]}.items():
        (snapshots / name).mkdir(parents=True)
        pq.write_table(pa.table({"user_id": users}), snapshots / name / "part-00000.parquet")
    trained = {"towers-a": ("train", "val"), "towers-b": ("clean", "val"), "cvr-a": ("clean", "clean")}
    trained |= {"compare-x": ("train", "val"), "towers-c": ("train", "val"), "towers-d": ("gone", "val")}
    for name, (train, val) in trained.items():
        (models / name).mkdir(parents=True)
        (models / name / "model.safetensors").write_bytes(name.encode())
        spec = f'{{"train_snapshot": "/elsewhere/{train}", "val_snapshot": "/elsewhere/{val}"}}'
        (models / name / "spec.json").write_text(spec)
        if name != "towers-c":
            (models / name / "result.json").write_text("{}")
    found = {model.folder.name: model.is_kept for model in learned_models(models, snapshots, sought("u2"))}
    assert found == {"cvr-a": True, "compare-x": False, "towers-a": True, "towers-c": False, "towers-d": True}
    mark(learned_models(models, snapshots, sought("u2")), ["r1"])
    mark(learned_models(models, snapshots, sought("u3")), ["r2"])
    told = {file.parent.name: file.read_text() for file in models.glob(f"*/{LEARNED}")}
    assert set(told) == {"cvr-a", "towers-a", "towers-b", "towers-d"}
    assert "r1" in told["towers-a"] and "r2" in told["towers-a"] and "r1" not in told["towers-b"]


def test_the_same_list_is_the_same_request_in_any_order(tmp_path: Path) -> None:
    pairs = [(USER, hash_of(SALT, name)) for name in ("a", "b")]
    assert request_id(pairs) == request_id(pairs[::-1]) != request_id(pairs[:1])
    request = Request(request_id(pairs), SALT, "2024-01-01T00:00:00+00:00", {USER: [name for _, name in pairs]})
    write_request(tmp_path, request)
    assert open_requests(tmp_path) == [request]
    write_request(tmp_path, request.ended())
    assert (open_requests(tmp_path), [one.pairs for one in requests_of(tmp_path)]) == ([], [pairs])
