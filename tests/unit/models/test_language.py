"""A language model with adapters as user tower: its states, what is saved of it, its training."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from models.__main__ import main
from models.contract.language_models import LanguageModelConfig, LoraConfig
from models.contract.settings import TowersConfig
from models.data.content import ContentMatrix
from models.encoder.language_model import LanguageTower
from models.layers.packing import Packing
from models.saved import load_retriever, load_towers, save_towers
from models.towers.towers import Towers
from tests.builders.encoders import save_tiny_bert, save_tiny_llama, save_tiny_qwen3
from tests.builders.tensors import random_vectors, sequences_table, write_matrix, write_snapshot

NUM_ITEMS, DIM, RANK, ALPHA = 40, 12, 4, 8.0
LORA = LoraConfig(rank=RANK, alpha=ALPHA, dropout=0.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def language(folder, **settings):
    return LanguageModelConfig(model=str(folder), **({"lora": LORA} | settings))


def perturbed(module):
    """Randomises the adapters, which start as the identity and would otherwise have no effect."""
    torch.manual_seed(1)
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.3)
            assert "lora_" in name
    return module


def merged(folder, tower):
    """Another copy of the checkpoint with the adapters' products added to its weights by hand."""
    plain = AutoModel.from_pretrained(folder)
    adapters = dict(tower.model.named_parameters())
    with torch.no_grad():
        for name, module in plain.named_modules():
            if isinstance(module, torch.nn.Linear):
                down, up = (adapters[f"{name}.lora_{side}.default.weight"] for side in "AB")
                module.weight += ALPHA / RANK * up @ down
    return plain


@pytest.mark.parametrize("save", [save_tiny_llama, save_tiny_qwen3])
def test_packed_states_are_those_of_each_sequence_alone_with_merged_weights(tmp_path, save):
    folder = save(tmp_path)
    tower = perturbed(LanguageTower(language(folder))).eval()
    plain = merged(folder, tower)
    lengths = [4, 1, 7, 2, 7, 3, 5, 6, 9, 1]
    x_BLD = torch.randn(len(lengths), max(lengths), tower.width)
    packing = Packing(torch.tensor(lengths))
    place_BL = packing.at(torch.arange(max(lengths)).expand(len(lengths), -1))
    with torch.no_grad():
        state_ND = tower(packing.packed(x_BLD), packing)
        for row, length in enumerate(lengths):
            alone = plain(inputs_embeds=x_BLD[row, None, :length]).last_hidden_state[0]
            torch.testing.assert_close(state_ND[place_BL[row, :length]], alone, rtol=1e-4, atol=1e-5)


