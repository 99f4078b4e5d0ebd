"""Feature writing on a tiny lake with real (untrained) models: rows, days, gates, the release row, reruns."""

import re
import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from learn_spark.bridge.scoring import padded, score_users
from learn_spark.bridge.trained import cvr_path, towers_path
from learn_spark.cli.troubles import known_trouble
from learn_spark.config.load import Config
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import ConfigError, QualityError
from learn_spark.evaluation.report import publish_report
from learn_spark.features import checks
from learn_spark.features.item_life import write_item_life
from learn_spark.features.job import write_features
from learn_spark.features.maintenance import maintain_tables
from learn_spark.lake.days import DayRange
from learn_spark.releases.join import create_views, join_features
from learn_spark.releases.join_audit import audit_join
from learn_spark.releases.lineage import compared, shown
from learn_spark.releases.registry import find_release, releases
from learn_spark.releases.release import published_release, roll_back, visible
from learn_spark.runs.ledger import StepResult
from learn_spark.runs.steps import Context
from models.saved import load_cvr, load_towers, save_cvr, save_towers
from tests.builders.lake import (
    ITEMS,
    NEW_ITEM,
    NO_CONTENT_ITEM,
    feature_lake,
    item_id,
    save_models,
)
from tests.oracles.point_in_time import newest_before

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    settings = [
        "features.cold_events=3",
        *("windows.towers_end=2011-11-21", "windows.cvr_end=2011-11-22"),
        *("windows.ranker_train_end=2011-11-24", "windows.end=2011-11-26"),
    ]
    return feature_lake(spark, tmp_path_factory.mktemp("features"), settings)


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


def test_the_pairs_auc_is_a_gate(lake: Context, written: StepResult) -> None:
    from sklearn.metrics import roc_auc_score

    pairs = lake.tables.read("pair_features").where(F.col("release_id") == written.details["release_id"])
    labels = lake.tables.read("samples").select("user_id", "item_id", "event_ts", "label", "weight")
    rows = pairs.join(labels, on=["user_id", "item_id", "event_ts"]).toPandas()
    (gate,) = [gate for gate in written.details["gates"] if gate["name"] == "pair_auc"]
    assert gate["value"] == pytest.approx(
        roc_auc_score(rows.label, rows.cvr_score, sample_weight=rows.weight), abs=2e-3
    )


def test_users_have_a_row_wherever_their_history_changed(lake: Context, written: StepResult) -> None:
    from models.data.content import ContentMatrix
    from models.saved import load_towers

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
    from models.saved import load_cvr

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


@pytest.mark.parametrize("column", ["user_emb", "item_emb", "mid_emb"])
def test_vectors_are_written_without_a_dictionary(spark: SparkSession, tmp_path: Path, column: str) -> None:
    equal = F.array(*[F.lit(number / 8).cast("float") for number in range(8)])
    frame = spark.range(0, 2000, 1, 1).select(equal.alias(column), equal.alias("other"))
    frame.write.format("delta").save(f"{tmp_path}/vectors")
    (file,) = tmp_path.glob("vectors/*.parquet")
    group = pq.ParquetFile(file).metadata.row_group(0)
    has_dictionary = {c.path_in_schema: c.has_dictionary_page for c in map(group.column, range(group.num_columns))}
    assert has_dictionary == {f"{column}.list.element": False, "other.list.element": True}


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
    """A nightly run of one day: the new release takes over the other days of the release before."""
    day = days[-2]
    nightly = write_features(lake, [day])
    assert lake.tables.read("releases").count() == 2
    assert nightly.details["users"] == lake.tables.read("user_history").where(F.col("ds") == day).count()
    pairs = lake.tables.read("pair_features").where(F.col("ds") == day)
    by_release = {row.release_id: row["count"] for row in pairs.groupBy("release_id").count().collect()}
    old, new = written.details["release_id"], nightly.details["release_id"]
    assert by_release == {old: nightly.details["pairs"], new: nightly.details["pairs"]}
    current = published_release(lake)
    assert current.release_id == new
    seen = visible(lake, current, "pair_features").where(F.col("ds") == day)
    assert {row.release_id for row in seen.collect()} == {new}
    older = visible(lake, current, "pair_features").where(F.col("ds") < day)
    assert {row.release_id for row in older.collect()} == {old}


