"""Recommendation as a prompt, and sampled candidates, against plain loops over the model's own output."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.__main__ import main
from models.baselines.prompt_ranker import PromptRanker
from models.contract.evaluation_specs import SampledConfig
from models.contract.language_models import LanguageModelConfig, PromptConfig
from models.data.item_texts import ItemTexts
from models.metrics.sampled_candidates import SampledCandidates
from models.saved import load_language
from tests.builders.encoders import save_tiny_baichuan2, save_tiny_llama
from tests.builders.tensors import random_vectors, write_matrix, write_snapshot
from tests.builders.texts import text_of, write_texts

ITEMS = 20
TEMPLATE = {"heading": "white heart", "question": ". blue", "history": 3, "max_tokens": 6}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts") / "texts", ITEMS)


def config_of(checkpoint, lora=None, **changes):
    return PromptConfig(llm=LanguageModelConfig(model=str(checkpoint), lora=lora), **(TEMPLATE | changes))


@pytest.mark.parametrize("score", ["mean", "sum"])
def test_scores_are_the_plain_likelihoods_of_the_candidates_texts(checkpoint, texts, score):
    model = PromptRanker(config_of(checkpoint, score=score), ItemTexts(texts), ITEMS + 1)
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    prompt = model.prompt(np.array([2, 9, 4, 17, 5, 0]), 5)
    written = f"white heart\n- {text_of(4)}\n- {text_of(17)}\n- {text_of(5)}\n. blue\n- "
    assert prompt == tokenizer(written)["input_ids"], "the last three of the history, oldest first"
    candidates = np.array([5, 1, 20, 8])
    scores, num_tokens = model.scores(prompt, candidates)
    for item, found in zip(candidates, scores, strict=True):
        answer = model.answer(item)
        with torch.no_grad():
            log_LV = plain(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        total = sum(float(log_LV[len(prompt) + place - 1, token]) for place, token in enumerate(answer))
        assert found == pytest.approx(total / (len(answer) if score == "mean" else 1), abs=1e-4)
    assert num_tokens == len(prompt) + sum(len(model.answer(item)) for item in candidates)


def test_what_does_not_fit_is_refused(checkpoint, texts, tmp_path):
    with pytest.raises(ValueError, match=r"history 40 .* has 64: set model.history or model.max_tokens lower"):
        PromptRanker(config_of(checkpoint, history=40), ItemTexts(texts), ITEMS + 1)
    with pytest.raises(ValueError, match="Baichuan2's output layer is not mapped"):
        PromptRanker(config_of(save_tiny_baichuan2(tmp_path)), ItemTexts(texts), ITEMS + 1)
    with pytest.raises(ValueError, match="none"):
        ItemTexts(tmp_path / "none")


@st.composite
def splits(draw):
    rows = draw(st.lists(st.tuples(st.lists(st.integers(1, 30), max_size=4), st.lists(st.integers(1, 30), max_size=3))))
    return {
        "hist_items": np.array([hist + [0] * (4 - len(hist)) for hist, _ in rows], np.int32).reshape(-1, 4),
        "hist_len": np.array([len(hist) for hist, _ in rows], np.int32),
        "tar_items": np.array([tar + [0] * (3 - len(tar)) for _, tar in rows], np.int32).reshape(-1, 3),
    }


@settings(deadline=None)
@given(splits(), st.sampled_from([31, 500]), st.integers(2, 20), st.integers(0, 5))
def test_candidates_are_the_target_and_distinct_items_of_others(split, num_items, candidates, seed):
    config = SampledConfig(rows=5, candidates=candidates, seed=seed)
    drawn, again = (SampledCandidates(split, np.arange(1, num_items), config) for _ in range(2))
    np.testing.assert_array_equal(drawn.item_SC, again.item_SC)
    usable = [row for row, tar in enumerate(split["tar_items"]) if tar[0] and split["hist_len"][row]]
    assert len(drawn.row_S) == min(5, len(usable)) and set(drawn.row_S) <= set(usable)
    for row, items in zip(drawn.row_S, drawn.item_SC, strict=True):
        own = {*split["hist_items"][row], *split["tar_items"][row]}
        assert items[0] == split["tar_items"][row][0]
        assert len(set(items)) == candidates and not own & set(items[1:])
        assert all(0 < item < num_items for item in items)


def test_more_candidates_than_items_are_refused():
    split = {"hist_items": np.array([[1, 2]]), "hist_len": np.array([2]), "tar_items": np.array([[3]])}
    with pytest.raises(ValueError, match="5 candidates are asked for, but of 6 items row 0 holds 3 itself"):
        SampledCandidates(split, np.arange(1, 7), SampledConfig(rows=1, candidates=5))


def test_figures_count_ties_against_the_target():
    split = {"hist_items": np.ones((3, 1), int), "hist_len": np.ones(3, int), "tar_items": np.full((3, 1), 2)}
    drawn = SampledCandidates(split, np.arange(1, 50), SampledConfig(rows=3, candidates=6))
    found = drawn.figures(np.array([[9, 1, 2, 3, 4, 5], [3, 3, 9, 1, 1, 1], [0, 1, 1, 1, 1, 1.0]]))
    assert found["recall_at_1"] == pytest.approx(1 / 3) and found["recall_at_5"] == pytest.approx(2 / 3)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 6) / 3)
    assert found["ndcg_at_10"] == pytest.approx((1 + 1 / np.log2(4) + 1 / np.log2(7)) / 3)


def test_scores_that_are_no_numbers_count_against_the_target():
    split = {"hist_items": np.array([[1], [2]]), "hist_len": np.array([1, 1]), "tar_items": np.array([[3], [4]])}
    drawn = SampledCandidates(split, np.arange(1, 50), SampledConfig(rows=2, candidates=3))
    found = drawn.figures(np.array([[np.nan, 1, 2], [5, np.nan, 1]]))
    assert found["mrr"] == pytest.approx((1 / 3 + 1 / 2) / 2)


def chains(num_rows, seed):
    """Rows in which item i is always followed by item i + 1."""
    first_N = np.random.default_rng(seed).integers(1, ITEMS - 2, num_rows)
    hist_NH = np.stack([first_N, first_N + 1], axis=1)
    return pa.table(
        {
            "user_id": [f"u{n}" for n in range(num_rows)],
            "hist_items": pa.array(list(hist_NH), pa.list_(pa.int32())),
            "hist_len": pa.array([2] * num_rows, pa.int32()),
            "tar_items": pa.array(list(hist_NH[:, 1:] + 1), pa.list_(pa.int32())),
            "tar_len": pa.array([1] * num_rows, pa.int32()),
        }
    )


def test_adapters_learn_what_follows_what(texts, tmp_path):
    checkpoint = save_tiny_llama(tmp_path / "llama", scale=40.0)  # else the frozen output layer is not sharp
    for name, seed in (("train", 0), ("val", 1)):
        write_snapshot(tmp_path / name, chains(400, seed))
    write_matrix(tmp_path / "matrix", random_vectors(ITEMS))
    lora = {"rank": 16, "alpha": 64.0, "dropout": 0.0}
    config = config_of(checkpoint, lora, history=2, candidates=10, validation_rows=40, train_rows=320)
    spec = {
        "train_snapshot": str(tmp_path / "train"),
        "val_snapshot": str(tmp_path / "val"),
        "content_matrix": str(tmp_path / "matrix"),
        "item_texts": str(texts),
        "out_dir": str(tmp_path / "out"),
        "model": config.model_dump(),
        "train": {
            "batch_size": 16,
            "epochs": 8,
            "learning_rate": 0.02,
            "seed": 1,
            "run": {"log_every": 5, "threads": 1},
            "patience": 8,
        },
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert main(["train-prompts", "--spec", str(tmp_path / "spec.json")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    found = [line["mrr"] for line in lines if "mrr" in line]
    assert found[0] < 0.5 and max(found) > found[0] + 0.3
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["samples"] == 8 * 320
    model = load_language(tmp_path / "out")
    rows = {"hist_items": np.array([[3, 4]]), "hist_len": np.array([2]), "tar_items": np.array([[5]])}
    sampled = SampledCandidates(rows, np.arange(1, ITEMS + 1), SampledConfig(rows=1, candidates=10))
    scores, _ = model.sampled_scores(rows, sampled)
    assert model.num_items == ITEMS + 1 and np.isfinite(scores).all()
