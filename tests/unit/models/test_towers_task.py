"""What TowersTask makes of a batch: its losses against sums over pairs, from embeddings as scoring gives them."""

from collections import Counter

import numpy as np
import pytest
import torch

from models.content import ContentMatrix
from models.snapshot import open_snapshot
from models.stream import read_column
from models.train_towers import TowersSpec, TowersTask
from tests.builders.tensors import random_vectors, sequences_table, write_matrix, write_snapshot

NUM_ITEMS = 40
SIZES = {"d_model": 16, "heads": 2, "layers": 1, "out_dim": 8, "max_len": 6, "dropout": 0.0}
SWITCHES = {"item_tower": "mlp", "id_residual": True, "item_bias": True, "content_residual": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two rows a user, and items that several users of a batch take."""
    folder = tmp_path_factory.mktemp("data")
    write_snapshot(folder / "train", sequences_table(60, NUM_ITEMS))
    write_snapshot(folder / "val", sequences_table(20, NUM_ITEMS, seed=1))
    write_matrix(folder / "matrix", random_vectors(NUM_ITEMS))
    return folder


def made(folder, towers, loss):
    """The task, its tables filled, and a raw batch."""
    spec = TowersSpec(
        train_snapshot=folder / "train",
        val_snapshot=folder / "val",
        content_matrix=folder / "matrix",
        out_dir=folder / "none",
        towers=SIZES | towers,
        loss=loss,
        train={"batch_size": 30, "threads": 1},
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
    """What scoring gives for a user who had just these items, float64 [K]."""
    return task.model.embed_users(np.array([items]), np.array([len(items)]), task.content)[0].astype(np.float64)


def all_items(task):
    """What scoring gives for every item alone, float64 [I, K]."""
    return task.model.embed_items(np.arange(task.content.rows), task.content).astype(np.float64)


def log_softmax_of_first(logits):
    return logits[0] - np.logaddexp.reduce(logits)


@pytest.mark.parametrize("towers", [{}, SWITCHES, {"item_tower": "content"}], ids=["shared_causal", "mlp", "content"])
@pytest.mark.parametrize("log_q", [False, True])
@pytest.mark.parametrize("mask_false_negatives", [False, True])
def test_the_papers_loss_is_the_mean_over_sampled_pairs(folder, towers, log_q, mask_false_negatives):
    loss = {"num_hist": 3, "num_targets": 2, "log_q": log_q, "mask_false_negatives": mask_false_negatives}
    task, raw = made(folder, towers, loss)
    batch = task._prepare(raw)
    times = Counter(item for row in read_column(open_snapshot(folder / "train"), "tar_items") for item in row if item)
    alone_IK = all_items(task)

    def target(row, place):
        """Its vector, its item, and what log Q takes off its logit."""
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
        others = [t for other, found in targets.items() if users[other] != user for t in found if t[1] not in own]
        for anchor in anchors[row]:
            for positive in targets[row]:
                logits = [vector @ anchor - log_popularity for vector, _, log_popularity in (positive, *others)]
                losses.append(-log_softmax_of_first(np.array(logits)))
    assert len(set(users)) < len(users) and len(losses) > 60
    assert task.loss(batch).item() == pytest.approx(np.mean(losses), rel=2e-5)


@pytest.mark.parametrize("negatives", ["catalogue", "sampled"])
def test_pairs_against_drawn_items_leave_all_own_targets_out(folder, negatives):
    loss = {"num_hist": 3, "num_targets": 2, "negatives": negatives, "num_sampled": 9}
    task, raw = made(folder, SWITCHES, loss)
    batch = task._prepare(raw)
    candidates = batch["candidates"].tolist()
    weight, alone_IK, losses = len(task.catalogue) / len(candidates), all_items(task), []
    for row in range(len(raw["user_id"])):
        own = set(raw["tar_items"][row].tolist())
        others = [item for item in candidates if item not in own]
        for place in batch["anchors"][row][batch["is_anchor"][row]].tolist():
            logit_I = alone_IK @ scored(task, raw["hist_items"][row, : place + 1].tolist())
            for at in batch["targets"][row][batch["is_target"][row]].tolist():
                positive = logit_I[raw["tar_items"][row, at]]
                losses.append(-log_softmax_of_first(np.array([positive, *(logit_I[others] + np.log(weight))])))
    assert len(candidates) == (9 if negatives == "sampled" else len(task.catalogue))
    assert task.loss(batch).item() == pytest.approx(np.mean(losses), rel=2e-5)


@pytest.mark.parametrize("negatives", ["catalogue", "sampled"])
def test_the_next_items_loss_is_the_mean_over_the_positions_that_something_follows(folder, negatives):
    task, raw = made(folder, SWITCHES, {"pairs": "next_item", "negatives": negatives, "num_sampled": 9})
    raw["tar_len"][3], raw["tar_items"][3] = 0, 0  # nothing follows this row's last position
    raw["hist_len"][4], raw["hist_items"][4] = 0, 0
    batch = task._prepare(raw)
    candidates = batch["candidates"].tolist()
    weight, alone_IK, losses = len(task.catalogue) / len(candidates), all_items(task), []
    for row in range(len(raw["hist_len"])):
        history = raw["hist_items"][row, : raw["hist_len"][row]].tolist()
        events = history + raw["tar_items"][row, : min(1, raw["tar_len"][row])].tolist()
        for stop in range(1, len(events)):
            logit_I = alone_IK @ scored(task, events[:stop])
            others = [item for item in candidates if item != events[stop]]
            logits = [logit_I[events[stop]], *(logit_I[others] + np.log(weight))]
            losses.append(-log_softmax_of_first(np.array(logits)))
    assert len(candidates) == (9 if negatives == "sampled" else len(task.catalogue))
    assert len(losses) > 60
    assert task.loss(batch).item() == pytest.approx(np.mean(losses), rel=1e-5)