def test_a_day_without_samples_or_new_items_is_a_release_of_few_rows(lake: Context, days: list[date]) -> None:
    last = write_features(lake, days[-1:])
    assert last.details["pairs"] == 0
    assert last.details["users"] == lake.tables.read("user_history").where(F.col("ds") == days[-1]).count()
    is_ours = F.col("release_id") == last.details["release_id"]
    found = lake.tables.read("item_features").where((F.col("ds") == days[-1]) & is_ours).count()
    assert last.details["items"] == found


def with_gates(config: Config, **limits: float) -> Config:
    """The config with changed gates of features."""
    gates = config.features.gates.model_copy(update=limits)
    return config.model_copy(update={"features": config.features.model_copy(update={"gates": gates})})


def test_a_failed_gate_publishes_nothing_and_names_itself(lake: Context, written: StepResult, days: list[date]) -> None:
    features = with_gates(lake.config, min_users=10_000, min_effective_rank=99.0, min_pair_auc=1.0).features
    strict = Context(
        lake.config.model_copy(update={"features": features}),
        *(lake.spark, lake.tables, lake.ledger, lambda step, day: "other" * 4 + step, lake.progress),
    )
    for path, other in ((towers_path(lake), towers_path(strict)), (cvr_path(lake), cvr_path(strict))):
        other.symlink_to(path)
    published = lake.tables.read("releases").where("status = 'published'").count()
    is_published = F.col("release_id") == written.details["release_id"]
    before = lake.tables.read("user_features").where(is_published).count()
    with pytest.raises(QualityError, match=r"users_on_first_day is \d+, must be at least 10000; .*effective_rank"):
        write_features(strict, days[:2])
    found = lake.tables.read("releases").groupBy("status").count().collect()
    assert {row.status: row["count"] for row in found} == {"published": published, "failed": 1}
    assert lake.tables.read("user_features").where(is_published).count() == before > 0
    (failed,) = [release for release in releases(lake.tables) if release.status == "failed"]
    assert failed.gate("users_on_first_day") < 10_000
    with pytest.raises(ConfigError, match=f"release {failed.release_id} is failed"):
        find_release(lake.tables, failed.release_id)
    publish_report(strict, 1)
    page = (strict.config.output.dir / "report" / "index.html").read_text()
    assert f"Release <code>{failed.release_id}</code> was not published: users on first day is " in page


def test_models_that_give_nan_are_refused_by_the_gates(spark: SparkSession, tmp_path: Path) -> None:
    lake = feature_lake(spark, tmp_path, [])
    for folder, load, save in (
        (towers_path(lake), load_towers, save_towers),
        (cvr_path(lake), load_cvr, save_cvr),
    ):
        model = load(folder)
        save(folder, model, {name: value * float("nan") for name, value in model.state_dict().items()})
    days = list(DayRange(lake.config.windows.towers_end, lake.config.windows.end))
    with pytest.raises(QualityError, match=r"user_emb_not_finite is .*item_emb_not_finite is .*mid_emb_not_finite is "):
        write_features(lake, days)
    assert [release.status for release in releases(lake.tables)] == ["failed"]


def test_histories_that_are_empty_or_beyond_the_matrix_have_defined_vectors(lake: Context) -> None:
    rows = [("empty", []), ("new item", [ITEMS + 5]), ("null", None), ("known", [1, 2])]
    frame = lake.spark.createDataFrame(rows, "user_id string, item_idx array<int>")
    found = {row.user_id: row for row in score_users(frame, towers_path(lake), matrix_path(lake), 2).frame.collect()}
    assert found["empty"].user_emb == found["null"].user_emb == [0.0] * 8
    assert np.linalg.norm(found["new item"].user_emb) > 1
    assert [found[user].content_coverage for user in ("empty", "new item", "known")] == [0.0, 0.0, 1.0]


def test_padded_reads_slices_and_nulls() -> None:
    import pyarrow as pa

    lists = pa.array([[9, 9], [1, 2, 3], None, [], [4]], pa.list_(pa.int32())).slice(1)
    values, lengths = padded(lists)
    assert values.tolist() == [[1, 2, 3], [0, 0, 0], [0, 0, 0], [4, 0, 0]]
    assert lengths.tolist() == [3, 0, 0, 1]


