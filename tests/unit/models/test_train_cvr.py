"""What the conversion model's probability means, and what its validation measures, on pairs of known probability."""

import json

import numpy as np
import pyarrow as pa
import pytest

from models.__main__ import main
from models.saved import load_cvr
from tests.builders.tensors import write_snapshot

TYPES, ITEMS, NEGATIVES = 3, 8, 3
# P(item | a purchase line of a user of the type): every type has favourites; all types buy item 0.
P_TI = np.array([[8, 6, 1, 1, 1, 1, 1, 1], [8, 1, 1, 6, 1, 1, 1, 1], [8, 1, 1, 1, 1, 1, 1, 6]]) / 20


def sampled_pairs(lines: int, seed: int) -> pa.Table:
    """One purchase line per user, and NEGATIVES draws per line from all lines' items, without the user's own item."""
    rng = np.random.default_rng(seed)
    kind_L = rng.integers(TYPES, size=lines)
    bought_L = np.array([rng.choice(ITEMS, p=P_TI[kind]) for kind in kind_L])
    drawn_LN = bought_L[rng.integers(lines, size=(lines, NEGATIVES))]
    line, item = np.nonzero(drawn_LN != bought_L[:, None])[0], drawn_LN[drawn_LN != bought_L[:, None]]
    users, items = np.concatenate([np.arange(lines), line]), np.concatenate([bought_L, item])
    label = np.concatenate([np.ones(lines, np.int32), np.zeros(len(line), np.int32)])
    log_q_I = np.log(NEGATIVES * np.bincount(bought_L, minlength=ITEMS) / lines).astype(np.float32)
    order = rng.permutation(len(users))
    users, items, label = users[order], items[order], label[order]
    return pa.table(
        {
            "user_id": [f"u{user}" for user in users],
            "user_emb": pa.array(list(np.eye(ITEMS, dtype=np.float32)[kind_L[users]]), pa.list_(pa.float32())),
            "item_emb": pa.array(list(np.eye(ITEMS, dtype=np.float32)[items]), pa.list_(pa.float32())),
            "label": label,
            "weight": pa.array(np.ones(len(users)), pa.float32()),
            "log_q": log_q_I[items],
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_snapshot(folder / "train", sampled_pairs(6000, seed=0), row_group_size=2000)
    write_snapshot(folder / "val", sampled_pairs(4000, seed=1), row_group_size=2000)
    return folder


def trained(data, tmp_path, **changes):
    spec = {
        "train_snapshot": str(data / "train"),
        "val_snapshot": str(data / "val"),
        "out_dir": str(tmp_path / "cvr"),
        "cvr": {"hidden": [32], "mid_dim": 8, "dropout": 0.0},
        "train": {
            "batch_size": 128,
            "epochs": 3,
            "learning_rate": 0.01,
            "weight_decay": 0.0,
            "seed": 1,
            "run": {"threads": 1},
        },
    } | changes
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert main(["train-cvr", "--spec", str(tmp_path / "spec.json")]) == 0
    model = load_cvr(tmp_path / "cvr")
    user, item = np.divmod(np.arange(TYPES * ITEMS), ITEMS)
    _, score = model.score(np.eye(ITEMS, dtype=np.float32)[user], np.eye(ITEMS, dtype=np.float32)[item])
    return score.reshape(TYPES, ITEMS), json.loads((tmp_path / "cvr" / "result.json").read_text())["best"]


def test_with_log_q_the_probability_is_that_of_the_item_on_a_line(data, tmp_path):
    score_TI, best = trained(data, tmp_path, log_q=True)
    np.testing.assert_allclose(score_TI, P_TI, atol=0.05)
    assert best["calibration_error"] < 0.02
    rows = best["calibration"]
    weight = sum(row["weight"] for row in rows)
    base_rate = sum(row["observed"] * row["weight"] for row in rows) / weight
    assert base_rate == pytest.approx(1 / ITEMS, rel=0.05)  # one line against the whole catalogue
    assert sum(row["predicted"] * row["weight"] for row in rows) / weight == pytest.approx(1 / ITEMS, rel=0.1)


def test_without_it_popularity_is_divided_out_and_the_base_rate_is_that_of_the_draws(data, tmp_path):
    score_TI, best = trained(data, tmp_path)
    lift_TI = P_TI / P_TI.mean(0) / NEGATIVES
    np.testing.assert_allclose(score_TI, lift_TI / (lift_TI + 1 - P_TI), atol=0.07)
    assert score_TI[0, 0] < score_TI[0, 1] - 0.1, "the item that sells to all is no favourite of anybody's"
    assert best["calibration_error"] < 0.03


def test_figures_within_users_and_tables_are_in_the_result_alone(data, tmp_path):
    _, best = trained(data, tmp_path, cvr={"hidden": [16, 16], "mid_dim": 8, "batch_norm": True})
    assert best["auc"] > 0.6 and 0.5 < best["uauc"] < 1
    assert best["uauc"] != best["auc"] and 0.3 < best["log_loss"] < 0.7
    assert 2 <= len(best["calibration"]) <= 10
    lines = [json.loads(line) for line in (tmp_path / "cvr" / "metrics.jsonl").read_text().splitlines()]
    assert [line["calibration_error"] for line in lines if "auc" in line][-1] >= 0


def test_uauc_is_unknown_where_no_user_has_both_labels(data, tmp_path):
    table = sampled_pairs(300, seed=3)
    alone = table.set_column(0, "user_id", pa.array([f"u{row}" for row in range(len(table))]))
    write_snapshot(tmp_path / "val", alone)
    _, best = trained(data, tmp_path, val_snapshot=str(tmp_path / "val"))
    assert best["uauc"] is None and best["auc"] > 0.5


# P(label | type, item) of an exposure: carts are frequent and follow the user's type, purchases are a fifth of them.
CART_TI = 0.05 + 0.6 * P_TI / P_TI.max()
LABELS_TI = {"label": CART_TI / 5, "cart": CART_TI, "skip": 1 - CART_TI}


def exposures(rows: int, seed: int, others: tuple[str, ...]) -> pa.Table:
    rng = np.random.default_rng(seed)
    kind, item = rng.integers(TYPES, size=rows), rng.integers(ITEMS, size=rows)
    drawn = {name: (rng.random(rows) < p_TI[kind, item]).astype(np.float32) for name, p_TI in LABELS_TI.items()}
    columns = {
        "user_id": [f"u{row % 97}" for row in range(rows)],
        "user_emb": pa.array(list(np.eye(ITEMS, dtype=np.float32)[kind]), pa.list_(pa.float32())),
        "item_emb": pa.array(list(np.eye(ITEMS, dtype=np.float32)[item]), pa.list_(pa.float32())),
        "label": drawn["label"].astype(np.int32),
        "weight": pa.array(np.ones(rows), pa.float32()),
    }
    if others:
        columns["other_labels"] = pa.array(list(np.stack([drawn[name] for name in others], 1)), pa.list_(pa.float32()))
    return pa.table(columns)


@pytest.fixture(scope="module")
def exposed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exposures")
    for others in ((), ("cart", "skip")):
        name = "-".join(["val", *others]), "-".join(["train", *others])
        write_snapshot(folder / name[1], exposures(20_000, 0, others), row_group_size=2000)
        write_snapshot(folder / name[0], exposures(8000, 1, others), row_group_size=2000)
    return folder


def of_exposures(exposed, *others):
    return {side: str(exposed / "-".join([side.split("_")[0], *others])) for side in ("train_snapshot", "val_snapshot")}


def test_each_label_is_learned_as_what_it_is_and_a_rare_one_learns_from_a_frequent_one(exposed, tmp_path):
    """Carts say five times as often what 24 pairs of type and item have; purchases alone are too few to."""
    spec = of_exposures(exposed, "cart", "skip") | {"other_labels": {"cart": 1.0, "skip": 0.5}}
    (tmp_path / "alone").mkdir()
    alone_TI, alone = trained(exposed, tmp_path / "alone", **of_exposures(exposed))
    score_TI, best = trained(exposed, tmp_path, **spec)
    model = load_cvr(tmp_path / "cvr")
    user, item = np.divmod(np.arange(TYPES * ITEMS), ITEMS)
    _, score = model.score_labels(np.eye(ITEMS, dtype=np.float32)[user], np.eye(ITEMS, dtype=np.float32)[item])
    for found, name in zip(score.T, ("label", *model.other_labels), strict=True):
        np.testing.assert_allclose(found.reshape(TYPES, ITEMS), LABELS_TI[name], atol=0.15, err_msg=name)
    assert best["auc.cart"] > 0.6 and best["auc.skip"] > 0.6 and best["calibration_error.cart"] < 0.05
    assert {key.partition(".")[0] for key in best if "." in key} == alone.keys()
    errors = [np.abs(found - LABELS_TI["label"]).mean() for found in (alone_TI, score_TI)]
    assert errors[1] < 0.8 * errors[0], errors


def test_labels_that_the_snapshot_lacks_are_named(exposed, tmp_path, capsys):
    with pytest.raises(AssertionError):
        trained(exposed, tmp_path, **of_exposures(exposed), other_labels={"cart": 1.0})
    assert "other_labels" in capsys.readouterr().err
    with pytest.raises(AssertionError):
        trained(exposed, tmp_path, **of_exposures(exposed, "cart", "skip"), other_labels={"cart": 1.0})
    assert "has 2 other labels, the spec 1" in capsys.readouterr().err
