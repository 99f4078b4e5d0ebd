"""Batch scoring in ONNX Runtime against batch scoring in torch, with and without torch beside it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.__main__ import main
from models.contract.content_rows import ContentRows
from models.contract.failures import BadInput
from models.data.content import ContentMatrix
from models.export import onnx_models
from models.export.onnx_models import OnnxCVR, OnnxTowers
from tests.builders.tensors import write_matrix
from tests.unit.models.test_online import CVR, DIM, ITEMS, LABELS, MAX_LEN, TOWERS, TYPES, saved

pytest.importorskip("onnxruntime", reason="needs the extra `online`: onnx, onnxscript, onnxruntime")
pytest.importorskip("onnxscript", reason="needs the extra `online`: onnx, onnxscript, onnxruntime")
ROWS = 60


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    vectors = np.random.default_rng(0).normal(size=(ITEMS + 1, DIM))
    vectors[[0, 3]] = 0
    return write_matrix(tmp_path_factory.mktemp("content") / "matrix", vectors)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folders of the programs of each model by itself, as batch scoring has them; and the models."""
    folder = tmp_path_factory.mktemp("exported")
    models = saved(folder, TOWERS["beyond"], CVR["beyond"], TYPES)
    for name in ("towers", "cvr"):
        spec = {name: str(folder / name), "out_dir": str(folder / f"{name}-programs"), "formats": ["onnx"]}
        (folder / "spec.json").write_text(json.dumps(spec))
        assert main(["export-online", "--spec", str(folder / "spec.json")]) == 0
    return folder / "towers-programs", folder / "cvr-programs", *models


@pytest.fixture(scope="module")
def histories():
    """(item_idx [B, H], lengths with zeros among them, types); what stands behind a history's end means nothing."""
    rng = np.random.default_rng(1)
    shape = ROWS, MAX_LEN
    return rng.integers(1, ITEMS + 1, shape), rng.integers(0, MAX_LEN + 1, ROWS), rng.integers(1, 1 + len(TYPES), shape)


def test_users_and_items_are_those_of_torch_whatever_the_batches(exported, matrix, histories, monkeypatch):
    folder, _, towers, _ = exported
    hist_BH, length_B, type_BH = histories
    item_N = np.arange(ITEMS + 1)
    found, content = OnnxTowers(folder), ContentRows(matrix)
    assert found.event_types == TYPES
    expected = towers.embed_users(hist_BH, length_B, ContentMatrix(matrix), hist_types_BH=type_BH)
    expected_items = towers.embed_items(item_N, ContentMatrix(matrix))
    for most_bytes, batch in ((32 << 20, 512), (32 << 20, 7), (4 * DIM * (MAX_LEN + 1), 512), (1, 512)):
        monkeypatch.setattr(onnx_models, "_MOST_BYTES", most_bytes)
        users = found.embed_users(hist_BH, length_B, content, batch, hist_types_BH=type_BH)
        np.testing.assert_allclose(users, expected, atol=1e-5, rtol=0)
        np.testing.assert_allclose(found.embed_items(item_N, content, batch), expected_items, atol=1e-5, rtol=0)
    assert not users[length_B == 0].any() and users[length_B > 0].any(1).all()


def test_pairs_are_those_of_torch_label_by_label(exported):
    _, folder, _, cvr = exported
    pairs = np.random.default_rng(2).normal(size=(2, 33, 8)).astype(np.float32)
    found = OnnxCVR(folder)
    assert found.other_labels == LABELS["beyond"] and (found.user_dim, found.item_dim) == (8, 8)
    for mine, theirs in zip(found.score_labels(*pairs, batch_size=10), cvr.score_labels(*pairs), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5, rtol=0)
    none = found.score_labels(np.zeros((0, 8), np.float32), np.zeros((0, 8), np.float32))
    assert [part.shape for part in none] == [(0, 6), (0, 3)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hist_len_B": np.full(ROWS, MAX_LEN + 1)}, f"history of {MAX_LEN + 1} items"),
        ({"hist_types_BH": None}, "read the type of every event"),
        ({"hist_types_BH": np.full((ROWS, MAX_LEN), 9)}, "has the type 9"),
    ],
)
def test_histories_that_torch_refuses_are_refused(exported, matrix, histories, changes, told):
    hist_BH, length_B, type_BH = histories
    asked = {"hist_items_BH": hist_BH, "hist_len_B": length_B, "hist_types_BH": type_BH} | changes
    for towers, content in ((OnnxTowers(exported[0]), ContentRows(matrix)), (exported[2], ContentMatrix(matrix))):
        with pytest.raises(BadInput, match=told):
            towers.embed_users(content=content, **asked)


def test_changed_missing_and_foreign_programs_are_refused(exported, tmp_path):
    for name, change, told in (
        ("damaged", lambda folder: (folder / "user_tower.onnx").write_bytes(b"x"), "has changed"),
        ("cvr's", lambda folder: (folder / "result.json").write_text('{"auc": 1}'), "tells of no exported programs"),
        ("halved", lambda folder: drop(folder, "user_tower"), "names no ONNX file of user_tower"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for file in exported[0].iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        change(folder)
        with pytest.raises(BadInput, match=told):
            OnnxTowers(folder)


def drop(folder: Path, program: str) -> None:
    about = json.loads((folder / "result.json").read_text())
    del about["programs"][program]
    (folder / "result.json").write_text(json.dumps(about))


ALONE = """
import sys
sys.modules.update(dict.fromkeys(["torch", "transformers", "sklearn", "scipy", "mlflow", "safetensors"]))
from pathlib import Path
import numpy as np
from models.contract.content_rows import ContentRows
from models.export.onnx_models import OnnxCVR, OnnxTowers
import learn_spark.bridge.scoring
towers, content = OnnxTowers(Path(sys.argv[1])), ContentRows(sys.argv[3])
user = towers.embed_users(np.array([[1, 2]]), np.array([2]), content, hist_types_BH=np.array([[1, 2]]))
item = towers.embed_items(np.array([5]), content)
print([float(score) for score in OnnxCVR(Path(sys.argv[2])).score_labels(user, item)[1][0]])
"""


@pytest.mark.process
def test_a_process_without_torch_scores(exported, matrix):
    towers_folder, cvr_folder, towers, cvr = exported
    command = [sys.executable, "-c", ALONE, str(towers_folder), str(cvr_folder), str(matrix)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    content = ContentMatrix(matrix)
    user = towers.embed_users(np.array([[1, 2]]), np.array([2]), content, hist_types_BH=np.array([[1, 2]]))
    expected = cvr.score_labels(user, towers.embed_items(np.array([5]), content))[1][0]
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)