def test_days_that_late_events_change_get_a_release_of_their_own(lake: Context, written: StepResult, days) -> None:
    """Readers of the old release still get equal rows."""
    old = find_release(lake.tables)
    tables = ("user_features", "item_features", "pair_features")
    before = {name: sorted(map(str, visible(lake, old, name).collect())) for name in tables}
    rows = [("late user", days[-1], [1], [0], None)]
    history = lake.spark.createDataFrame(rows, lake.tables.read("user_history").schema)
    lake.tables.append("user_history", history)
    again = write_features(lake, days[-1:])
    new = find_release(lake.tables)
    assert new.release_id == again.details["release_id"] != old.release_id
    assert new.inputs["user_history"] == old.inputs["user_history"] + 1
    assert visible(lake, new, "user_features").where("user_id = 'late user'").count() == 1
    assert {name: sorted(map(str, visible(lake, old, name).collect())) for name in tables} == before
    assert compared(old, new)["days_with_other_rows"] == str(days[-1])
    assert new.gate("users_of_days_made_again") > 1


def test_joined_features_equal_the_naive_ones(lake: Context, written: StepResult, days: list[date]) -> None:
    release = find_release(lake.tables)
    known = {}
    for side in ("user", "item"):
        rows = visible(lake, release, f"{side}_features").collect()
        known[side] = {(row[f"{side}_id"], row.ds): row for row in rows}
    keys = [("user03", item_id(3)), ("user07", item_id(NEW_ITEM)), ("nobody", "nothing"), (None, item_id(7))]
    dates = [*days, days[0] - timedelta(days=1), days[-1] + timedelta(days=40), None]
    asked = [(user, item, day) for user, item in keys for day in dates for _ in range(2)]
    samples = lake.spark.createDataFrame(asked, "user_id string, item_id string, ds date")
    joined = join_features(samples, lake.tables.root, max_age_days=30).collect()
    assert len(joined) == len(asked)
    assert joined[0].__fields__[-2:] == ["user_emb", "item_emb"]
    for row in joined:
        for side in ("user", "item"):
            key = row[f"{side}_id"]
            day = row.ds and newest_before(key, row.ds, list(known[side]))
            if day is None or (row.ds - day).days > 30:
                expected = (None, True, 0.0, [0.0] * 8)
            else:
                expected = (
                    day,
                    *(known[side][key, day][name] for name in ("is_cold", "content_coverage", f"{side}_emb")),
                )
            names = ("feature_ds", "is_cold", "content_coverage", "emb")
            assert tuple(row[f"{side}_{name}"] for name in names) == expected


def test_the_audit_of_a_join_sees_vectors_from_later_days(lake: Context, written: StepResult) -> None:
    release = find_release(lake.tables)
    samples = lake.tables.read("samples").where("stage <> 'cvr'").drop("ds")
    joined = join_features(samples, lake.tables.root).cache()
    assert [figure.leaks for figure in audit_join(joined, lake.tables, release)] == [0, 0, 0, 0]
    users = visible(lake, release, "user_features")
    newest = users.groupBy("user_id").agg(F.max_by("user_emb", "ds").alias("user_emb"))
    leaky = samples.join(newest, on="user_id", how="left")
    first = {(row.user_id, tuple(row.user_emb)): row.ds for row in users.orderBy(F.desc("ds")).collect()}
    expected = sum(
        row.user_emb is not None and first[row.user_id, tuple(row.user_emb)] > row.event_ts.date()
        for row in leaky.collect()
    )
    assert [figure.leaks for figure in audit_join(leaky, lake.tables, release)] == [expected, 0]
    assert expected > 0
    only_ids = ["user_id", "item_id", "event_ts", "mid_emb"]
    pairs = join_features(samples.drop("label", "weight"), lake.tables.root, pairs=True).cache()
    for table in (pairs, pairs.select(only_ids), pairs.withColumn("mid_emb", F.lit(None).cast("array<float>"))):
        assert audit_join(table, lake.tables, release)[-1].leaks == 0
    ahead = pairs.withColumn("event_ts", F.col("event_ts") + F.expr("INTERVAL 1 DAY")).select(only_ids)
    assert audit_join(ahead, lake.tables, release)[-1].leaks > 0
    wider = pairs.withColumn("mid_emb", F.array_append("mid_emb", F.lit(1.0).cast("float")))
    (figure,) = [found for found in audit_join(wider, lake.tables, release) if found.rule.startswith("mid_emb")]
    assert figure.leaks == figure.rows == samples.count()
    strange = joined.withColumn("item_emb", F.transform("item_emb", lambda number: number + 1))
    assert audit_join(strange, lake.tables, release)[3].leaks == strange.count()
    with pytest.raises(ConfigError, match="a joined table needs ds or event_ts, and user_id with user_emb"):
        audit_join(samples, lake.tables, release)


