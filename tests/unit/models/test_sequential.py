"""SASRec and HSTU against loops over the papers' equations: values, causality, padding, losses, training, files."""

import json
import re

import numpy as np
import pytest
import torch

from models.__main__ import main
from models.baselines.hstu import HSTU
from models.baselines.sasrec import SASRec
from models.contract.failures import BadInput
from models.contract.settings import SequentialConfig, TowersConfig
from models.contract.snapshot import open_snapshot
from models.data.content import ContentMatrix
from models.layers.packing import Packing
from models.saved import load_retriever, load_sequential, load_towers, save_sequential, save_towers
from models.towers.towers import Towers
from models.training.distributed import Ranks
from models.training.train_sequential import SequentialSpec, SequentialTask
from tests.builders.tensors import random_vectors, sequences_table, write_matrix, write_snapshot
from tests.oracles.sequential import naive_binary_loss, naive_hstu, naive_sasrec, naive_softmax_loss

ITEMS, MAX_LEN = 20, 9
KINDS = {"sasrec": SASRec, "hstu": HSTU}


def make(kind, **settings):
    """A model in fp64, without dropout, in which every weight affects the output."""
    torch.manual_seed(0)
    defaults = {"d_model": 8, "heads": 2, "layers": 2, "max_len": MAX_LEN, "dropout": 0.0, "time_buckets": 40}
    model = KINDS[kind](SequentialConfig(kind=kind, **(defaults | settings)), ITEMS + 1).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    with torch.no_grad():
        model.item_table.weight[0] = 0
    return model


