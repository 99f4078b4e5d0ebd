"""Damaged or malicious model folders are refused in one line, or read without harm. No code of theirs runs."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.contract.failures import BadInput
from models.contract.settings import TowersConfig
from models.encoder.encoder import Encoder
from models.saved import load_towers, save_towers
from models.towers.towers import Towers
from tests.builders.encoders import save_tiny_llama

RAN = "ran"
PICKLE = b"cposix\nsystem\n(S'touch " + b"%s" + b"'\ntR."
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def clean(llama: Path) -> np.ndarray:
    return vector(llama)


@pytest.fixture(scope="module")
def saved_towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("towers")
    save_towers(folder, Towers(TowersConfig(d_model=16, heads=2), 6, 9))
    about = json.loads((folder / "config.json").read_text())
    del about["digest"], about["weights_sha256"]  # as in earlier versions, so that only the loader itself can refuse it
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def vector(folder: Path) -> np.ndarray:
    return Encoder.load(folder, None, "mean", 64, "float32", "cpu").encode(["red lamp mug"], 64)[0]


def config(**changes: object) -> Callable[[Path], None]:
    return values("config.json", **changes)


def values(name: str, **changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return damage


def written(name: str, content: str | bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        marker = str(folder / RAN)
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data.replace(b"%s", marker.encode()))

    return damage


def all_of(*damages: Callable[[Path], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for one in damages:
            one(folder)

    return damage


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def in_their_place(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def odd_sizes(**sizes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        about = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(about | {"sizes": about["sizes"] | sizes}))

    return damage


def odd_config(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        about = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(about | {"config": about["config"] | changes}))

    return damage


EVIL = written("evil.py", "open('%s', 'w')\n")
OWN = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", None]}
HARMLESS = {
    "kernels of the hub": config(attn_implementation="kernels-community/flash-attn2"),
    "kernels by the inner name": config(_attn_implementation="evil/x", _attn_implementation_internal="evil/x"),
    "experts by the inner name": config(experts_implementation="evil", _experts_implementation_internal="evil/x"),
    "a quantisation that nobody knows": config(quantization_config={"quant_method": "evil"}),
    "attention that is not installed": config(attn_implementation="flash_attention_3"),
    "remote code of a known kind": all_of(EVIL, config(auto_map={"AutoModel": "evil.Model"})),
    "pickles beside the weights": all_of(written("pytorch_model.bin", PICKLE), written("training_args.bin", PICKLE)),
    "a generation config with code": written("generation_config.json", '{"auto_map": {"AutoConfig": "evil.C"}}'),
}
REFUSED = {
    "remote code": all_of(EVIL, config(model_type="evil", auto_map=OWN)),
    "a remote tokenizer": all_of(EVIL, values("tokenizer_config.json", auto_map=OWN, tokenizer_class="Evil")),
    "pickled weights": all_of(gone("model.safetensors"), written("pytorch_model.bin", PICKLE)),
    "a pickle by the weights' name": written("model.safetensors", PICKLE),
    "a header of 2^62 bytes": written("model.safetensors", struct.pack("<Q", 1 << 62) + b"{}"),
    "a header that nests": written("model.safetensors", struct.pack("<Q", len(DEEP)) + DEEP.encode()),
    "cut weights": cut,
    "weights that are a pipe": in_their_place("model.safetensors", os.mkfifo),
    "weights that are a folder": in_their_place("model.safetensors", os.mkdir),
    "shards outside": written("model.safetensors.index.json", '{"weight_map": {"a": "../../x.safetensors"}}'),
    "an index that nests": written("model.safetensors.index.json", DEEP),
    "a config that nests": written("config.json", DEEP),
    "a config with a nesting key": written("config.json", '{"model_type": "llama", "rope_scaling": ' + DEEP + "}"),
    "a tokenizer that nests": written("tokenizer.json", DEEP),
    "a tokenizer's config that nests": written("tokenizer_config.json", DEEP),
    "a size of text": config(hidden_size="16"),
    "a negative size": config(hidden_size=-16),
    "no heads": config(num_attention_heads=0),
    "a vocabulary of 10^15": config(vocab_size=10**15),
    "null for layers": config(num_hidden_layers=None),
    "quantised weights": config(quantization_config={"quant_method": "gptq", "bits": 4}),
    "adapters with pickles": all_of(
        written("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "evil/x"}'),
        written("adapter_model.bin", PICKLE),
    ),
}
TOWERS = {
    "sizes of text": odd_sizes(content_dim="6"),
    "negative sizes": odd_sizes(content_dim=-6),
    "null for a size": odd_sizes(num_items=None),
    "a size of 10^12": odd_sizes(content_dim=10**12),
    "other sizes than the weights'": odd_sizes(content_dim=7),
    "heads that do not divide": odd_config(heads=3),
    "a width of 10^12": odd_config(d_model=10**12),
    "an unknown key": odd_config(evil=1),
    "a config that nests": written("config.json", DEEP),
    "a list for a config": written("config.json", "[]"),
    "a kind of another kind": values("config.json", kind={"towers": 1}),
    "a pickle by the weights' name": written("model.safetensors", PICKLE),
    "cut weights": cut,
    "lost weights": gone("model.safetensors"),
    "weights that are a folder": in_their_place("model.safetensors", os.mkdir),
}


def refusal(load: Callable[[Path], object], folder: Path) -> str:
    with pytest.raises(BadInput) as raised:
        load(folder)
    return str(raised.value)


def damaged(folder: Path, to: Path, damage: Callable[[Path], None]) -> Path:
    copy = Path(shutil.copytree(folder, to / "damaged"))
    damage(copy)
    return copy


@pytest.mark.parametrize("damage", HARMLESS.values(), ids=HARMLESS)
def test_what_does_no_harm_changes_nothing(
    llama: Path, clean: np.ndarray, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = damaged(llama, tmp_path, damage)
    np.testing.assert_array_equal(vector(folder), clean)
    assert not (folder / RAN).exists()


@pytest.mark.parametrize("damage", REFUSED.values(), ids=REFUSED)
def test_an_encoder_that_cannot_be_trusted_is_refused_in_a_line(
    llama: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = damaged(llama, tmp_path, damage)
    said = refusal(vector, folder)
    assert str(folder) in said and "\n" not in said and len(said) < 1000
    assert not (folder / RAN).exists()


@pytest.mark.parametrize("damage", TOWERS.values(), ids=TOWERS)
def test_damaged_towers_are_refused_in_a_line(
    saved_towers: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = damaged(saved_towers, tmp_path, damage)
    said = refusal(load_towers, folder)
    assert str(folder) in said and "\n" not in said and len(said) < 1000
    assert not (folder / RAN).exists()
