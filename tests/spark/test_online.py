"""`export_online` of a release: its MLflow model, run without this project, gives the vectors of the tables."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from learn_spark.bridge.trained import cvr_path
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import ConfigError
from learn_spark.features.job import write_features
from learn_spark.releases.online import export_online
from learn_spark.releases.registry import Release, find_release
from learn_spark.releases.vectors import QUERIES, export_vectors
from learn_spark.runs.steps import Context
from models.contract.content_matrix import BLOCK_ROWS, block_digests, read_meta, write_meta
from tests.builders.lake import CONTENT_DIM, ITEMS, NEW_ITEM, NO_CONTENT_ITEM, feature_lake
from tests.builders.tensors import flip, write_matrix

pytestmark = pytest.mark.spark
ALONE = """
import json, sys
sys.modules.update(dict.fromkeys(["models", "learn_spark", "pyspark"]))
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(pd.DataFrame(json.load(sys.stdin))).to_json(orient="records", double_precision=15))
"""


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    settings = [
        *("windows.towers_end=2011-11-21", "windows.cvr_end=2011-11-22"),
        *("windows.ranker_train_end=2011-11-23", "windows.end=2011-11-25"),
    ]
    return feature_lake(spark, tmp_path_factory.mktemp("online"), settings)


@pytest.fixture(scope="module")
def release(lake: Context) -> Release:
    first = lake.config.windows.towers_end
    write_features(lake, [first, first + timedelta(days=1), first + timedelta(days=2)])
    return replace(find_release(lake.tables), encoder_id="test")  # the tiny lake's matrix is nobody's


@pytest.fixture(scope="module")
def exported(lake: Context, release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "models"
    about = export_online(lake, release, out, ["pt2"])
    assert about == json.loads((out / "result.json").read_text())
    assert {path.name for path in out.iterdir()} >= {"user_tower.pt2", "item_tower.pt2", "cvr.pt2", "pyfunc"}
    assert [path.name for path in out.parent.iterdir()] == ["models"]
    return out


def predict(model: Path, rows: list[dict]) -> list[dict]:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(model / "pyfunc")],
        cwd=model,
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_mlflow_model_gives_what_the_tables_hold(lake: Context, exported: Path) -> None:
    from models.saved import load_cvr

    day = lake.config.windows.towers_end
    users = lake.tables.read("user_features").where(F.col("ds") == day).orderBy("user_id").limit(12).collect()
    histories = {
        row.user_id: row.item_idx for row in lake.tables.read("user_history").where(F.col("ds") == day).collect()
    }
    numbers = {row.item_id: row.item_idx for row in lake.tables.read("item_index").collect()}
    items = {numbers[row.item_id]: row.item_emb for row in lake.tables.read("item_features").collect()}
    candidates = sorted(items)
    assert NO_CONTENT_ITEM in candidates
    found = predict(exported, [{"history": histories[row.user_id], "candidates": candidates} for row in users])
    model = load_cvr(cvr_path(lake))
    for row, scored in zip(users, found, strict=True):
        np.testing.assert_allclose(scored["user_emb"], row.user_emb, atol=1e-5)
        item_emb = np.array([items[number] for number in candidates])
        np.testing.assert_allclose(scored["item_emb"], item_emb, atol=1e-5)
        mid_emb, score = model.score(np.tile(row.user_emb, (len(candidates), 1)), item_emb)
        np.testing.assert_allclose(scored["mid_emb"], mid_emb, atol=1e-5)
        np.testing.assert_allclose(scored["cvr_score"], score, atol=1e-5)


def test_content_vectors_stand_for_ids_and_strangers_for_nothing(lake: Context, exported: Path) -> None:
    from models.data.content import ContentMatrix

    vectors = ContentMatrix(matrix_path(lake)).gather(np.arange(ITEMS + 1)).tolist()
    hist, cand = [4, 9, 4], [1, NEW_ITEM]
    rows = [
        {"history": hist, "candidates": cand},
        {"history_content": [vectors[n] for n in hist], "candidates_content": [vectors[n] for n in cand]},
        {"history": [], "candidates": [ITEMS + 99]},
        {"history": [7] * 300 + [5] * lake.config.sequences.history_length, "candidates": []},
        {"history": [5] * lake.config.sequences.history_length, "candidates": []},
    ]
    by_id, by_content, empty, long, short = predict(exported, rows)
    assert by_id == by_content
    assert not np.any(empty["user_emb"]) and len(empty["cvr_score"]) == 1
    assert long == short and long["item_emb"] == [] and np.any(long["user_emb"])
    assert len(vectors[0]) == CONTENT_DIM


def test_changed_bytes_of_programs_and_matrix_are_refused(lake: Context, exported: Path, tmp_path: Path) -> None:
    """They are refused as by all other readers of artifacts."""
    from learn_spark.releases.online_model import ServedMatrix

    with pytest.raises(AssertionError, match=r"cvr\.pt2 has changed since it was exported"):
        model = Path(shutil.copytree(exported, tmp_path / "model"))
        flip(next((model / "pyfunc").rglob("cvr.pt2")), 1000)
        predict(model, [])
    matrix = write_matrix(tmp_path / "matrix", np.random.default_rng(0).normal(size=(2 * BLOCK_ROWS + 9, 4)))
    digests = block_digests(matrix / "vectors.f16", 2 * BLOCK_ROWS + 9, 4, range(3))
    write_meta(matrix, read_meta(matrix).model_copy(update={"blocks": tuple(digests)}))
    expected = ServedMatrix(matrix, 4)[np.array([1, 2 * BLOCK_ROWS + 8])]
    flip(matrix / "vectors.f16", BLOCK_ROWS * 8 + 1)
    vectors = ServedMatrix(matrix, 4)
    np.testing.assert_array_equal(vectors[np.array([1, 2 * BLOCK_ROWS + 8])], expected)
    with pytest.raises(ValueError, match="rows from 65536 on have changed"):
        vectors[np.array([1, BLOCK_ROWS + 7])]


def test_vectors_are_the_newest_of_the_release(lake: Context, release: Release, tmp_path: Path) -> None:
    about = export_vectors(lake, release, tmp_path / "out", "none")
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    newest = {row.item_id: row.item_emb for row in lake.tables.read("item_features").orderBy("ds").collect()}
    numbers = {row.item_id: row.item_idx for row in lake.tables.read("item_index").collect()}
    assert {row["item_id"]: row["item_idx"] for row in items} == {item: numbers[item] for item in newest}
    written = np.fromfile(tmp_path / "out" / "vectors.f32", "<f4").reshape(len(items), -1)
    np.testing.assert_array_equal(written, np.array([newest[row["item_id"]] for row in items], np.float32))
    users = lake.tables.read("user_features").select("user_id").distinct().count()
    assert about["queries"] == users < QUERIES and about["copies"]["float16"]["recall"] > 0.9
    with pytest.raises(ConfigError, match="is there already: remove it"):
        export_vectors(lake, release, tmp_path / "out", "none")


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(lake: Context, release: Release, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is there already: remove it"):
        export_online(lake, release, tmp_path, ["pt2"])
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="made with encoder other, but this config's content is test's"):
        export_online(lake, replace(release, encoder_id="other"), out, ["pt2"])
    gone = replace(release, models={**release.models, "cvr": "0" * 16})
    with pytest.raises(ConfigError, match="cvr: no such folder: .*cvr-0000"):
        export_online(lake, gone, out, ["pt2"])
    assert list(tmp_path.iterdir()) == []
