"""Exported programs equal batch scoring, for all sizes of requests, also where this project is not installed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from models.__main__ import main
from models.contract.settings import CVRConfig, TowersConfig
from models.data.content import ContentMatrix
from models.export import online_programs as online
from models.saved import save_cvr, save_towers
from models.towers.cvr import CVRModel
from models.towers.towers import Towers
from tests.builders.tensors import write_matrix

DIM, ITEMS, KNOWN, MAX_LEN = 12, 20, 15, 10
TOWERS = {
    "paper": {},
    "beyond": {"pooling": "mean", "content_residual": True, "id_residual": True, "item_bias": True},
    "mlp": {"user_tower": "pooling_mlp", "item_tower": "mlp", "content_residual": True, "item_bias": True},
    "content": {"item_tower": "content", "pooling": "mean", "user_tower": "pooling_mlp"},
    "self": {
        "item_tower": "shared_self",
        "content_residual": True,
        "layers": 3,
        "learned_scale": True,
        "repeat_bias": True,
    },
}
TYPES = ("view", "cart", "dislike")  # read by the typed towers of these tests
TYPED = ("beyond", "mlp", "self")
CVR = {"paper": {}, "beyond": {"fusion": "concat+product", "batch_norm": True, "hidden": (16, 9)}}
LABELS = {"beyond": ("cart", "click")}  # of the conversion model beside the conversion


@pytest.fixture
def content(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(ITEMS + 1, DIM))
    vectors[[0, 3]] = 0  # padding, and an item without content
    return ContentMatrix(write_matrix(tmp_path / "matrix", vectors))


def saved(folder, towers, cvr, types=()):
    """Saves models with random weights everywhere, running means included."""
    torch.manual_seed(0)
    settings = {"d_model": 16, "heads": 2, "embedding_dim": 8, "max_len": MAX_LEN} | towers
    towers = Towers(TowersConfig(**settings), DIM, KNOWN, types)
    others = LABELS["beyond"] if cvr == CVR["beyond"] else ()
    models = towers, CVRModel(CVRConfig(mid_dim=6, **cvr), 8, 8, other_labels=others)
    for model in models:
        for name, weight in model.state_dict().items():
            if weight.is_floating_point() and name != "log_scale":
                torch.nn.init.uniform_(weight, 0.1, 0.6) if name.endswith("var") else weight.normal_(0, 0.3)
        model.eval()
    save_towers(folder / "towers", models[0])
    save_cvr(folder / "cvr", models[1])
    return models


def export(folder, formats):
    spec = {name: str(folder / name) for name in ("towers", "cvr")} | {"out_dir": str(folder / "out")}
    (folder / "spec.json").write_text(json.dumps(spec | {"formats": formats}))
    assert main(["export-online", "--spec", str(folder / "spec.json")]) == 0
    return json.loads((folder / "out" / "result.json").read_text())


def requests(content):
    """(item_idx [B, H], lengths [B], content) of sizes unknown to tracing; some items are newer than the towers."""
    rng = np.random.default_rng(1)
    for rows, width in ((1, 1), (1, MAX_LEN), (2, 1), (7, 6), (300, MAX_LEN)):
        length_B = rng.integers(0, width + 1, rows)
        hist_BH = rng.integers(1, ITEMS + 1, (rows, width)) * (np.arange(width) < length_B[:, None])
        yield hist_BH, length_B, content.gather(hist_BH).numpy()


def check(programs, models, content):
    """Compares all outputs of `programs`, functions of numpy arrays by name, with batch scoring."""
    towers, cvr = models
    for hist_BH, length_B, content_BHC in requests(content):
        type_BH = np.random.default_rng(2).integers(1, 1 + len(TYPES), hist_BH.shape) * (hist_BH > 0)
        types = [type_BH] if towers.event_types else []
        (user_BK,) = programs["user_tower"](content_BHC, hist_BH, length_B, *types)
        expected = towers.embed_users(hist_BH, length_B, content, hist_types_BH=type_BH)
        np.testing.assert_allclose(user_BK, expected, atol=1e-5, rtol=0)
        item_B = np.arange(len(hist_BH)) % (ITEMS + 1)
        (item_BK,) = programs["item_tower"](content.gather(item_B).numpy(), item_B)
        np.testing.assert_allclose(item_BK, towers.embed_items(item_B, content), atol=1e-5, rtol=0)
        mid_BE, score_B, *others = programs["cvr"](user_BK, item_BK)
        expected_mid, expected_scores = cvr.score_labels(user_BK, item_BK)
        np.testing.assert_allclose(mid_BE, expected_mid, atol=1e-5, rtol=0)
        np.testing.assert_allclose(np.hstack([score_B[:, None], *others]), expected_scores, atol=1e-5, rtol=0)
    assert np.abs(user_BK).max() > 0.5 and score_B.std() > 1e-3


def module_of(file):
    module = torch.export.load(file).module()

    def run(*values):
        found = module(*map(torch.from_numpy, values))
        return [value.detach().numpy() for value in (found if isinstance(found, tuple) else (found,))]

    return run


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("paper", ()),
        ("beyond", TYPES),
        *(pytest.param(name, (), marks=pytest.mark.long) for name in TOWERS if name != "paper"),
        *(pytest.param(name, TYPES, marks=pytest.mark.long) for name in TYPED if name != "beyond"),
    ],
)
def test_exported_programs_equal_batch_scoring(tmp_path, content, name, types):
    models = saved(tmp_path, TOWERS[name], CVR.get(name, {}), types)
    about = export(tmp_path, ["pt2"])
    assert about.get("event_types", []) == list(types)
    assert about.get("other_labels", []) == list(LABELS.get(name, ()))
    assert (
        about["programs"]["user_tower"]["inputs"]
        == ["content", "item_idx", "length", "event_type"][: 4 if types else 3]
    )
    assert about["sizes"] == {"content_dim": DIM, "max_history": MAX_LEN, "embedding_dim": 8, "mid_dim": 6}
    bias = models[0].repeat_bias
    assert about["repeat_bias"] == (bias.item() if name == "self" else None)
    files = {part: values["files"] for part, values in about["programs"].items()}
    assert files == {part: {"pt2": f"{part}.pt2"} for part in ("user_tower", "item_tower", "cvr")}
    check({part: module_of(tmp_path / "out" / f"{part}.pt2") for part in files}, models, content)


@pytest.mark.parametrize("name", ["beyond", *(pytest.param(name, marks=pytest.mark.long) for name in ("paper", "mlp"))])
def test_onnx_files_equal_batch_scoring(tmp_path, content, name):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `online`: onnx, onnxscript, onnxruntime")
    pytest.importorskip("onnxscript", reason="needs the extra `online`: onnx, onnxscript, onnxruntime")
    models = saved(tmp_path, TOWERS[name], CVR.get(name, {}))
    about = export(tmp_path, ["onnx"])

    def session_of(part):
        session = onnxruntime.InferenceSession(tmp_path / "out" / about["programs"][part]["files"]["onnx"])
        assert [one.name for one in session.get_outputs()] == about["programs"][part]["outputs"]
        return lambda *values: session.run(None, dict(zip(about["programs"][part]["inputs"], values, strict=True)))

    check({part: session_of(part) for part in about["programs"]}, models, content)
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".json", ".onnx", ".onnx", ".onnx"]


def test_weights_that_a_protobuf_cannot_hold_lie_beside_it(tmp_path, content, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `online`: onnx, onnxscript, onnxruntime")
    monkeypatch.setattr(online, "LARGEST_INLINE", 1000)
    _, cvr = saved(tmp_path, {}, {})
    export(tmp_path, ["onnx"])
    assert (tmp_path / "out" / "cvr.onnx.data").stat().st_size > 1000
    user, item = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "cvr.onnx")
    (_, score) = session.run(None, {"user_emb": user, "item_emb": item})
    np.testing.assert_allclose(score, cvr.score(user, item)[1], atol=1e-5)


ALONE = """
import sys
sys.modules.update(dict.fromkeys(["models", "learn_spark", "pyspark", "mlflow"]))
import torch
user = torch.export.load(sys.argv[1]).module()(torch.ones(2, 4, 12), torch.ones(2, 4).long(), torch.tensor([4, 0]))
print(user.shape == (2, 8), bool(user[0].any()), bool(user[1].any()))
"""


@pytest.mark.process
def test_programs_run_without_this_project(tmp_path):
    saved(tmp_path, TOWERS["beyond"], {})
    export(tmp_path, ["pt2"])
    command = [sys.executable, "-c", ALONE, str(tmp_path / "out" / "user_tower.pt2")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True True False", done.stderr


def test_models_that_do_not_go_together_are_refused(tmp_path, capsys):
    saved(tmp_path, {}, {})
    save_cvr(tmp_path / "cvr", CVRModel(CVRConfig(), 9, 8))
    spec = {name: str(tmp_path / name) for name in ("towers", "cvr")} | {"out_dir": str(tmp_path / "out")}
    (tmp_path / "spec.json").write_text(json.dumps(spec | {"formats": ["pt2"]}))
    assert main(["export-online", "--spec", str(tmp_path / "spec.json")]) == 2
    assert "takes embeddings of widths 9 and 8, but" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_way_out(tmp_path, capsys, monkeypatch):
    saved(tmp_path, {}, {})
    monkeypatch.setattr(online, "NEEDED", ("onnx_that_nobody_has",))
    spec = {name: str(tmp_path / name) for name in ("towers", "cvr")} | {"out_dir": str(tmp_path / "out")}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert main(["export-online", "--spec", str(tmp_path / "spec.json")]) == 2
    assert "needs the packages onnx_that_nobody_has: pip install 'learn-spark[online]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
