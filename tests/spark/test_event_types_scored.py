"""Event types in everything that scores: features, canaries, users of pairs, released towers, the online model."""

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from pyspark.errors import PythonException
from pyspark.sql import functions as F

from learn_spark.api import ReleasedTowers, build_sequences
from learn_spark.bridge.scoring import score_users
from learn_spark.bridge.trained import towers_path
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import ConfigError
from learn_spark.evaluation.ranking import histories_of, with_history_day
from learn_spark.features.job import write_features
from learn_spark.releases.online import export_online
from learn_spark.releases.registry import find_release
from learn_spark.training.pair_snapshots import with_embeddings
from learn_spark.training.sequence_snapshots import sequence_snapshot
from models.contract.snapshot import open_snapshot
from models.data.stream import read_column
from tests.builders.lake import feature_lake, item_id
from tests.spark.test_online import predict

pytestmark = pytest.mark.spark
TYPES = ("purchase", "cancel", "adjust")


@pytest.fixture(scope="module")
def lake(spark, tmp_path_factory):
    settings = [
        *("windows.towers_end=2011-11-21", "windows.cvr_end=2011-11-22"),
        *("windows.ranker_train_end=2011-11-23", "windows.end=2011-11-25"),
        *("sequences.history_events=[purchase, cancel, adjust]", "sequences.keep_event_types=true"),
    ]
    return feature_lake(spark, tmp_path_factory.mktemp("typed"), settings)


@pytest.fixture(scope="module")
def release(lake):
    first = lake.config.windows.towers_end
    write_features(lake, [first])
    write_features(lake, [first + timedelta(days=1)])  # compares canaries with the stored ones
    return replace(find_release(lake.tables), encoder_id="test")


@pytest.fixture(scope="module")
def towers(lake):
    """(the released towers on frames, histories by (user, day), a function that embeds a history by torch)"""
    from models.data.content import ContentMatrix
    from models.saved import load_towers

    model, content = load_towers(towers_path(lake)), ContentMatrix(matrix_path(lake))
    assert model.event_types == TYPES

    def embedded(items, types):
        length = np.array([len(items)])
        return model.embed_users(np.array([items]), length, content, hist_types_BH=np.array([types]))[0]

    rows = lake.tables.read("user_history").collect()
    released = ReleasedTowers(towers_path(lake), matrix_path(lake), lake.tables.read("item_index"))
    return released, {(row.user_id, row.ds): row for row in rows}, embedded


def test_features_are_scored_with_the_types_of_their_histories(lake, release, towers):
    _, histories, embedded = towers
    rows = lake.tables.read("user_features").collect()
    assert len({row.ds for row in rows}) == 2
    for row in rows:
        history = histories[row.user_id, row.ds]
        np.testing.assert_allclose(row.user_emb, embedded(history.item_idx, history.event_types), atol=1e-5)
    (row, *_) = [row for row in rows if set(histories[row.user_id, row.ds].event_types) == {1, 2, 3}]
    one_type = embedded(items := histories[row.user_id, row.ds].item_idx, [1] * len(items))
    assert np.abs(np.array(row.user_emb) - one_type).max() > 1e-3


def test_pairs_and_rivals_read_the_types_too(lake, release, towers):
    _, histories, embedded = towers
    samples = lake.tables.read("samples").where("stage <> 'cvr'")
    for row in with_embeddings(lake, samples).limit(20).collect():
        days = [day for user, day in histories if user == row.user_id and day <= row.ds]
        if days:
            history = histories[row.user_id, max(days)]
            np.testing.assert_allclose(row.user_emb, embedded(history.item_idx, history.event_types), atol=1e-5)
    for row in histories_of(lake, with_history_day(lake, samples)).limit(5).collect():
        assert all((code > 0) == (place < row.hist_len) for place, code in enumerate(row.hist_types))


def test_a_snapshot_names_its_types(lake):
    snapshot = open_snapshot(sequence_snapshot(lake, "train", lake.tables.version("sequences"), "typed"))
    assert snapshot.event_types == TYPES
    items, types = (read_column(snapshot, name) for name in ("tar_items", "tar_types"))
    np.testing.assert_array_equal(types, np.where(items > 0, 1 + items % 3, 0))


