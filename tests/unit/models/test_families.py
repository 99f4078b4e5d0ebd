"""Every supported family of encoders, from a tiny checkpoint in its real layout on disk to vectors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor
from transformers import AutoModel

from models.contract.model_folder import CAUSAL
from models.encoder.encoder import Encoder
from tests.builders.encoders import FAMILIES
from tests.oracles.baichuan import last_hidden_states

TEXTS = [
    "item title: white hanging heart t-light holder",
    "item title: red lamp",
    "商品标题：红色台灯 😀",
    "item title: blue mug; price: 12.50; مصباح",
    "mug",
    "item title: green lantern; brand: mug & co; category: kitchen",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in FAMILIES.items()}


def load(folder: Path, pooling: str = "mean", dtype: str = "float32") -> Encoder:
    return Encoder.load(folder, None, pooling, 64, dtype, "cpu")


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


@pytest.mark.parametrize("family", ["bert", "llama", "qwen2", "qwen3"])
def test_vectors_are_those_of_transformers(family: str, folders: dict[str, Path]) -> None:
    encoder = load(folders[family])
    tokens = encoder.tokenize(TEXTS)
    model = AutoModel.from_pretrained(folders[family]).eval()
    with torch.no_grad():
        expected = [model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0).numpy() for ids in tokens]
    np.testing.assert_allclose(encoder.encode_tokens(tokens, 64), np.stack(expected), atol=1e-5)


def test_baichuan2_is_its_equations(folders: dict[str, Path]) -> None:
    encoder = load(folders["baichuan"])
    tokens = encoder.tokenize(TEXTS)
    expected = [last_hidden_states(folders["baichuan"], ids).mean(0).numpy() for ids in tokens]
    np.testing.assert_allclose(encoder.encode_tokens(tokens, 64), np.stack(expected), atol=1e-5)


def test_baichuan2_reads_the_ids_of_sentencepiece(folders: dict[str, Path]) -> None:
    reference = SentencePieceProcessor(model_file=str(folders["baichuan"] / "tokenizer.model"))
    texts = [*TEXTS, "", " ", "a  b", "<s></s>"]
    assert load(folders["baichuan"]).tokenize(texts) == [reference.encode(text) for text in texts]


def test_baichuan2_13b_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for path in folders["baichuan"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["max_position_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_max_length": 4096}))
    with pytest.raises(ValueError, match=r"ALiBi's \(13B\); only the models with rotary positions"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_company_in_a_batch_changes_nothing(family: str, dtype: str, folders: dict[str, Path]) -> None:
    encoder = load(folders[family], dtype=dtype)
    alone = np.concatenate([encoder.encode([text], 4096)[0] for text in TEXTS])
    for batch_tokens in (24, 60, 4096):
        assert cosines(encoder.encode(TEXTS, batch_tokens)[0], alone).min() >= 0.9999


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("family", CAUSAL)
def test_shared_prefix_is_read_once_and_changes_nothing(
    family: str, pooling: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    prefix = random.integers(3, 12, 11).tolist()
    tokens = [[], *([*prefix, *random.integers(3, 12, length).tolist()] for length in (1, 9, 4, 30, 4))]
    encoder = load(folders[family], pooling)
    read = []
    encoder._model.register_forward_pre_hook(
        lambda model, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    shared = encoder.encode_tokens(tokens, 64)
    assert sum(read) < sum(map(len, tokens))
    monkeypatch.setattr("models.encoder.encoder.SHORTEST_PREFIX", 1000)
    np.testing.assert_allclose(shared, encoder.encode_tokens(tokens, 64), atol=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_long_text_begins_as_the_whole_text_does(family: str, folders: dict[str, Path]) -> None:
    encoder = load(folders[family])
    words = np.random.default_rng(1).choice([*["红", "mug", "", "lamp", "☕", "x9", "."], " "], 20_000)
    for text in ("".join(words), " ".join(words), "a" * 30_000, " " * 20_000 + "mug lamp " * 2_000):
        assert encoder.tokenize([text]) == encoder._tokenizer.ids([text], 64)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_five_megabytes_and_odd_characters(family: str, folders: dict[str, Path]) -> None:
    encoder = load(folders[family])
    texts = ["red lamp " * 600_000, "\ud83d lamp \udc00", "😀", "\u202eمصباح", "a\x00b"]
    vectors, tokens = encoder.encode(texts, 4096)
    assert tokens > 0
    assert np.isfinite(vectors).all()


def test_control_tokens_in_a_text_are_only_characters(folders: dict[str, Path]) -> None:
    for family, text, control in (("bert", "lamp [SEP] mug", 3), ("llama", "lamp </s> mug", 1)):
        ids = load(folders[family]).tokenize([text])[0]
        assert control not in ids[:-1]
