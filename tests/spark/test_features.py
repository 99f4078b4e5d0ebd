"""Feature writing on a tiny lake with real (untrained) models: rows, days, gates, the release row, reruns."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from learn_spark.core.config import load_config
from learn_spark.core.days import DayRange
from learn_spark.core.errors import QualityError
from learn_spark.core.ledger import StepResult
from learn_spark.core.steps import Context
from learn_spark.embedding.matrix import matrix_path
from learn_spark.features.job import write_features
from learn_spark.features.models import cvr_path, towers_path
from learn_spark.features.release import plan_release, visible
from learn_spark.features.scoring import padded, score_users
from tests.builders.lake import (
    ITEMS,
    NEW_ITEM,
    NO_CONTENT_ITEM,
    fill_lake,
    item_id,
    save_models,
    tiny_context,
)
from tests.oracles.point_in_time import newest_before

pytestmark = pytest.mark.spark
CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("features")
    settings = [
        *(f"lake.root={folder}/lake", f"output.dir={folder}/output", "features.cold_events=3"),
        *("windows.towers_end=2011-11-21", "windows.cvr_end=2011-11-22"),
        *("windows.ranker_train_end=2011-11-24", "windows.end=2011-11-26"),
    ]
    context = tiny_context(spark, load_config(CONF / "test.yaml", settings))
    fill_lake(context)
    save_models(context)
    return context


@pytest.fixture(scope="module")
def days(lake: Context) -> list[date]:
    return list(DayRange(lake.config.windows.towers_end, lake.config.windows.end + timedelta(days=1)))


@pytest.fixture(scope="module")
def written(lake: Context, days: list[date]) -> StepResult:
    return write_features(lake, days)


def rows_of(lake: Context, table: str, *key: str) -> dict[tuple, dict]:
    return {
        tuple(row[name] for name in key): row.asDict() for row in lake.tables.read(table).drop("release_id").collect()
    }


def test_a_release_row_names_what_was_published(lake: Context, written: StepResult, days: list[date]) -> None:
    (release,) = lake.tables.read("releases").collect()
    assert release.release_id == written.details["release_id"]
    assert release.release_id.startswith("20111126-")
    assert release.days == days
    assert release.model_versions["towers"] in towers_path(lake).name
    assert release.model_versions["cvr"] in cvr_path(lake).name
    assert release.table_versions == lake.tables.versions(("user_features", "item_features", "pair_features"))
    assert all(gate.passed for gate in release.gates)
    assert {"user_emb_not_finite", "item_effective_rank", "item_mean_cosine"} <= {g.name for g in release.gates}


def test_users_have_a_row_wherever_their_history_changed(lake: Context, written: StepResult) -> None:
    from models.checkpoint import load_towers
    from models.content import ContentMatrix

    features = rows_of(lake, "user_features", "user_id", "ds")
    histories = rows_of(lake, "user_history", "user_id", "ds")
    assert written.details["users"] == len(features)
    assert set(features) == set(histories)
    towers, content = load_towers(towers_path(lake)), ContentMatrix(matrix_path(lake))
    for key, history in histories.items():
        items = np.array([history["item_idx"]])
        expected = towers.embed_users(items, np.array([items.shape[1]]), content)[0]
        np.testing.assert_allclose(features[key]["user_emb"], expected, atol=2e-6)
        assert features[key]["content_coverage"] == pytest.approx((items != NO_CONTENT_ITEM).mean())
        assert features[key]["is_cold"] == (items.shape[1] < 3)


def test_items_have_a_row_when_known_and_when_no_longer_cold(
    lake: Context, written: StepResult, days: list[date]
) -> None:
    events = lake.tables.read("interactions").select("item_id", "ds").collect()
    expected = {}
    for item in {row.item_id for row in events}:
        for day in days:
            count, before = (
                sum(row.item_id == item and row.ds < last for row in events) for last in (day, day - timedelta(days=1))
            )
            if count and (day == days[0] or not before or (before < 3 <= count)):
                expected[item, day] = count < 3
    features = rows_of(lake, "item_features", "item_id", "ds")
    assert {key: row["is_cold"] for key, row in features.items()} == expected
    assert min(day for item, day in features if item == item_id(NEW_ITEM)) == days[0] + timedelta(days=2)
    coverage = {item: row["content_coverage"] for (item, _), row in features.items()}
    assert {item for item, share in coverage.items() if share == 0} == {item_id(NO_CONTENT_ITEM)}
    assert written.details["items"] == len(features)


def test_pairs_are_scored_with_what_was_known_before_their_day(lake: Context, written: StepResult) -> None:
    from models.checkpoint import load_cvr

    users, items = (rows_of(lake, f"{side}_features", f"{side}_id", "ds") for side in ("user", "item"))
    pairs = rows_of(lake, "pair_features", "user_id", "item_id", "event_ts")
    samples = rows_of(lake, "samples", "user_id", "item_id", "event_ts")
    model = load_cvr(cvr_path(lake))
    assert set(pairs) == {key for key, row in samples.items() if row["stage"] != "cvr"}
    for (user, item, at), pair in pairs.items():
        day = at.date()
        user_row = users.get((user, newest_before(user, day, list(users))))
        item_row = items.get((item, newest_before(item, day, list(items))))
        user_emb = user_row["user_emb"] if user_row else [0.0] * 8
        item_emb = item_row["item_emb"] if item_row else [0.0] * 8
        mid_emb, score = model.score(np.array([user_emb]), np.array([item_emb]))
        np.testing.assert_allclose(pair["mid_emb"], mid_emb[0], atol=2e-6)
        assert pair["cvr_score"] == pytest.approx(float(score[0]), abs=2e-6)
        assert pair["ds"] == day
    assert written.details["pairs"] == len(pairs)


def test_details_tell_the_report_about_health(written: StepResult) -> None:
    assert len(written.details["neighbours"]) == 8
    for entry in written.details["neighbours"]:
        near = entry["neighbours"]
        assert entry["title"] not in [other["title"] for other in near]
        assert [other["cosine"] for other in near] == sorted((o["cosine"] for o in near), reverse=True)
    assert written.details["norms"]["user_emb"]["p5"] > 0
    assert 1 <= written.details["effective_rank"] <= 8


def test_a_rerun_leaves_equal_rows_and_one_release(lake: Context, written: StepResult, days: list[date]) -> None:
    tables = ("user_features", "item_features", "pair_features")
    before = {name: lake.tables.read(name).collect() for name in tables}
    again = write_features(lake, days)
    assert again.details == written.details
    for name in tables:
        assert sorted(map(str, lake.tables.read(name).collect())) == sorted(map(str, before[name]))
    assert lake.tables.read("releases").count() == 1


def test_one_days_release_adds_to_the_published_ones(lake: Context, written: StepResult, days: list[date]) -> None:
    """A nightly run: the last day alone finds its users' older vectors in the release before."""
    day = days[-2]
    nightly = write_features(lake, [day])
    assert lake.tables.read("releases").count() == 2
    assert nightly.details["users"] == lake.tables.read("user_history").where(F.col("ds") == day).count()
    pairs = lake.tables.read("pair_features").where(F.col("ds") == day)
    by_release = {row.release_id: row["count"] for row in pairs.groupBy("release_id").count().collect()}
    old, new = written.details["release_id"], nightly.details["release_id"]
    assert by_release == {old: nightly.details["pairs"], new: nightly.details["pairs"]}
    seen = visible(lake, plan_release(lake, [day]), "pair_features").where(F.col("ds") == day)
    assert {row.release_id for row in seen.collect()} == {new}


