import json
import pickle

import numpy as np
import pytest
import torch

from models.contract.settings import CVRConfig, TowersConfig
from models.saved import load_cvr, load_towers, save_cvr, save_towers
from models.towers.cvr import CVRModel
from models.towers.towers import Towers

WRONG_SIZES = (None, "6", -1, 6.0, True, [6], {}, 10**30)


def unsealed(config):
    """The values of config.json without digests, as earlier versions wrote it."""
    about = json.loads(config.read_text())
    return {key: value for key, value in about.items() if key not in ("digest", "weights_sha256")}


@pytest.fixture
def towers():
    torch.manual_seed(0)
    model = Towers(TowersConfig(d_model=16, heads=2, learned_scale=True, id_residual=True, item_bias=True), 6, 9)
    torch.nn.init.normal_(model.id_residual.weight)
    torch.nn.init.normal_(model.item_bias.weight)
    return model


def test_models_come_back_bit_for_bit(tmp_path, towers):
    save_towers(tmp_path / "t", towers)
    loaded = load_towers(tmp_path / "t")
    assert loaded.config == towers.config and not loaded.training
    for name, value in towers.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    model = CVRModel(CVRConfig(hidden=(7, 5)), 4, 3)
    save_cvr(tmp_path / "c", model)
    pair = np.ones((1, 4)), np.ones((1, 3))
    np.testing.assert_array_equal(load_cvr(tmp_path / "c").score(*pair)[0], model.score(*pair)[0])


def test_a_model_that_was_saved_with_the_old_names_of_its_fields_comes_back(tmp_path, towers):
    save_towers(tmp_path / "t", towers)
    file = tmp_path / "t" / "config.json"
    about = unsealed(file)
    about["config"]["out_dim"] = about["config"].pop("embedding_dim")
    file.write_text(json.dumps(about))
    loaded = load_towers(tmp_path / "t")
    assert loaded.config == towers.config and loaded.config.embedding_dim == 64


def test_anything_else_is_refused(tmp_path, towers):
    with pytest.raises(ValueError, match="cannot read .*config.json"):
        load_towers(tmp_path / "t")
    save_towers(tmp_path / "t", towers)
    with pytest.raises(ValueError, match="is of kind 'towers', wanted 'cvr'"):
        load_cvr(tmp_path / "t")
    config, weights = tmp_path / "t" / "config.json", tmp_path / "t" / "model.safetensors"
    good = unsealed(config)
    for change, message in [
        ({"format_version": 2}, "format version 1"),
        ({"sizes": {}}, "content_dim"),
        *(({"sizes": good["sizes"] | {"content_dim": size}}, "for content_dim") for size in WRONG_SIZES),
        ({"kind": ["towers"]}, "is of kind"),
        ({"config": None}, "config.json: `all`"),
        ({"config": good["config"] | {"d_model": 1 << 40}}, "do not fit"),
        ({"config": good["config"] | {"layer": 1}}, "unknown key `layer`; did you mean layers"),
        ({"config": good["config"] | {"layers": 1}}, "do not fit"),
    ]:
        config.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=message):
            load_towers(tmp_path / "t")
    config.write_text(json.dumps(good))
    weights.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="damaged or foreign"):
        load_towers(tmp_path / "t")
