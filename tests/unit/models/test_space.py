"""Retrained models in the space of the earlier ones: what is kept exactly, and what only approximately."""

import json

import numpy as np
import pytest
import torch

from models.__main__ import main
from models.contract.failures import BadInput
from models.contract.settings import CVRConfig, TowersConfig
from models.data.content import ContentMatrix
from models.saved import load_cvr, load_towers, save_cvr
from models.towers.cvr import CVRModel
from models.towers.space import ScoringTowers, mapped_into, turn_into
from models.towers.towers import Towers
from models.training import train_towers
from tests.builders.tensors import pairs_table, random_vectors, sequences_table, write_matrix, write_snapshot

ITEMS, DIM = 200, 16
SIZES = {"d_model": 16, "heads": 2, "layers": 1, "embedding_dim": 8, "max_len": 6, "dropout": 0.0}
KINDS = {
    "paper": {},
    "beyond": {"pooling": "mean", "content_residual": True, "id_residual": True, "item_bias": True},
    "mlp": {"user_tower": "pooling_mlp", "item_tower": "mlp", "content_residual": True},
    "content": {"item_tower": "content", "user_tower": "pooling_mlp"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    write_snapshot(folder / "train", sequences_table(600, ITEMS))
    write_snapshot(folder / "val", sequences_table(300, ITEMS, seed=1))
    write_snapshot(folder / "pairs_train", pairs_table(900))
    write_snapshot(folder / "pairs_val", pairs_table(400, seed=1))
    write_matrix(folder / "matrix", random_vectors(ITEMS, DIM))
    write_matrix(folder / "other_encoder", random_vectors(ITEMS + 30, DIM + 4, seed=5))
    return folder


def towers_of(seed, kind, content):
    """Towers in which all weights are random."""
    torch.manual_seed(seed)
    towers = Towers(TowersConfig(**SIZES | KINDS[kind]), content.dim, content.rows)
    for name, weight in towers.state_dict().items():
        if name != "log_scale":
            weight.normal_(0, 0.3)
    return towers.eval()


def vectors_of(towers, content):
    rng = np.random.default_rng(3)
    length_B = rng.integers(0, 7, 150)
    hist_BH = rng.integers(1, ITEMS + 1, (150, 6)) * (np.arange(6) < length_B[:, None])
    return towers.embed_users(hist_BH, length_B, content), towers.embed_items(np.arange(1, ITEMS + 1), content)


def fitted_on():
    rng = np.random.default_rng(4)
    length_B = rng.integers(0, 10, 300)  # some are longer than the towers' max_len
    hist_BH = rng.integers(1, ITEMS + 1, (300, 10)) * (np.arange(10) < length_B[:, None])
    return np.arange(1, ITEMS + 1), hist_BH, length_B


@pytest.mark.parametrize("kind", KINDS)
def test_turned_towers_are_found_again_and_keep_every_inner_product(data, kind):
    content = ContentMatrix(data / "matrix")
    earlier, new = towers_of(0, kind, content), towers_of(0, kind, content)
    width = 8 - earlier.config.item_bias
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))
    for layer in new.output_layers:
        layer.weight.data = torch.from_numpy(turn.T).float() @ layer.weight.data
        if layer.bias is not None:
            layer.bias.data = torch.from_numpy(turn.T).float() @ layer.bias.data
    (before_user, before_item), (user, item) = vectors_of(new, content), vectors_of(earlier, content)
    assert np.abs(before_user - user).max() > 0.5, "another space before"
    found = turn_into(ScoringTowers(new, content), ScoringTowers(earlier, content), *fitted_on())
    after_user, after_item = vectors_of(new, content)
    np.testing.assert_allclose(after_user, user, atol=2e-5)
    np.testing.assert_allclose(after_item, item, atol=2e-5)
    assert found["item_cosine"][1] == pytest.approx(1, abs=1e-5) and found["user_cosine"][1] == pytest.approx(
        1, abs=1e-5
    )
    np.testing.assert_allclose(after_user @ after_item.T, before_user @ before_item.T, atol=1e-4, rtol=1e-5)