def test_joined_pairs_are_those_of_the_table(lake: Context, written: StepResult) -> None:
    release = find_release(lake.tables, written.details["release_id"])
    stored = {tuple(row[:3]): row for row in visible(lake, release, "pair_features").collect()}
    samples = lake.tables.read("samples").where("stage <> 'cvr'").drop("ds", "label", "weight", "stage")
    joined = join_features(samples, lake.tables.root, release.release_id, pairs=True).collect()
    assert len(joined) == len(stored)
    for row in joined:
        expected = stored[row.user_id, row.item_id, row.event_ts]
        assert row.cvr_score == pytest.approx(expected.cvr_score, abs=1e-6)
        np.testing.assert_allclose(row.mid_emb, expected.mid_emb, atol=1e-6)


def test_views_show_one_release_and_join_in_sql(lake: Context, written: StepResult) -> None:
    create_views(lake.spark, lake.tables.root)
    lake.tables.read("samples").createOrReplaceTempView("samples")
    in_sql = lake.spark.sql(
        "SELECT s.*, u.ds AS found FROM samples s LEFT JOIN user_features u"
        " ON u.user_id = s.user_id AND s.ds >= u.ds AND s.ds < u.until"
    )
    in_python = join_features(lake.tables.read("samples"), lake.tables.root)
    key = ("user_id", "item_id", "event_ts")
    assert sorted(map(str, in_sql.select(*key, "found").collect())) == sorted(
        map(str, in_python.select(*key, F.col("user_feature_ds").alias("found")).collect())
    )


def test_samples_that_cannot_be_joined_are_refused_by_name(lake: Context, written: StepResult) -> None:
    frame = lake.spark.createDataFrame(
        [("u", [1.0], date(2011, 11, 25))], "user_id string, user_emb array<double>, ds date"
    )
    with pytest.raises(ConfigError, match=r"already have \['user_emb'\]"):
        join_features(frame, lake.tables.root)
    with pytest.raises(ConfigError, match="samples need user_id or item_id, and ds or event_ts"):
        join_features(frame.drop("ds"), lake.tables.root)
    with pytest.raises(ConfigError, match=r"unknown release 'nope' .* there are 20111126-\w+ \(published\)"):
        join_features(frame.drop("user_emb"), lake.tables.root, release="nope")
    with pytest.raises(ConfigError, match="no lake with releases"):
        join_features(frame.drop("user_emb"), lake.tables.root / "nowhere")


def test_a_nights_items_follow_from_the_stored_state_and_the_events_since(lake: Context, written, days) -> None:
    """With a valid stored state older events are not read; it is valid only while the ledger has it, and not stale."""
    full = write_item_life(lake, days[-1:], lake.tables.read("interactions"))
    expected = sorted(map(str, full.collect()))
    write_item_life(lake, days[2:3], lake.tables.read("interactions"))
    fingerprints = {days[2]: lake.fingerprint("write_features", days[2])}
    lake.ledger.record("write_features", fingerprints, "run", StepResult(0, 0), {}, {}, 1.0)
    since = lake.tables.read("interactions").where(F.col("ds") >= F.lit(days[2]))
    assert sorted(map(str, write_item_life(lake, days[-1:], since).collect())) == expected
    lake.ledger.mark_stale([("write_features", days[2])])
    assert sorted(map(str, write_item_life(lake, days[-1:], since).collect())) != expected


