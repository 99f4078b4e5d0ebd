"""Other systems' features for the ranker: the content of their columns, and whether their gain is measured."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.baselines.als import ALS
from models.baselines.history import Cooccurrence
from models.contract.evaluation_specs import RivalConfig
from models.contract.failures import BadInput
from models.contract.settings import ALSConfig
from models.contract.snapshot import open_snapshot
from models.evaluation.evaluate_ranker import run
from models.evaluation.rival_features import history_places, rival_blocks
from models.saved import save_als
from tests.builders.tensors import sequences_table, write_snapshot
from tests.unit.models.test_ranker import ITEMS, rows_table, spec_for

DAY = 7  # the day of all histories
WIDTH = 3


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def histories_table(users, rng):
    """One history per user, of one to six items."""
    length = rng.integers(1, 7, len(users))
    items = np.where(np.arange(6) < length[:, None], rng.integers(1, ITEMS + 1, (len(users), 6)), 0)
    return pa.table(
        {
            "user_id": pa.array(users),
            "day": pa.array([DAY] * len(users), pa.int32()),
            "hist_items": pa.array(list(items.astype(np.int32)), pa.list_(pa.int32())),
            "hist_ts": pa.array(list(items.astype(np.int64)), pa.list_(pa.int64())),
            "hist_len": pa.array(length, pa.int32()),
        }
    )


def saved_als(folder, factors):
    model = ALS(ALSConfig(d_model=factors.shape[1]), len(factors))
    with torch.no_grad():
        model.item_table.copy_(torch.from_numpy(factors))
    save_als(folder, model)
    return model


@pytest.fixture
def made(tmp_path, rng):
    """A spec with both kinds of rivals, its rows, ALS, and histories of all users but u0."""
    rows = rows_table(3000)
    users = sorted(set(rows["user_id"].to_pylist()) - {"u0"}, reverse=True)
    history_day = [DAY if user != "u0" else -1 for user in rows["user_id"].to_pylist()]
    rows = rows.append_column("history_day", pa.array(history_day, pa.int32()))
    histories = histories_table(users, rng)
    als = saved_als(tmp_path / "als", np.vstack([np.zeros(WIDTH), rng.normal(size=(ITEMS, WIDTH))]).astype(np.float32))
    spec = spec_for(
        tmp_path,
        rows,
        histories=write_snapshot(tmp_path / "histories", histories),
        train_snapshot=write_snapshot(tmp_path / "train", sequences_table(200, ITEMS - 1, seed=4)),
    )
    both = (
        RivalConfig(
            name="als",
            kind="model",
            folder=tmp_path / "als",
            content_matrix=spec.content_matrix,
            trained_items_only=True,
        ),
        RivalConfig(name="cooccurrence", kind="cooccurrence"),
    )
    return spec.model_copy(update={"rivals": both}), rows, als, histories


def test_single_pairs_have_the_scores_that_all_items_have(rng, monkeypatch):
    monkeypatch.setattr("models.baselines.history.CHUNK_PAIRS", 7)
    train, asked = sequences_table(80, 30, seed=1), sequences_table(20, 30, seed=2)
    columns = [np.array(train[name].to_pylist()) for name in ("user_id", "hist_items", "tar_items")]
    counts = Cooccurrence(*columns, num_items=32, decay=0.9)
    hist_BH, hist_len_B = (np.array(asked[name].to_pylist()) for name in ("hist_items", "hist_len"))
    row_P, item_P = rng.integers(0, 20, 150), rng.integers(0, 32, 150)
    expected_BI = counts(hist_BH, hist_len_B)
    assert (expected_BI[row_P, item_P] > 0).any() and (hist_BH[row_P] == item_P[:, None]).any()
    np.testing.assert_array_equal(counts.of_pairs(hist_BH, hist_len_B, row_P, item_P), expected_BI[row_P, item_P])


def test_rows_get_what_their_own_history_and_item_say(made):
    spec, rows, als, histories = made
    blocks = dict(rival_blocks(spec, rows))
    known = {user: place for place, user in enumerate(histories["user_id"].to_pylist())}
    hist_BH, hist_len_B = (np.array(histories[name].to_pylist()) for name in ("hist_items", "hist_len"))
    user_BK, item_IK = als.embed_users(hist_BH, hist_len_B), als.embed_items(np.arange(ITEMS + 1))
    assert blocks["als"].shape == (3000, 2 * WIDTH + 1) and blocks["cooccurrence"].shape == (3000, 1)
    for row in range(0, 3000, 97):
        user, item = rows["user_id"][row].as_py(), rows["item_idx"][row].as_py()
        x, y = (user_BK[known[user]] if user in known else np.zeros(WIDTH)), item_IK[item] * (item < ITEMS)
        np.testing.assert_allclose(blocks["als"][row], [*x, *y, x @ y], atol=1e-5)
    no_history = np.array(rows["history_day"].to_pylist()) < 0
    assert not blocks["cooccurrence"][no_history].any() and blocks["cooccurrence"].any()
    assert not blocks["als"][rows["item_idx"].to_numpy() == ITEMS, WIDTH:].any(), "no training row holds it"


def test_a_row_whose_history_is_missing_is_an_error(made):
    spec, rows, *_ = made
    at = rows.schema.get_field_index("history_day")
    late = rows.set_column(at, "history_day", pa.array([DAY + 1] * len(rows), pa.int32()))
    with pytest.raises(BadInput, match="lacks histories that rows name"):
        history_places(late, open_snapshot(spec.histories))


def test_a_rival_that_knows_the_items_is_found_to_help_and_the_embeddings_still_do(made, rng, tmp_path):
    spec, rows, *_ = made
    quality_I = rng.normal(size=ITEMS + 1)
    item_N, mid_N0 = rows["item_idx"].to_numpy(), np.array([row[0] for row in rows["mid_emb"].to_pylist()])
    label = rng.random(len(rows)) < 1 / (1 + np.exp(-1.5 * quality_I[item_N] - mid_N0))
    rows = rows.set_column(rows.schema.get_field_index("label"), "label", pa.array(label.astype(np.int32)))
    factors = np.vstack([np.zeros(2), np.stack([quality_I[1:], np.ones(ITEMS)], 1)]).astype(np.float32)
    saved_als(tmp_path / "knowing", factors)
    knowing = spec.rivals[0].model_copy(update={"folder": tmp_path / "knowing"})
    update = {"rivals": (knowing, spec.rivals[1]), "alone": False, "rows": write_snapshot(tmp_path / "other", rows)}
    result = run(spec.model_copy(update=update))
    found = result["rivals"]
    als, scores, both = found["systems"]["als"], found["systems"]["cooccurrence"], found["together"]
    assert als["auc_gain_ci90"][0] > 0.05 and abs(scores["auc_gain"]) < 0.03
    assert als["features"] == 3 + 5 and scores["features"] == 3 + 1 and both["features"] == 3 + 6
    assert als["auc_without"] == scores["auc_without"] == result["auc_without"] and both["auc_gain_ci90"][0] > 0.05
    instead, on_top = als["embeddings_instead"], found["on_top"]
    assert instead["auc_with"] == result["auc_with"] and instead["auc_without"] == als["auc_with"]
    assert on_top["auc_without"] == both["auc_with"] and on_top["auc_gain_ci90"][0] > 0.02
    assert set(on_top["segments"]) == set(als["segments"]) == set(result["segments"])
    one = run(spec.model_copy(update=update | {"rivals": (knowing,), "out_dir": tmp_path / "one"}))["rivals"]
    assert "together" not in one and one["on_top"]["auc_without"] == one["systems"]["als"]["auc_with"]


def test_rivals_need_their_snapshots_and_names_of_their_own(made):
    spec, *_ = made
    told = spec.model_dump()
    with pytest.raises(ValueError, match="rivals need histories and train_snapshot"):
        type(spec)(**(told | {"histories": None}))
    with pytest.raises(ValueError, match="rivals of one name: als"):
        type(spec)(**(told | {"rivals": (told["rivals"][0], told["rivals"][0])}))
    with pytest.raises(ValueError, match="rival als: kind model needs folder"):
        RivalConfig(name="als", kind="model")
