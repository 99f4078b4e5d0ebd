"""TowersTask's losses of a batch, against sums over pairs of the embeddings that batch scoring gives."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.contract.snapshot import open_snapshot
from models.data.content import ContentMatrix
from models.data.stream import read_column
from models.saved import load_towers
from models.training.train_towers import TowersSpec, TowersTask, run
from tests.builders.tensors import random_vectors, sequences_table, write_matrix, write_snapshot

NUM_ITEMS = 40
SIZES = {"d_model": 16, "heads": 2, "layers": 1, "embedding_dim": 8, "max_len": 6, "dropout": 0.0}
SWITCHES = {"item_tower": "mlp", "id_residual": True, "item_bias": True, "content_residual": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with snapshots of two rows per user, in which users of a batch share items, and a content matrix."""
    folder = tmp_path_factory.mktemp("data")
    write_snapshot(folder / "train", sequences_table(60, NUM_ITEMS))
    write_snapshot(folder / "val", sequences_table(20, NUM_ITEMS, seed=1))
    write_matrix(folder / "matrix", random_vectors(NUM_ITEMS))
    return folder


def made(folder, towers, loss):
    """The task, with random values in its tables, and a raw batch."""
    spec = TowersSpec(
        train_snapshot=folder / "train",
        val_snapshot=folder / "val",
        content_matrix=folder / "matrix",
        out_dir=folder / "none",
        towers=SIZES | towers,
        loss=loss,
        train={"batch_size": 30, "seed": 1, "run": {"threads": 1}},
    )
    torch.manual_seed(0)
    snapshots = (open_snapshot(folder / name) for name in ("train", "val"))
    task = TowersTask(spec, *snapshots, ContentMatrix(folder / "matrix"))
    task.model.eval()
    for table in (task.model.id_residual, task.model.item_bias):
        if table is not None:
            torch.nn.init.normal_(table.weight[1:], std=0.5)
    return task, next(iter(task._reader(epoch=0)))


def scored(task, items):
    """The embedding that scoring gives a user with exactly these items, float64 [K]."""
    return task.model.embed_users(np.array([items]), np.array([len(items)]), task.content)[0].astype(np.float64)


def all_items(task):
    """The embeddings that scoring gives all items, float64 [I, K]."""
    return task.model.embed_items(np.arange(task.content.rows), task.content).astype(np.float64)


def biased(task, repeat_weight):
    """Sets the repeat weight and returns the repeat bias; 0 for a task that learns none."""
    if repeat_weight is None:
        return 0.0
    task.model.repeat_weight.data.fill_(repeat_weight)
    return task.model.repeat_bias.item()


def log_softmax_of_first(logits):
    return logits[0] - np.logaddexp.reduce(logits)


@pytest.mark.parametrize("towers", [{}, SWITCHES, {"item_tower": "content"}], ids=["shared_causal", "mlp", "content"])
@pytest.mark.parametrize("log_q", [False, True])
@pytest.mark.parametrize("mask_false_negatives", [False, True])
@pytest.mark.parametrize("repeat_weight", [None, 0.04])
def test_the_papers_loss_is_the_mean_over_sampled_pairs(folder, towers, log_q, mask_false_negatives, repeat_weight):
    loss = {"num_anchors": 3, "num_targets": 2, "log_q": log_q, "mask_false_negatives": mask_false_negatives}
    task, raw = made(folder, towers | {"repeat_bias": repeat_weight is not None}, loss)
    repeat_bias = biased(task, repeat_weight)
    batch = task._prepare(raw)
    times = Counter(item for row in read_column(open_snapshot(folder / "train"), "tar_items") for item in row if item)
    alone_IK = all_items(task)

    def target(row, place):
        """A target's vector, its item, and the log Q that is subtracted from its logit."""
        items = raw["tar_items"][row, : place + 1].tolist()
        vector = alone_IK[items[-1]] if towers else scored(task, items)
        return vector, items[-1], np.log(times[items[-1]] + 1) if log_q else 0.0

    users, targets, anchors = raw["user_id"].tolist(), {}, {}
    for row in range(len(users)):
        places = batch["targets"][row][batch["is_target"][row]].tolist()
        targets[row] = [target(row, place) for place in places]
        places = batch["anchors"][row][batch["is_anchor"][row]].tolist()
        anchors[row] = [scored(task, raw["hist_items"][row, : place + 1].tolist()) for place in places]
        assert len(targets[row]) == min(2, raw["tar_len"][row]) and len(anchors[row]) == min(3, raw["hist_len"][row])
    losses = []
    for row, user in enumerate(users):
        own = {item for _, item, _ in targets[row]} if mask_false_negatives else set()
        held = set(raw["hist_items"][row, : raw["hist_len"][row]].tolist())
        others = [t for other, found in targets.items() if users[other] != user for t in found if t[1] not in own]
        for anchor in anchors[row]:
            for positive in targets[row]:
                logits = [
                    vector @ anchor - log_popularity + repeat_bias * (item in held)
                    for vector, item, log_popularity in (positive, *others)
                ]
                losses.append(-log_softmax_of_first(np.array(logits)))
    assert len(set(users)) < len(users) and len(losses) > 60
    assert task.loss(batch).item() == pytest.approx(np.mean(losses), rel=2e-5)


