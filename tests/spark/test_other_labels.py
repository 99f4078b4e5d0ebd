"""Several labels of one exposure, from the log to the tables, the join and the server's model."""

from dataclasses import replace
from functools import reduce

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.bridge.scoring import score_pairs, without_nan_scores
from learn_spark.bridge.trained import cvr_path
from learn_spark.errors import ConfigError
from learn_spark.evaluation.report import _other_labels
from learn_spark.features.job import write_features
from learn_spark.pipeline import feature_days
from learn_spark.releases.join import join_features
from learn_spark.releases.online import export_online
from learn_spark.releases.registry import find_release
from learn_spark.sequences.samples import window_samples
from learn_spark.sequences.windows import sample_windows
from learn_spark.training.job import train_cvr
from models.contract.snapshot import open_snapshot
from models.data.stream import read_column
from models.saved import load_cvr
from tests.builders.lake import feature_lake
from tests.spark.test_online import predict

pytestmark = pytest.mark.spark
NAMES = ("one_piece", "two_pieces")
# The tiny lake's purchases are of 1 to 3 pieces: three of them are the conversion.
SETTINGS = [
    *("samples.labels=observed", "samples.exposure_events=[purchase]", "samples.conversion_events=[purchase]"),
    *("samples.conversion_days=0", "samples.min_value=3"),
    "samples.other_labels.two_pieces={events: [purchase], days: 0, min_value: 2}",
    "samples.other_labels.one_piece={events: [purchase], days: 0, min_value: 1}",
    *("cvr.label_weights={two_pieces: 0.5}", "cvr.train={batch_size: 4, epochs: 2}"),
]


@pytest.fixture(scope="module")
def lake(spark, tmp_path_factory):
    context = feature_lake(spark, tmp_path_factory.mktemp("labels"), SETTINGS)
    events, settings = context.tables.read("interactions"), context.config.samples
    windows = (window_samples(events, window, settings, []) for window in sample_windows(context.config))
    context.tables.overwrite_where("samples", reduce(DataFrame.unionByName, windows), "TRUE")
    return context


@pytest.fixture(scope="module")
def trained(lake):
    return train_cvr(lake, [lake.config.windows.cvr_end])


@pytest.fixture(scope="module")
def release(lake, trained):
    write_features(lake, feature_days(lake.config))
    return replace(find_release(lake.tables), encoder_id="test")


def test_samples_hold_every_label_in_the_order_of_the_names(lake):
    value = lake.tables.read("interactions").select("user_id", "item_id", "event_ts", F.col("value").alias("pieces"))
    rows = lake.tables.read("samples").join(value, on=["user_id", "item_id", "event_ts"], how="inner").collect()
    assert len(rows) == lake.tables.read("samples").count() > 50
    for row in rows:
        assert row.label == (row.pieces >= 3)
        assert row.other_labels == [1, int(row.pieces >= 2)]


def test_the_model_learns_them_in_the_order_of_their_names(lake, trained):
    model = load_cvr(cvr_path(lake))
    assert model.other_labels == NAMES
    snapshot = open_snapshot(trained.details["snapshots"]["train"])
    label, others = (read_column(snapshot, name) for name in ("label", "other_labels"))
    assert others.shape == (len(label), 2) and (others[:, 0] == 1).all() and (others[:, 1] >= label).all()
    assert 0 < label.mean() < others[:, 1].mean() < 1
    best = trained.details["result"]["best"]
    assert best["auc.one_piece"] is None and 0 <= best["auc.two_pieces"] <= 1  # a label that is always 1 has no AUC
    assert _other_labels({"train_cvr": trained.details}).keys() == set(NAMES)


def test_pairs_have_a_score_for_each_label_and_so_has_the_join(spark, lake, release):
    pairs = lake.tables.read("pair_features").collect()
    assert len(pairs) > 20 and all(len(row.other_scores) == len(NAMES) for row in pairs)
    samples = lake.tables.read("pair_features").select("user_id", "item_id", "event_ts", "ds")
    joined = join_features(samples, lake.tables.root, pairs=True).collect()
    found = {(row.user_id, row.item_id, row.event_ts): row for row in joined}
    model = load_cvr(cvr_path(lake))
    for row in pairs:
        other = found[row.user_id, row.item_id, row.event_ts]
        _, (expected,) = model.score_labels(np.array([other.user_emb]), np.array([other.item_emb]))
        for scored in (row, other):
            np.testing.assert_allclose([scored.cvr_score, *scored.other_scores], expected, atol=1e-5)
    with pytest.raises(ConfigError, match="already have .*other_scores"):
        join_features(samples.withColumn("other_scores", F.lit(1)), lake.tables.root, pairs=True)


def test_a_label_that_is_not_a_number_fails_the_gate_of_its_pair(lake, trained, spark):
    pairs = spark.createDataFrame(
        [([0.1] * 8, [0.2] * 8), ([float("nan")] * 8, [0.2] * 8)], "user_emb array<float>, item_emb array<float>"
    )
    rows = score_pairs(pairs.coalesce(1), cvr_path(lake), 10).then(without_nan_scores).frame.collect()
    (good,), (bad,) = ([row for row in rows if (row.cvr_score > 0) == is_good] for is_good in (True, False))
    assert np.isfinite([*good.mid_emb, *good.other_scores]).all()
    assert np.isnan(bad.mid_emb).all() and bad.other_scores == [0.0] * len(NAMES) and bad.cvr_score == 0


def test_batches_of_scores_are_mended_wherever_the_broken_row_stands():
    others = pa.array([[0.1, 0.2], [0.3, float("nan")], [0.5, 0.6]], pa.list_(pa.float32()))
    mid = pa.array([[1.0], [2.0], [3.0]], pa.list_(pa.float32()))
    batch = pa.RecordBatch.from_arrays(
        [mid, pa.array([0.7, 0.8, 0.9], pa.float32()), others], ["mid_emb", "cvr_score", "other_scores"]
    )
    for start in (0, 1):
        found = without_nan_scores(batch.slice(start)).to_pylist()
        broken = found[1 - start]
        assert np.isnan(broken["mid_emb"][0]) and broken["cvr_score"] == 0 and broken["other_scores"] == [0, 0]
        assert found[2 - start] == batch.to_pylist()[2]


@pytest.mark.long
def test_the_servers_model_scores_each_label(lake, release, tmp_path):
    about = export_online(lake, release, tmp_path / "models", ["pt2"])
    assert about["other_labels"] == list(NAMES)
    assert about["programs"]["cvr"]["outputs"] == ["mid_emb", "cvr_score", "other_scores"]
    scored, none = predict(
        tmp_path / "models", [{"history": [1, 2], "candidates": [3, 4, 5]}, {"history": [1], "candidates": []}]
    )
    _, expected = load_cvr(cvr_path(lake)).score_labels(
        np.tile(scored["user_emb"], (3, 1)), np.array(scored["item_emb"])
    )
    found = [scored["cvr_score"], *map(scored["other_scores"].get, NAMES)]
    np.testing.assert_allclose(np.array(found).T, expected, atol=1e-5)
    assert none["other_scores"] == {"one_piece": [], "two_pieces": []}