def test_checkpointed_layers_keep_less_and_learn_the_same(checkpoint):
    found = []
    for is_checkpointed in (False, True):
        lora = LORA.model_copy(update={"dropout": 0.3})  # recomputing must draw it again alike
        tower = perturbed(LanguageTower(language(checkpoint, lora=lora, gradient_checkpointing=is_checkpointed)))
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(2)
        x_ND = torch.randn(60, tower.width, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = tower.train()(x_ND, Packing(torch.full((6,), 10))).square().mean()
        gradients = torch.autograd.grad(loss, [x_ND, *(w for w in tower.parameters() if w.requires_grad)])
        found.append((loss, gradients, sum(kept.values())))
    (loss, gradients, whole), (again, others, part) = found
    torch.testing.assert_close([loss, *gradients], [again, *others])
    assert part < whole / 3


def test_frozen_weights_get_half_precision_and_adapters_full(checkpoint):
    tower = LanguageTower(language(checkpoint, dtype="bfloat16"))
    assert {weight.dtype for weight in tower.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in tower.parameters() if not weight.requires_grad} == {torch.bfloat16}
    packing = Packing(torch.tensor([3, 2]))
    assert tower(torch.randn(5, tower.width), packing).dtype == torch.float32


@pytest.fixture
def content(tmp_path):
    return ContentMatrix(write_matrix(tmp_path / "matrix", random_vectors(NUM_ITEMS, DIM)))


def test_only_what_was_trained_is_saved_and_comes_back(checkpoint, content, tmp_path):
    config = TowersConfig(user_tower="llm", llm=language(checkpoint), embedding_dim=8, max_len=6)
    model = Towers(config, DIM).eval()
    perturbed(model.sequence)
    save_towers(tmp_path / "model", model)
    saved = load_file(tmp_path / "model" / "model.safetensors")
    frozen = {name for name in saved if name.startswith("sequence.") and "lora_" not in name}
    assert not frozen and any("lora_A" in name for name in saved)
    hist, length = np.array([[3, 9, 4, 0], [7, 0, 0, 0]]), np.array([3, 1])
    again = load_retriever(tmp_path / "model")
    np.testing.assert_array_equal(again.embed_users(hist, length, content), model.embed_users(hist, length, content))
    np.testing.assert_array_equal(again.embed_items([5, 6], content), model.embed_items([5, 6], content))


def test_adapters_are_refused_on_other_weights(content, tmp_path):
    folder = save_tiny_llama(tmp_path / "llama")
    model = Towers(TowersConfig(user_tower="llm", llm=language(folder), embedding_dim=8, max_len=6), DIM)
    save_towers(tmp_path / "model", model)
    save_tiny_llama(folder, scale=2.0)
    with pytest.raises(ValueError, match="its files are not those that this model was trained on"):
        load_towers(tmp_path / "model")


def test_what_is_no_causal_decoder_or_too_short_is_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="is a bert, not a causal decoder"):
        LanguageTower(language(save_tiny_bert(tmp_path / "bert")))
    with pytest.raises(ValueError, match="max_len is 65, but .* has 64 positions"):
        Towers(TowersConfig(user_tower="llm", llm=language(checkpoint), max_len=65), DIM)
    with pytest.raises(ValueError, match="user_tower is llm, llm is not set"):
        TowersConfig(user_tower="llm")


def test_a_layer_that_is_not_there_is_named(checkpoint):
    with pytest.raises(ValueError, match=r"llm\.lora\.targets \['w_pack'\]: .*not found"):
        LanguageTower(language(checkpoint, lora=LoraConfig(targets=("w_pack",))))


def test_a_missing_peft_is_named(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'learn-spark\[llm\]'"):
        LanguageTower(language(checkpoint))
    LanguageTower(language(checkpoint, lora=None))


def test_a_training_lowers_the_loss_and_leaves_the_checkpoint_as_it_was(checkpoint, tmp_path):
    for name, seed in (("train", 0), ("val", 1)):
        write_snapshot(tmp_path / name, sequences_table(200, NUM_ITEMS, seed=seed))
    write_matrix(tmp_path / "matrix", random_vectors(NUM_ITEMS, DIM))
    before = {file: file.read_bytes() for file in checkpoint.iterdir()}
    spec = {
        "train_snapshot": str(tmp_path / "train"),
        "val_snapshot": str(tmp_path / "val"),
        "content_matrix": str(tmp_path / "matrix"),
        "out_dir": str(tmp_path / "out"),
        "towers": {
            "user_tower": "llm",
            "llm": {"model": str(checkpoint), "lora": {"rank": RANK}},
            "item_tower": "mlp",
            "embedding_dim": 8,
            "max_len": 6,
        },
        "train": {
            "batch_size": 25,
            "epochs": 10,
            "learning_rate": 0.01,
            "seed": 1,
            "run": {"log_every": 4, "threads": 1},
        },
        "validation": {"k": 5, "popularity_prior": 0.0},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert main(["train-towers", "--spec", str(tmp_path / "spec.json")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-3:]) < losses[0] - 0.3
    assert {file: file.read_bytes() for file in checkpoint.iterdir()} == before
    moved = load_towers(tmp_path / "out").state_dict()
    assert any(moved[name].abs().max() > 0 for name in moved if "lora_B" in name), "adapters start at zero"