@pytest.mark.parametrize(
    ("negatives", "repeat_weight"), [("full_softmax", None), ("full_softmax", -0.03), ("sampled", None)]
)
def test_pairs_against_drawn_items_leave_all_own_targets_out(folder, negatives, repeat_weight):
    loss = {"num_anchors": 3, "num_targets": 2, "negatives": negatives, "num_sampled": 9}
    task, raw = made(folder, SWITCHES | {"repeat_bias": repeat_weight is not None}, loss)
    repeat_bias = biased(task, repeat_weight)
    batch = task._prepare(raw)
    candidates = batch["candidates"].tolist()
    weight, alone_IK, losses = len(task.catalogue) / len(candidates), all_items(task), []
    for row in range(len(raw["user_id"])):
        own = set(raw["tar_items"][row].tolist())
        others = [item for item in candidates if item not in own]
        for place in batch["anchors"][row][batch["is_anchor"][row]].tolist():
            logit_I = alone_IK @ scored(task, raw["hist_items"][row, : place + 1].tolist())
            logit_I[raw["hist_items"][row, : raw["hist_len"][row]].unique()] += repeat_bias
            for at in batch["targets"][row][batch["is_target"][row]].tolist():
                positive = logit_I[raw["tar_items"][row, at]]
                losses.append(-log_softmax_of_first(np.array([positive, *(logit_I[others] + np.log(weight))])))
    assert len(candidates) == (9 if negatives == "sampled" else len(task.catalogue))
    assert task.loss(batch).item() == pytest.approx(np.mean(losses), rel=2e-5)


@pytest.mark.parametrize("repeat_weight", [None, -0.04, 0.06])
@pytest.mark.parametrize("negatives", ["full_softmax", "sampled"])
def test_the_next_items_loss_is_the_mean_over_the_positions_that_something_follows(folder, negatives, repeat_weight):
    towers = SWITCHES | {"repeat_bias": repeat_weight is not None}
    task, raw = made(folder, towers, {"pairs": "next_item", "negatives": negatives, "num_sampled": 9})
    repeat_bias = biased(task, repeat_weight)
    raw["tar_len"][3], raw["tar_items"][3] = 0, 0  # no item follows this row's last position
    raw["hist_len"][4], raw["hist_items"][4] = 0, 0
    batch = task._prepare(raw)
    candidates = batch["candidates"].tolist()
    weight, alone_IK, losses, repeats = len(task.catalogue) / len(candidates), all_items(task), [], 0
    for row in range(len(raw["hist_len"])):
        history = raw["hist_items"][row, : raw["hist_len"][row]].tolist()
        events = history + raw["tar_items"][row, : min(1, raw["tar_len"][row])].tolist()
        for stop in range(1, len(events)):
            logit_I = alone_IK @ scored(task, events[:stop])
            held = {} if repeat_weight is None else set(events[:stop])
            logit_I[list(held)] += repeat_bias
            others = [item for item in candidates if item != events[stop] and item not in held]
            own = [item for item in held if item != events[stop]]  # held items all count; they are not sampled
            logits = [logit_I[events[stop]], *logit_I[own], *(logit_I[others] + np.log(weight))]
            repeats += events[stop] in held
            losses.append(-log_softmax_of_first(np.array(logits)))
    assert len(candidates) == (9 if negatives == "sampled" else len(task.catalogue))
    assert len(losses) > 60 and (repeats > 10) == (repeat_weight is not None)
    assert task.loss(batch).item() == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "times_better"),
    [({"pairs": "next_item", "negatives": "full_softmax"}, 1.5), ({}, 1.1)],
    ids=["next_item", "all_action"],
)
@pytest.mark.parametrize("is_repeated", [True, False])
def test_whether_logs_repeat_is_learned_and_ranks(tmp_path, is_repeated, loss, times_better):
    """Users either take three items of a kind in turns, or never repeat an item."""
    rng = np.random.default_rng(0)
    rows = np.array([rng.permutation(10)[:7] + rng.integers(4) * 10 + 1 for _ in range(240)])
    kinds = np.repeat(rng.normal(size=(4, 16)), 10, axis=0) + 0.3 * rng.normal(size=(NUM_ITEMS, 16))
    if is_repeated:
        rows = rows[:, [0, 1, 2, 0, 1, 2, 0]]
    hist, tar = rows[:, :6], rows[:, 6:]
    ints = {"hist_items": hist, "tar_items": tar, "hist_ts": np.arange(6) + 0 * hist}
    table = pa.table(
        {
            "user_id": [f"u{number}" for number in range(240)],
            **{name: pa.array(list(value), pa.list_(pa.int64())) for name, value in ints.items()},
            "hist_len": np.full(240, 6, np.int32),
            "tar_len": np.full(240, 1, np.int32),
        }
    )
    write_snapshot(tmp_path / "train", table.slice(0, 200))
    write_snapshot(tmp_path / "val", table.slice(200))
    write_matrix(tmp_path / "matrix", np.concatenate([np.zeros((1, 16)), kinds]))
    found = {}
    for repeat_bias in (False, True):
        spec = TowersSpec(
            train_snapshot=tmp_path / "train",
            val_snapshot=tmp_path / "val",
            content_matrix=tmp_path / "matrix",
            out_dir=tmp_path / f"model-{repeat_bias}",
            towers=SIZES | {"item_tower": "content", "content_residual": True, "repeat_bias": repeat_bias},
            loss=loss,
            train={"batch_size": 20, "epochs": 6, "learning_rate": 0.01, "seed": 1, "run": {"threads": 1}},
            validation={"k": 3, "popularity_prior": 0.0},
        )
        found[repeat_bias] = run(spec).best["recall_at_3"]
    model = load_towers(tmp_path / "model-True")
    assert load_towers(tmp_path / "model-False").repeat_bias is None
    assert found[True] > times_better * found[False]
    assert model.repeat_bias > 1 if is_repeated else model.repeat_bias < -1
