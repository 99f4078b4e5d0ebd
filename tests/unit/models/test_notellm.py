"""NoteLLM: pairs, loss, vectors and training, against loops and the model's own output."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from models.__main__ import main
from models.baselines.notellm import NoteLLM, pair_loss, related_items
from models.contract.failures import BadInput
from models.contract.language_models import LanguageModelConfig, NoteLLMConfig
from models.contract.snapshot import open_snapshot
from models.contract.training_specs import NoteLLMSpec
from models.data.item_texts import ItemTexts
from models.saved import load_retriever
from models.training.checkpoint import CHECKPOINT
from models.training.distributed import Ranks
from models.training.train_notellm import NoteLLMTask
from tests.builders.encoders import save_tiny_llama
from tests.builders.tensors import random_vectors, write_matrix, write_snapshot
from tests.builders.texts import text_of, write_texts

ITEMS, OUT = 20, 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts") / "texts", ITEMS - 1)  # item 20 has none


def config_of(checkpoint, **changes):
    lora = {"rank": 8, "alpha": 32.0, "dropout": 0.0}
    llm = LanguageModelConfig(model=str(checkpoint), lora=lora)
    return NoteLLMConfig(
        llm=llm, **({"max_tokens": 6, "embedding_dim": OUT, "instruction": " . white heart"} | changes)
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(1, 9), min_size=1, max_size=5)), min_size=1, max_size=8)
)
def test_related_items_are_those_of_a_plain_count(rows):
    user_R = np.array([f"u{user}" for user, _ in rows])
    item_RJ = np.array([items + [0] * (5 - len(items)) for _, items in rows])
    has = defaultdict(set)
    for user, items in rows:
        has[user] |= set(items)
    score = defaultdict(float)
    for items in has.values():
        for one in items:
            for other in items - {one}:
                score[one, other] += 1 / len(items)
    found = related_items(user_R, item_RJ[:, :3], item_RJ[:, 3:], 10, 3, (0.31, 0.91))
    related = {pair: round(value, 9) for pair, value in score.items() if 0.31 <= value <= 0.91}
    for item in range(10):
        own = sorted((-value, other) for (one, other), value in related.items() if one == item)
        values = [round(score[item, other], 9) for other in found[item] if other]
        assert values == [-value for value, _ in own[:3]]


def test_the_loss_is_the_papers_sum():
    torch.manual_seed(0)
    vector_2BK, scale = F.normalize(torch.randn(8, OUT), dim=-1), torch.tensor(7.0)
    item_2B = torch.tensor([1, 2, 3, 4, 5, 1, 7, 8])  # row 5 is row 0's item: no negative of rows 0 and 4
    total = 0.0
    for i in range(8):
        partner = (i + 4) % 8
        own = {int(item_2B[i]), int(item_2B[partner])}
        others = [j for j in range(8) if j == partner or (j != i and int(item_2B[j]) not in own)]
        weights = {j: float(torch.exp(vector_2BK[i] @ vector_2BK[j] * scale)) for j in others}
        total -= np.log(weights[partner] / sum(weights.values()))
    assert float(pair_loss(vector_2BK, item_2B, scale)) == pytest.approx(total / 8, rel=1e-5)


def test_a_vector_is_the_state_at_the_token_behind_text_and_instruction(checkpoint, texts):
    model = NoteLLM(config_of(checkpoint), ItemTexts(texts), ITEMS + 1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    found, plain = model.vectors(), AutoModel.from_pretrained(checkpoint)
    adapters = dict(model.language.model.named_parameters())
    with torch.no_grad():
        for name, module in plain.named_modules():
            if isinstance(module, torch.nn.Linear):
                down, up = (adapters[f"{name}.lora_{side}.default.weight"] for side in "AB")
                module.weight += 4.0 * up @ down
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        for item in (1, 7, ITEMS):
            text = text_of(item) if item < ITEMS else ""
            ids = tokenizer(text)["input_ids"] + tokenizer(" . white heart")["input_ids"]
            inputs = torch.cat(
                [plain.get_input_embeddings()(torch.tensor([ids])), model.compression[None, None]], dim=1
            )
            state = plain(inputs_embeds=inputs).last_hidden_state[0, -1]
            expected = F.normalize(model.head(state), dim=-1)
            np.testing.assert_allclose(found[item], expected.numpy(), atol=1e-5)
    assert not found[0].any()
    user = model.embed_users(np.array([[1, 7, 7, 0]]), np.array([3]))[0]
    mean = found[1] + 2 * found[7]
    np.testing.assert_allclose(user, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_prompt_longer_than_the_model_is_refused(checkpoint, texts):
    with pytest.raises(ValueError, match="max_tokens 62 and the instruction need 66 positions, but .* has 64"):
        NoteLLM(config_of(checkpoint, max_tokens=62), ItemTexts(texts), ITEMS + 1)


def colour_rows(num_rows, seed):
    """Rows of users who each buy things of one colour."""
    rng = np.random.default_rng(seed)
    colour_N = rng.integers(0, 4, num_rows)
    item_NJ = colour_N[:, None] + 1 + 4 * np.stack([rng.permutation(5) for _ in range(num_rows)])
    hist_NH, tar_NT = item_NJ[:, :3], item_NJ[:, 3:]
    lists = {"hist_items": (hist_NH, pa.int32()), "hist_ts": (hist_NH * 0 + 1_300_000_000, pa.int64())}
    lists["tar_items"] = (tar_NT, pa.int32())
    columns = {name: pa.array(list(value), pa.list_(kind)) for name, (value, kind) in lists.items()}
    lengths = {"hist_len": pa.array([3] * num_rows, pa.int32()), "tar_len": pa.array([2] * num_rows, pa.int32())}
    return pa.table({"user_id": [f"u{n}" for n in range(num_rows)], **columns, **lengths})


@pytest.fixture(scope="module")
def spec(checkpoint, texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_snapshot(folder / "train", colour_rows(40, 0))
    write_snapshot(folder / "val", colour_rows(40, 1))
    write_matrix(folder / "matrix", random_vectors(ITEMS))
    return {
        "train_snapshot": str(folder / "train"),
        "val_snapshot": str(folder / "val"),
        "content_matrix": str(folder / "matrix"),
        "item_texts": str(texts),
        "out_dir": str(folder / "out"),
        "model": config_of(checkpoint, related=4).model_dump(),
        "train": {
            "batch_size": 10,
            "epochs": 30,
            "learning_rate": 0.02,
            "seed": 1,
            "run": {"log_every": 5, "threads": 1},
            "patience": 30,
        },
        "validation": {"k": 5, "popularity_prior": 0.0},
    }


def test_training_brings_what_goes_together_together(spec, tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert main(["train-notellm", "--spec", str(tmp_path / "spec.json")]) == 0
    out = Path(spec["out_dir"])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    recalls = [line["recall_at_5"] for line in lines if "recall_at_5" in line]
    assert recalls[0] < 0.75 and max(recalls) > 0.95
    model = load_retriever(out)
    similar_II = model.vectors()[1:] @ model.vectors()[1:].T
    is_same = (np.arange(ITEMS)[:, None] - np.arange(ITEMS)) % 4 == 0
    known = slice(0, ITEMS - 1)
    inside = similar_II[known, known][is_same[known, known]].mean()
    assert inside > similar_II[known, known][~is_same[known, known]].mean() + 0.3


def test_several_ranks_are_refused(spec):
    with pytest.raises(BadInput, match="train-notellm runs in one process, 2 were started"):
        snapshots = [open_snapshot(spec[f"{role}_snapshot"]) for role in ("train", "val")]
        NoteLLMTask(NoteLLMSpec(**spec), *snapshots, ITEMS + 1, Ranks(1, 2))


def test_an_interrupted_training_goes_on_with_the_same_curve(spec, tmp_path, monkeypatch):
    def train(name):
        own = spec["train"] | {"epochs": 4, "run": spec["train"]["run"] | {"checkpoint_steps": 2}}
        told = spec | {"out_dir": str(tmp_path / name), "train": own}
        (tmp_path / "spec.json").write_text(json.dumps(told))
        return main(["train-notellm", "--spec", str(tmp_path / "spec.json")])

    def curve(name):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [(line["step"], line.get("loss"), line.get("recall_at_5")) for line in lines]

    assert train("whole") == 0
    calls = iter(range(5))

    def interrupted(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return pair_loss(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("models.training.train_notellm.pair_loss", interrupted)
        assert train("again") == 130
    kept = load_file(tmp_path / "again" / CHECKPOINT)
    trained = {name.split(".")[1] for name in kept if name.startswith("model.") and "lora_" not in name}
    assert trained == {"compression", "head", "log_scale"}, "the frozen weights are not checkpointed"
    assert train("again") == 0
    assert curve("again") == curve("whole")
    assert not (tmp_path / "again" / CHECKPOINT).exists()