def arrays(model):
    """The model's weights under the oracle's names."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    width, found = model.config.d_model, {"item": state["item_table.weight"], "position": state["positions.weight"]}
    if isinstance(model, HSTU):
        names = ("uvqk.weight", "out.weight", "out.bias", "position_bias", "time_bias")
        keys = ("uvqk", "out", "out_bias", "by_distance", "by_time")
        layers = range(model.config.layers)
        found["layers"] = [
            {key: state[f"layers.{n}.{name}"] for key, name in zip(keys, names, strict=True)} for n in layers
        ]
        return found
    found |= {"gain": state["norm.weight"], "shift": state["norm.bias"], "blocks": []}
    for n in range(model.config.layers):
        query, key, value = np.split(state[f"blocks.{n}.qkv.weight"], [width, 2 * width])
        block = {"query": query, "key": key, "value": value}
        for name, source in (
            ("attention_gain", "attention_norm.weight"),
            ("attention_shift", "attention_norm.bias"),
            ("forward_gain", "feed_forward.0.weight"),
            ("forward_shift", "feed_forward.0.bias"),
            ("w1", "feed_forward.1.weight"),
            ("b1", "feed_forward.1.bias"),
            ("w2", "feed_forward.4.weight"),
            ("b2", "feed_forward.4.bias"),
        ):
            block[name] = state[f"blocks.{n}.{source}"]
        found["blocks"].append(block)
    return found


def naive_states(model, items, times):
    config = model.config
    if isinstance(model, HSTU):
        return naive_hstu(arrays(model), items, times, config.heads, config.max_len, config.temperature)
    return naive_sasrec(arrays(model), items, config.heads, config.max_len)


@pytest.fixture
def histories():
    """Items and times of sequences of all lengths; times are from equal to years apart."""
    rng = np.random.default_rng(0)
    found = []
    for length in (1, 5, MAX_LEN, 2, 7, 3):
        gaps = rng.choice([0, 1, 2, 61, 3600, 86_400, 40_000_000], length)
        found.append((rng.integers(1, ITEMS + 1, length), 1_300_000_000 + np.cumsum(gaps)))
    return found


def padded(histories, width=MAX_LEN):
    item_BH, ts_BH = np.zeros((2, len(histories), width), np.int64)
    for row, (items, times) in enumerate(histories):
        item_BH[row, : len(items)], ts_BH[row, : len(items)] = items, times
    return item_BH, ts_BH, np.array([len(items) for items, _ in histories])


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_states_equal_the_papers_equations_whatever_the_padding(kind, heads, histories):
    model = make(kind, heads=heads)
    item_BH, ts_BH, length_B = padded(histories)
    packing = Packing(torch.from_numpy(length_B))
    with torch.inference_mode():
        state_ND = model.states(torch.from_numpy(item_BH), torch.from_numpy(ts_BH), packing)
    for row, (items, times) in enumerate(histories):
        at = packing.at(torch.arange(len(items)).expand(len(histories), -1))[row]
        np.testing.assert_allclose(state_ND[at].numpy(), naive_states(model, items, times), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_no_position_sees_a_later_one(kind, histories):
    model = make(kind)
    items, times = histories[4]
    for position in range(len(items) - 1):
        # SASRec counts positions from the end, so the later items are changed, not cut off.
        changed, later = items.copy(), times.copy()
        changed[position + 1 :] = changed[position + 1 :] % ITEMS + 1
        later[position + 1 :] += 12_345_678
        states = []
        for item_L, ts_L in ((items, times), (changed, later)):
            packing = Packing(torch.tensor([len(items)]))
            states.append(model.states(torch.from_numpy(item_L)[None], torch.from_numpy(ts_L)[None], packing))
        assert torch.equal(states[0][: position + 1], states[1][: position + 1])
        assert (states[0][position + 1 :] != states[1][position + 1 :]).any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_plain_inner_products_of_the_last_states(kind, histories):
    model = make(kind)
    item_BH, ts_BH, length_B = padded([*histories, ([], [])], width=MAX_LEN + 3)
    user_BD = model.embed_users(item_BH, length_B, batch_size=4, hist_ts_BH=ts_BH)
    item_ID = model.embed_items(np.arange(ITEMS + 3), batch_size=7)
    assert user_BD.dtype == item_ID.dtype == np.float32 and not user_BD[-1].any()
    vectors = arrays(model)["item"]
    if kind == "hstu":
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    assert not item_ID[ITEMS + 1 :].any()
    for row, (items, times) in enumerate(histories):
        want = naive_states(model, items, times)[-1] @ vectors.T
        np.testing.assert_allclose(user_BD[row] @ item_ID[: ITEMS + 1].T, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_long_history_the_last_items_count(kind):
    model, rng = make(kind), np.random.default_rng(1)
    item_BH, ts_BH = rng.integers(1, ITEMS + 1, (3, 14)), np.sort(rng.integers(0, 10**7, (3, 14)), axis=1)
    length_B = np.array([14, 11, MAX_LEN])
    whole = model.embed_users(item_BH, length_B, hist_ts_BH=ts_BH)
    for row, length in enumerate(length_B):
        last = slice(length - MAX_LEN, length)
        args = (item_BH[row : row + 1, last], np.array([MAX_LEN]))
        np.testing.assert_array_equal(whole[row], model.embed_users(*args, hist_ts_BH=ts_BH[row : row + 1, last])[0])
    with pytest.raises(ValueError, match="history of 15 items: rows hold 14"):
        model.embed_users(item_BH, np.array([15, 1, 1]), hist_ts_BH=ts_BH)
    if kind == "hstu":
        with pytest.raises(BadInput, match="hstu needs the times"):
            model.embed_users(item_BH, length_B)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    table = sequences_table(240, ITEMS)
    write_snapshot(folder / "train", table.append_column("tar_ts", tar_times(table)))
    write_snapshot(folder / "val", sequences_table(80, ITEMS, seed=1))
    write_matrix(folder / "matrix", random_vectors(ITEMS))
    return folder


def tar_times(table):
    import pyarrow as pa

    items = np.array(table["tar_items"].to_pylist())
    last = np.array(table["hist_ts"].to_pylist()).max(1, keepdims=True)
    return pa.array(list(np.where(items > 0, last + 7200 * np.arange(1, 5), 0)), pa.list_(pa.int64()))


@pytest.fixture
def spec(data, tmp_path):
    return {
        "train_snapshot": str(data / "train"),
        "val_snapshot": str(data / "val"),
        "content_matrix": str(data / "matrix"),
        "out_dir": str(tmp_path / "model"),
        "model": {"d_model": 16, "heads": 2, "layers": 1, "max_len": 8, "dropout": 0.0, "num_sampled": 7},
        "train": {
            "batch_size": 32,
            "epochs": 8,
            "learning_rate": 0.01,
            "seed": 1,
            "run": {"log_every": 5, "threads": 1},
        },
        "validation": {"k": 5, "popularity_prior": 0.0},
    }


def task_of(spec, **model):
    parsed = SequentialSpec.model_validate(spec | {"model": spec["model"] | model})
    return SequentialTask(parsed, open_snapshot(parsed.train_snapshot), open_snapshot(parsed.val_snapshot), 21, Ranks())


def run(tmp_path, spec):
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    return main(["train-sequential", "--spec", str(tmp_path / "spec.json")])


def naive_steps(row, positions, max_len):
    """The events (item, time) of a row that a model reads, and the trained places, by plain lists."""
    hist = list(zip(row["hist_items"][: row["hist_len"]], row["hist_ts"][: row["hist_len"]], strict=True))
    tar = list(zip(row["tar_items"][: row["tar_len"]], row["tar_ts"][: row["tar_len"]], strict=True))
    events = hist + (tar if positions == "all" else tar[:1])
    events = events[-(max_len + 1) :]
    places = range(len(events) - 1) if positions == "all" else [len(events) - 2]
    return events, places


@pytest.mark.parametrize(
    ("loss", "width", "repeats"),
    [
        ("bce", 16, False),
        ("cross_entropy", 16, False),
        ("cross_entropy", 16, True),
        ("sampled", 16, False),
        ("sampled", 16, True),
        ("sampled", 2, False),
    ],
)
@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batchs_loss_is_the_mean_over_its_steps(spec, kind, positions, loss, width, repeats):
    task = task_of(spec, kind=kind, positions=positions, loss=loss, d_model=width, max_len=6, repeat_bias=repeats)
    task.model.double().eval()
    for parameter in task.model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    raw = next(iter(task_of(spec, kind="hstu")._reader(epoch=0)))
    rows = [{name: value[r].tolist() for name, value in raw.items()} for r in range(len(raw["hist_len"]))]
    batch = task._prepare({name: raw[name] for name in task.columns})
    vectors = task.model.items(torch.arange(21)).detach().numpy()
    states, labels, negatives, drawn, held = [], [], [], [], []
    for number, row in enumerate(rows):
        events, places = naive_steps(row, positions, 6)
        items, times = zip(*events, strict=True)
        of_row = naive_states(task.model, items[:-1], times[:-1])
        for place in places:
            states.append(of_row[place])
            labels.append(items[place + 1])
            held.append(set(items[: place + 1]))
            if loss == "bce":
                negatives.append(int(batch["negative"][number, place]))
                assert negatives[-1] not in row["hist_items"] + row["tar_items"] and negatives[-1] > 0
            if loss == "sampled":
                drawn.append(batch["drawn"][number, place].tolist())
    assert len(labels) > (100 if positions == "all" else 31)
    if loss == "bce":
        assert len(set(negatives)) > 10
        want = naive_binary_loss(states, labels, negatives, vectors)
    else:
        candidates = drawn if loss == "sampled" else [batch["candidates"].tolist()] * len(labels)
        assert {len(own) for own in candidates} == {7 if loss == "sampled" else 20}
        assert {item for own in candidates for item in own} == set(range(1, 21))
        bias = task.model.repeat_bias.item() if repeats else 0.0
        assert (bias != 0) == repeats
        want = naive_softmax_loss(states, labels, candidates, vectors, held, bias)
    assert task.loss(batch).item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "sasrec", "loss": "bce"},
        {"kind": "sasrec", "positions": "last"},
        {"kind": "sasrec", "repeat_bias": True},
        {"kind": "hstu", "loss": "sampled"},
        {"kind": "hstu", "positions": "last", "loss": "bce", "temperature": 0.2},
    ],
)
def test_they_learn_and_come_back(tmp_path, data, spec, model):
    spec["model"] |= model
    assert run(tmp_path, spec) == 0
    result = json.loads((tmp_path / "model" / "result.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()]
    assert result["best"]["recall_at_5"] > 1.3 * lines[0]["recall_at_5"] and result["best"]["users"] == 80
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    task = task_of(spec)
    task.model = load_sequential(spec["out_dir"])
    assert type(task.model) is KINDS[model["kind"]]
    assert task.evaluate() == pytest.approx(result["best"])
    # A second run with the same seed takes the same steps.
    assert run(tmp_path, spec | {"out_dir": str(tmp_path / "again")}) == 0
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    assert again | {"seconds": 0} == result | {"seconds": 0}


def test_one_loader_for_all_retrievers(tmp_path, data):
    content = ContentMatrix(data / "matrix")
    save_towers(tmp_path / "towers", Towers(TowersConfig(d_model=16, heads=2), content.dim))
    hist, length, times = np.array([[3, 4, 5]]), np.array([3]), np.array([[10, 20, 4000]])
    expected = load_towers(tmp_path / "towers").embed_users(hist, length, content)
    for kind in KINDS:
        model = make(kind).float()
        save_sequential(tmp_path / kind, model)
        loaded = load_retriever(tmp_path / kind)
        assert loaded.config == model.config and not loaded.training
        for name, value in model.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name])
        assert loaded.embed_users(hist, length, content, hist_ts_BH=times).shape == (1, 8)
        assert loaded.embed_items(np.arange(21), content).shape == (21, 8)
        with pytest.raises(ValueError, match=f"is of kind '{kind}', wanted 'towers'"):
            load_towers(tmp_path / kind)
    towers = load_retriever(tmp_path / "towers")
    np.testing.assert_array_equal(towers.embed_users(hist, length, content, hist_ts_BH=times), expected)
    with pytest.raises(ValueError, match="is of kind 'towers', wanted one of: sasrec, hstu"):
        load_sequential(tmp_path / "towers")
    with pytest.raises(ValueError, match="cannot read .*config.json"):
        load_retriever(tmp_path / "nothing")
    (tmp_path / "hstu" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="config.json must hold a JSON object, not list"):
        load_retriever(tmp_path / "hstu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"kind": "gru"}}, "model.kind"),
        ({"model": {"d_model": 9, "heads": 2}}, "d_model 9 is not a multiple of heads 2"),
        (
            {"model": {"loss": "bce", "repeat_bias": True}},
            "repeat_bias needs the loss cross_entropy or sampled; it is bce",
        ),
        ({"model": {"layer": 1}}, "unknown key `model.layer`; did you mean layers"),
        ({"content_matrix": "/nowhere"}, "content_matrix: no such folder: /nowhere"),
        ({"train_snapshot": "val", "model": {"kind": "hstu"}}, "no column tar_ts; it has: user_id"),
    ],
)
def test_bad_specs_exit_with_one_line_and_code_2(tmp_path, data, spec, capsys, changes, message):
    if changes.get("train_snapshot") == "val":
        changes = changes | {"train_snapshot": str(data / "val")}
    assert run(tmp_path, spec | changes) == 2
    error = capsys.readouterr().err
    assert error.startswith("train-sequential: ") and error.count("\n") == 1
    assert re.search(message, error)
