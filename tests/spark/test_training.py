"""Both trainings on a tiny lake: snapshots, the trainer's process through Petastorm, the ledger's details."""

from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from learn_spark.bridge.trained import cvr_path, towers_path
from learn_spark.config.load import load_config
from learn_spark.embedding.matrix import matrix_path
from learn_spark.runs.ledger import StepResult
from learn_spark.runs.steps import Context
from learn_spark.training.job import train_cvr, train_towers
from tests.builders.lake import fill_lake, tiny_context

pytestmark = pytest.mark.spark
CONF = Path(__file__).parents[2] / "conf"
SMALL = "towers.model={d_model: 16, layers: 1, heads: 2, embedding_dim: 8}"


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("training")
    settings = [f"lake.root={folder}/lake", f"output.dir={folder}/output", SMALL, "stream.rows_per_file=50"]
    settings.append("cvr.train={batch_size: 16}")
    context = tiny_context(spark, load_config(CONF / "test.yaml", settings))
    fill_lake(context)
    return context


@pytest.fixture(scope="module")
def towers(lake: Context) -> StepResult:
    return train_towers(lake, [lake.config.windows.towers_end])


@pytest.fixture(scope="module")
def cvr(lake: Context, towers: StepResult) -> StepResult:
    return train_cvr(lake, [lake.config.windows.cvr_end])


def test_towers_learn_from_train_and_val_sequences(lake: Context, towers: StepResult) -> None:
    split = {row.split: row["count"] for row in lake.tables.read("sequences").groupBy("split").count().collect()}
    assert towers.details["rows"] == {"train": split["train"], "val": split["val"]}
    assert towers.details["result"]["steps"] == split["train"] // 32
    assert towers.details["model"] == str(towers_path(lake))
    assert {"model.safetensors", "config.json", "result.json"} <= {p.name for p in towers_path(lake).iterdir()}
    assert towers.details["curve"][-1]["step"] == towers.details["result"]["steps"]
    assert towers.details["model_version"] == "1"


def test_cvr_pairs_hold_what_was_known_on_their_day(lake: Context, cvr: StepResult) -> None:
    from models.data.content import ContentMatrix
    from models.saved import load_towers

    model, content = load_towers(towers_path(lake)), ContentMatrix(matrix_path(lake))
    histories = lake.tables.read("user_history").collect()
    pairs = {}
    for folder in cvr.details["snapshots"].values():
        for file in Path(folder).glob("*.parquet"):
            for row in pq.read_table(file).to_pylist():
                pairs[row["user_id"], row["item_id"], row["event_ts"]] = row
    samples = [row for row in lake.tables.read("samples").collect() if row.stage == "cvr"]
    assert len(pairs) == len(samples) == cvr.rows_in
    by_time = {(user, item, at.replace(tzinfo=None)): row for (user, item, at), row in pairs.items()}
    first_seen, new_items = {}, 0
    for row in lake.tables.read("interactions").collect():
        first_seen[row.item_id] = min(row.ds, first_seen.get(row.item_id, row.ds))
    for sample in samples:
        pair = by_time[sample.user_id, sample.item_id, sample.event_ts]
        known = [row for row in histories if row.user_id == sample.user_id and row.ds <= sample.ds]
        expected = np.zeros(8)
        if known:
            items = np.array([max(known, key=lambda row: row.ds).item_idx])
            expected = model.embed_users(items, np.array([items.shape[1]]), content)[0]
        np.testing.assert_allclose(pair["user_emb"], expected, atol=2e-6)
        item = model.embed_items(np.array([int(sample.item_id[4:])]), content)[0]
        if first_seen.get(sample.item_id, sample.ds) >= sample.ds:  # no release has features of the item on that day
            item, new_items = np.zeros(8), new_items + 1
        np.testing.assert_allclose(pair["item_emb"], item, atol=2e-6)
        assert (pair["label"], pair["weight"]) == (sample.label, sample.weight)
    assert 0 < new_items < len(samples) / 2


def test_cvr_is_validated_on_its_last_days(lake: Context, cvr: StepResult) -> None:
    first = lake.config.windows.cvr_end - timedelta(days=lake.config.cvr.validation_days)
    days: dict[str, set[date]] = {}
    for role, folder in cvr.details["snapshots"].items():
        table = pq.read_table(next(Path(folder).glob("*.parquet")))
        days[role] = {at.date() for at in table["event_ts"].to_pylist()}
    assert max(days["train"]) < first <= min(days["val"])
    assert cvr_path(lake).is_dir()
    assert 0 <= cvr.details["result"]["best"]["auc"] <= 1


def test_with_log_q_the_pairs_say_how_often_their_item_was_drawn(lake: Context, towers: StepResult) -> None:
    settings = lake.config.cvr.model_copy(update={"log_q": True})
    fingerprints = lambda step, day: lake.fingerprint(step, day) + ("q" if step == "train_cvr" else "")  # noqa: E731
    context = replace(lake, config=lake.config.model_copy(update={"cvr": settings}), fingerprint=fingerprints)
    corrected = train_cvr(context, [lake.config.windows.cvr_end])
    bought = [row for row in lake.tables.read("samples").collect() if row.stage == "cvr" and row.label == 1]
    lines = Counter()
    for row in bought:
        lines[row.item_id] += row.weight
    found = []
    for folder in corrected.details["snapshots"].values():
        for file in Path(folder).glob("*.parquet"):
            found += pq.read_table(file, columns=["item_id", "log_q"]).to_pylist()
    negatives = lake.config.samples.negatives
    expected = {item: np.log(negatives * count / sum(lines.values())) for item, count in lines.items()}
    assert {row["item_id"] for row in found} == set(expected)
    for row in found:
        assert row["log_q"] == pytest.approx(expected[row["item_id"]], rel=1e-5)
    best = corrected.details["result"]["best"]
    assert sum(row["weight"] for row in best["calibration"]) > 0 and 0 <= best["calibration_error"] <= 1
    assert not any("calibration" in line for line in corrected.details["curve"])


def test_a_second_run_trains_nothing(lake: Context, towers: StepResult, cvr: StepResult) -> None:
    before = {path: path.stat().st_mtime_ns for path in lake.tables.artifacts.path().rglob("*") if path.is_file()}
    assert train_towers(lake, [lake.config.windows.towers_end]) == towers
    assert train_cvr(lake, [lake.config.windows.cvr_end]) == cvr
    assert {path: path.stat().st_mtime_ns for path in before} == before