def test_a_day_without_samples_or_new_items_is_a_release_of_few_rows(lake: Context, days: list[date]) -> None:
    last = write_features(lake, days[-1:])
    assert last.details["pairs"] == 0
    assert last.details["users"] == lake.tables.read("user_history").where(F.col("ds") == days[-1]).count()
    is_ours = F.col("release_id") == last.details["release_id"]
    found = lake.tables.read("item_features").where((F.col("ds") == days[-1]) & is_ours).count()
    assert last.details["items"] == found


def test_a_failed_gate_publishes_nothing_and_names_itself(lake: Context, written: StepResult, days: list[date]) -> None:
    features = lake.config.features.model_copy(update={"min_users": 10_000, "min_effective_rank": 99.0})
    strict = Context(
        lake.config.model_copy(update={"features": features}),
        *(lake.spark, lake.tables, lake.ledger, lambda step, day: "other" * 4 + step, lake.progress),
    )
    for path, other in ((towers_path(lake), towers_path(strict)), (cvr_path(lake), cvr_path(strict))):
        other.symlink_to(path)
    published = lake.tables.read("releases").count()
    is_published = F.col("release_id") == written.details["release_id"]
    before = lake.tables.read("user_features").where(is_published).count()
    with pytest.raises(QualityError, match=r"users_on_first_day is \d+, must be at least 10000; .*effective_rank"):
        write_features(strict, days[:2])
    assert lake.tables.read("releases").count() == published
    assert lake.tables.read("user_features").where(is_published).count() == before > 0


def test_histories_that_are_empty_or_beyond_the_matrix_have_defined_vectors(lake: Context) -> None:
    rows = [("empty", []), ("new item", [ITEMS + 5]), ("null", None), ("known", [1, 2])]
    frame = lake.spark.createDataFrame(rows, "user_id string, item_idx array<int>")
    found = {row.user_id: row for row in score_users(frame, towers_path(lake), matrix_path(lake), 2).collect()}
    assert found["empty"].user_emb == found["null"].user_emb == [0.0] * 8
    assert np.linalg.norm(found["new item"].user_emb) > 1
    assert [found[user].content_coverage for user in ("empty", "new item", "known")] == [0.0, 0.0, 1.0]


def test_padded_reads_slices_and_nulls() -> None:
    import pyarrow as pa

    lists = pa.array([[9, 9], [1, 2, 3], None, [], [4]], pa.list_(pa.int32())).slice(1)
    values, lengths = padded(lists)
    assert values.tolist() == [[1, 2, 3], [0, 0, 0], [0, 0, 0], [4, 0, 0]]
    assert lengths.tolist() == [3, 0, 0, 1]