def test_models_that_learned_something_else_come_closer_and_keep_their_own_products(data):
    content, other = ContentMatrix(data / "matrix"), ContentMatrix(data / "other_encoder")
    earlier, new = towers_of(0, "paper", other), towers_of(9, "paper", content)
    before_user, before_item = vectors_of(new, content)
    found = turn_into(ScoringTowers(new, content), ScoringTowers(earlier, other), *fitted_on())
    after_user, after_item = vectors_of(new, content)
    assert found["items"] == ITEMS and found["item_cosine"][1] > found["item_cosine"][0] + 0.1
    np.testing.assert_allclose(after_user @ after_item.T, before_user @ before_item.T, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(after_item, axis=1), np.linalg.norm(before_item, axis=1), rtol=1e-5)


def test_items_that_only_one_of_them_knows_do_not_count(data, tmp_path):
    vectors = random_vectors(ITEMS, DIM)
    vectors[1:51] = 0
    holes = ContentMatrix(write_matrix(tmp_path / "holes", vectors))
    small = ContentMatrix(write_matrix(tmp_path / "small", random_vectors(ITEMS - 60, DIM)))
    new, earlier = (
        ScoringTowers(towers_of(seed, "paper", content), content) for seed, content in ((0, holes), (1, small))
    )
    assert turn_into(new, earlier, *fitted_on())["items"] == ITEMS - 50 - 60


def test_too_few_shared_items_and_another_width_are_refused_with_the_way_out(data, tmp_path):
    content = ContentMatrix(data / "matrix")
    few = ContentMatrix(write_matrix(tmp_path / "few", random_vectors(8, DIM)))
    new, earlier = (
        ScoringTowers(towers_of(0, "paper", content), content),
        ScoringTowers(towers_of(1, "paper", few), few),
    )
    with pytest.raises(BadInput, match=r"know 8 of these items.*needs 10 of each.*compatible_with: none"):
        turn_into(new, earlier, *fitted_on())
    with pytest.raises(BadInput, match=r"8 columns without item_bias.*8 columns with item_bias.*compatible_with: none"):
        turn_into(new, ScoringTowers(towers_of(1, "beyond", content), content), *fitted_on())


def run(tmp_path, command, spec):
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    return main([command, "--spec", str(tmp_path / "spec.json")])


def towers_spec(data, out, seed, **more):
    train = {"batch_size": 32, "epochs": 3, "learning_rate": 0.01, "seed": seed, "run": {"threads": 1}}
    return {
        "train_snapshot": str(data / "train"),
        "val_snapshot": str(data / "val"),
        "content_matrix": str(data / "matrix"),
        "out_dir": str(out),
        "towers": SIZES,
        "train": train,
        "validation": {"k": 5, "popularity_prior": 0.0},
        **more,
    }


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    assert run(folder, "train-towers", towers_spec(data, folder / "towers", seed=1)) == 0
    return folder / "towers"


def earlier_of(data, towers, matrix="matrix"):
    places = {"towers": str(towers), "content_matrix": str(data / matrix)}
    return {"earlier": {"release": "20110101-00000000", "space": "abc", **places}}


def test_trained_towers_are_the_same_model_in_the_earlier_space(data, tmp_path, first):
    for name, more in (("own", {}), ("mapped", earlier_of(data, first))):
        assert run(tmp_path, "train-towers", towers_spec(data, tmp_path / name, seed=2, **more)) == 0
    own, mapped = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("own", "mapped"))
    assert own["space"] == {} and own["best"] == mapped["best"]
    space = mapped["space"]
    assert (space["release"], space["id"], space["items"]) == ("20110101-00000000", "abc", ITEMS)
    assert space["item_cosine"][0] < space["item_cosine"][1] and space["user_cosine"][0] < space["user_cosine"][1]
    content = ContentMatrix(data / "matrix")
    (own_user, own_item), (user, item) = (vectors_of(load_towers(tmp_path / n), content) for n in ("own", "mapped"))
    np.testing.assert_allclose(user @ item.T, own_user @ own_item.T, atol=1e-3, rtol=1e-5)
    _, known = vectors_of(load_towers(first), content)
    cosine = float(np.mean(np.sum(item * known, 1) / np.linalg.norm(item, axis=1) / np.linalg.norm(known, axis=1)))
    assert cosine == pytest.approx(space["item_cosine"][1], abs=1e-5), "what the folder holds is the mapped model"