def test_a_release_is_shown_down_to_its_files(lake: Context, written: StepResult) -> None:
    release = find_release(lake.tables)
    lineage = shown(release, lake.tables, lake.ledger)["lineage"]
    assert lineage["source_files"]["count"] == 1
    assert lineage["input_versions"]["samples"] == release.inputs["samples"]
    assert lineage["models"]["towers"]["fingerprint"] in towers_path(lake).name


def test_a_rollback_makes_the_release_before_current(lake: Context, written: StepResult) -> None:
    published = [release for release in releases(lake.tables) if release.status == "published"]
    withdrawn = roll_back(lake)
    assert [release.release_id for release in withdrawn] == [published[0].release_id]
    assert find_release(lake.tables).release_id == published[1].release_id
    assert find_release(lake.tables, published[0].release_id).status == "rolled_back"
    with pytest.raises(ConfigError, match="nothing to go back to"):
        for _ in published:
            roll_back(lake)
    assert find_release(lake.tables).release_id == published[-1].release_id


def test_upkeep_keeps_what_the_kept_releases_show(lake: Context, written: StepResult) -> None:
    """Upkeep keeps the current release's rows and deletes rows of no release, as a killed run leaves them."""
    current = find_release(lake.tables)
    orphan = lake.tables.read("user_features").limit(1).withColumn("release_id", F.lit("20111126-killed"))
    lake.tables.append("user_features", orphan)
    before = sorted(map(str, visible(lake, current, "user_features").collect()))
    keep_one = lake.config.releases.model_copy(update={"keep_releases": 1})
    context = replace(lake, config=lake.config.model_copy(update={"releases": keep_one}))
    done = maintain_tables(context, ["user_features"])
    assert done["kept"] == [current.release_id]
    assert sorted(map(str, lake.tables.read("user_features").collect())) == before
    assert {release.status for release in releases(lake.tables)} == {"published", "expired", "failed"}
    with pytest.raises(ConfigError, match="is expired, it has no rows to read"):
        find_release(lake.tables, done["expired"][0])
    assert done["tables"]["user_features"]["kept_hours"] == 168


def test_a_vacuumed_file_is_named(lake: Context, written: StepResult, tmp_path: Path) -> None:
    root = Path(shutil.copytree(lake.tables.root, tmp_path / "lake"))
    samples = lake.tables.read("samples").where("stage <> 'cvr'")
    for file in root.glob("user_features/*/*.parquet"):
        file.unlink()
    with pytest.raises(Exception, match="parquet") as raised:
        join_features(samples, root).collect()
    known = known_trouble(raised.value)
    assert isinstance(known, ConfigError)
    said = r"a data file is gone.*user_features/ds=\S+\.parquet; `learn-spark repair` makes it again"
    assert re.search(said, str(known))


@pytest.mark.long
def test_another_models_release_is_held_against_the_one_before(
    lake: Context, written: StepResult, days: list[date], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "ENOUGH", ITEMS // 2)
    other = replace(lake, fingerprint=lambda step, day: lake.fingerprint(step, day) + "b")
    save_models(other, seed=4)
    before = lake.tables.version("user_history")
    lake.tables.delete("user_history", "user_id < 'user20'")
    strict = replace(other, config=with_gates(other.config, min_model_overlap=1.0))
    fewer, apart = r"users_of_days_made_again is 0\.[0-8]", r"item_neighbour_overlap is 0\.\d+, must be at least 1$"
    with pytest.raises(QualityError, match=f"gates failed: {fewer}.*; {apart}"):
        write_features(strict, days)
    DeltaTable.forPath(lake.spark, lake.tables.path("user_history")).restoreToVersion(before)
    released = write_features(other, days).details
    assert find_release(lake.tables, "current").release_id == released["release_id"]
    remade = replace(
        other, fingerprint=lambda step, day: other.fingerprint(step, day) + "c" * (step == "write_features")
    )
    again = write_features(remade, days).details
    drift = {gate["name"]: gate["value"] for gate in again["gates"]}
    assert drift["user_centroid_shift"] == drift["item_centroid_shift"] == 0
    assert drift["item_neighbour_overlap"] == 1