def test_the_notebooks_towers_take_names(spark, lake, release, towers):
    released, histories, embedded = towers
    known = [4, 9, 4, 12]
    rows = [
        ("names", [*map(item_id, known)], ["cancel", "purchase", "adjust", "cancel"]),
        ("a stranger", ["nobody's", *map(item_id, known[:2])], ["adjust", "cancel", "purchase"]),
        ("nothing", [], []),
    ]
    frame = spark.createDataFrame(rows, "who string, item_ids array<string>, event_types array<string>")
    found = {row.who: row.user_emb for row in released.embed_users(frame).collect()}
    np.testing.assert_allclose(found["names"], embedded(known, [2, 1, 3, 2]), atol=1e-5)
    np.testing.assert_allclose(found["a stranger"], embedded(known[:2], [2, 1]), atol=1e-5)
    assert not any(found["nothing"])
    stored = released.embed_users(lake.tables.read("user_history").limit(3)).collect()
    for row in stored:
        history = histories[row.user_id, row.ds]
        np.testing.assert_allclose(row.user_emb, embedded(history.item_idx, history.event_types), atol=1e-5)
    with pytest.raises(ConfigError, match="needs a column event_types"):
        released.embed_users(frame.drop("event_types"))
    for types in (["cancel"], ["cancel", "purchase", "adjust", "share"]):
        wrong = spark.createDataFrame([("w", [*map(item_id, known)], types)], frame.schema)
        with pytest.raises(PythonException, match="an event of a history has the type|which the histories lack"):
            released.embed_users(wrong).collect()


def test_histories_of_other_types_are_refused_before_anything_is_scored(lake):
    folder, matrix = towers_path(lake), matrix_path(lake)
    histories = lake.tables.read("user_history")
    for types, told in (
        ((), "have none: set sequences.keep_event_types: true"),
        (("purchase", "view"), "can read the event types purchase, cancel, adjust, but .* may hold view"),
    ):
        with pytest.raises(ConfigError, match=told):
            score_users(histories, folder, matrix, 100, types)
    fewer = histories.withColumn("event_types", F.transform("event_types", lambda _: F.lit(1).cast("tinyint")))
    by_name = score_users(fewer, folder, matrix, 100, ("adjust",)).frame.orderBy("user_id", "ds").collect()
    as_adjust = fewer.withColumn("event_types", F.transform("event_types", lambda _: F.lit(3).cast("tinyint")))
    assert by_name == score_users(as_adjust, folder, matrix, 100, TYPES).frame.orderBy("user_id", "ds").collect()


@pytest.mark.long
def test_the_servers_model_takes_names(lake, release, towers, tmp_path):
    _, histories, _ = towers
    about = export_online(lake, release, tmp_path / "models", ["pt2"])
    assert about == json.loads((tmp_path / "models" / "result.json").read_text())
    assert about["event_types"] == list(TYPES)
    users = lake.tables.read("user_features").limit(5).collect()
    rows = [histories[row.user_id, row.ds] for row in users]
    asked = [
        {"history": row.item_idx, "history_types": [TYPES[code - 1] for code in row.event_types], "candidates": [1]}
        for row in rows
    ]
    longest = lake.config.sequences.history_length
    asked.append(
        {
            "history": [7] * 30 + [5] * longest,
            "history_types": ["cancel"] * 30 + ["purchase"] * longest,
            "candidates": [],
        }
    )
    asked.append({"history": [5] * longest, "history_types": ["purchase"] * longest, "candidates": []})
    asked.append({"history": [], "history_types": [], "candidates": [1]})
    *found, long, short, empty = predict(tmp_path / "models", asked)
    for row, scored in zip(users, found, strict=True):
        np.testing.assert_allclose(scored["user_emb"], row.user_emb, atol=1e-5)
    assert long == short and not any(empty["user_emb"])
    for types, told in (
        (None, "needs history_types, a name of purchase"),
        (["purchase"], "1 names, the history 2"),
        (["view", "purchase"], "names 'view'"),
    ):
        row = {"history": [1, 2], "candidates": [1]} | ({"history_types": types} if types else {})
        with pytest.raises(AssertionError, match=told):
            predict(tmp_path / "models", [row])


def test_sequences_of_any_events_with_types(spark):
    rows = [("ann", "x", 1, "view"), ("ann", "y", 2, "cart"), ("ann", "y", 2, "share"), ("ann", "z", 5, "view")]
    events = spark.createDataFrame(rows, "user_id string, item_id string, day int, event_type string")
    events = events.withColumn("event_ts", F.expr("make_timestamp(2024, 5, day, 12, 0, 0)"))
    (row,) = build_sequences(events, ["2024-05-04"], 3, 2, event_types=["cart", "view"]).rows.collect()
    assert (row.hist_types, row.tar_types, row.hist_len) == ([2, 1, 0], [2, 0], 2)
    untyped = build_sequences(events, ["2024-05-04"], 4, 2).rows
    assert "hist_types" not in untyped.columns and untyped.collect()[0].hist_len == 3
    with pytest.raises(ConfigError, match="needs a column event_type"):
        build_sequences(events.drop("event_type"), ["2024-05-04"], event_types=["view"])
    with pytest.raises(ConfigError, match="keep_event_types keeps 127 types at most"):
        build_sequences(events, ["2024-05-04"], event_types=[f"type {n}" for n in range(128)])