def test_a_training_killed_behind_its_map_ends_in_the_same_model(data, tmp_path, first, monkeypatch):
    spec = towers_spec(data, tmp_path / "whole", seed=2, **earlier_of(data, first))
    assert run(tmp_path, "train-towers", spec) == 0
    original = train_towers.TowersTask.save_last

    def killed(self, path, state):
        original(self, path, state)
        raise KeyboardInterrupt

    spec |= {"out_dir": str(tmp_path / "killed")}
    spec["train"]["run"] |= {"checkpoint_steps": 5}
    with monkeypatch.context() as patched:
        patched.setattr(train_towers.TowersTask, "save_last", killed)
        assert run(tmp_path, "train-towers", spec) == 130
    assert not (tmp_path / "killed" / "result.json").exists()
    assert run(tmp_path, "train-towers", spec) == 0
    whole, again = (load_towers(tmp_path / name).state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_another_width_is_refused_before_the_training(data, tmp_path, first, capsys):
    spec = towers_spec(data, tmp_path / "wide", seed=2, **earlier_of(data, first))
    assert run(tmp_path, "train-towers", spec | {"towers": SIZES | {"embedding_dim": 12}}) == 2
    assert "12 columns without item_bias, those of the earlier release 8" in capsys.readouterr().err
    assert not (tmp_path / "wide" / "metrics.jsonl").exists()


def test_earlier_towers_that_are_damaged_are_refused_by_name(data, tmp_path, first, capsys):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        (folder / file).write_bytes((first / file).read_bytes())
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    spec = towers_spec(data, tmp_path / "new", seed=2, **earlier_of(data, folder))
    assert run(tmp_path, "train-towers", spec) == 2
    assert str(folder / "model.safetensors") in capsys.readouterr().err


def test_mid_emb_is_mapped_and_the_probability_stays(data, tmp_path):
    torch.manual_seed(0)
    earlier = CVRModel(CVRConfig(mid_dim=5, hidden=(16,)), 8, 8).eval()
    save_cvr(tmp_path / "earlier", earlier)
    pairs = pairs_table(700, seed=2)
    for name in ("user_emb", "item_emb"):
        pairs = pairs.append_column(f"earlier_{name}", pairs[name])
    write_snapshot(tmp_path / "pairs", pairs)
    told = {"release": "20110101-00000000", "space": "abc", "cvr": str(tmp_path / "earlier")}
    spec = {
        "train_snapshot": str(data / "pairs_train"),
        "val_snapshot": str(data / "pairs_val"),
        "cvr": {"fusion": "concat+product", "mid_dim": 12},
        "train": {"batch_size": 32, "epochs": 3, "seed": 1, "run": {"threads": 1}},
    }
    assert run(tmp_path, "train-cvr", spec | {"out_dir": str(tmp_path / "own")}) == 0
    more = {"out_dir": str(tmp_path / "mapped"), "earlier": told | {"pairs": str(tmp_path / "pairs")}}
    assert run(tmp_path, "train-cvr", spec | more) == 0
    own, mapped = load_cvr(tmp_path / "own"), load_cvr(tmp_path / "mapped")
    user_BK, item_BK = (np.random.default_rng(seed).normal(size=(50, 8)).astype(np.float32) for seed in (7, 8))
    (own_mid, own_score), (mid, score) = own.score(user_BK, item_BK), mapped.score(user_BK, item_BK)
    np.testing.assert_array_equal(score, own_score)
    assert own_mid.shape == (50, 12) and mid.shape == (50, 5) and mapped.mid_dim == 5
    space = json.loads((tmp_path / "mapped" / "result.json").read_text())["space"]
    assert (space["id"], space["pairs"]) == ("abc", 700) and 0 < space["mid_explained"] < 1


def test_a_middle_layer_that_is_a_linear_image_of_the_earlier_one_is_mapped_back():
    rng = np.random.default_rng(0)
    mid_PD = rng.normal(size=(2000, 6)).astype(np.float32)
    mid_PD[:, 2] = 0.25  # a dead unit
    earlier_PE = mid_PD @ rng.normal(size=(6, 4)) + 3
    model, found = mapped_into(CVRModel(CVRConfig(mid_dim=6), 8, 8), mid_PD, earlier_PE.astype(np.float32))
    with torch.no_grad():
        mapped_PE = model.mid_map(torch.from_numpy(mid_PD)).numpy()
    np.testing.assert_allclose(mapped_PE, earlier_PE, atol=0.02)
    assert found["mid_explained"] > 0.9999
    with pytest.raises(BadInput, match="40 pairs are too few"):
        mapped_into(CVRModel(CVRConfig(mid_dim=6), 8, 8), mid_PD[:40], mid_PD[:40])
