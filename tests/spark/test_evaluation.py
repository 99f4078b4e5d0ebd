"""The evaluation's exports against naive references, and the whole step on a tiny lake."""

import json
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from learn_spark.config.load import load_config
from learn_spark.config.model_sections import EvaluationSettings
from learn_spark.evaluation.job import evaluate_features
from learn_spark.evaluation.ranking import (
    base_columns,
    histories_of,
    history_before,
    ranker_samples,
    tail_events,
    thinned,
    with_base_features,
    with_history_day,
)
from learn_spark.evaluation.report import publish_report
from learn_spark.evaluation.summary import headline
from learn_spark.features.job import write_features
from learn_spark.lake.schemas import TABLES
from learn_spark.pipeline import feature_days
from learn_spark.systems.test_day import day_snapshots, known_items, purchases
from learn_spark.training.mlflow_runs import tracking_uri
from tests.builders.lake import NEW_ITEM, USERS, fill_lake, save_models, tiny_context

pytestmark = pytest.mark.spark
CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def context(spark, tmp_path_factory):
    """A lake that all tests read."""
    folder = tmp_path_factory.mktemp("evaluation")
    settings = [f"lake.root={folder}/lake", f"output.dir={folder}/output", "evaluation.rivals=[als, cooccurrence]"]
    context = tiny_context(spark, load_config(CONF / "test.yaml", settings))
    fill_lake(context)
    return context


def naive_history(events, day, key):
    """Counts before `day` over the events (user, item, day, price) that match `key` (user, item); None matches all."""
    past = [(d, p) for *who, d, p in events if d < day and all(k in (None, w) for k, w in zip(key, who, strict=True))]
    days = [(day - d).days for d, _ in past]
    return {
        "events": len(past),
        "events_7d": sum(d <= 7 for d in days),
        "events_28d": sum(d <= 28 for d in days),
        "days_since": min(days, default=-1),
        "mean_price": sum(p for _, p in past) / len(past) if past else -1,
    }


def test_base_features_equal_the_naive_ones(context):
    samples = context.tables.read("samples").where("stage LIKE 'ranker%'")
    rows = with_base_features(context, samples).collect()
    events = [(r.user_id, r.item_id, r.ds, 1.0) for r in context.tables.read("interactions").collect()]
    assert len(rows) == samples.count() > 20
    assert {*base_columns(context.config.samples)} <= {*rows[0].asDict()}
    for row in rows:
        keys = {"user": (row.user_id, None), "item": (None, row.item_id), "pair": (row.user_id, row.item_id)}
        for who, key in keys.items():
            for name, want in naive_history(events, row.ds, key).items():
                if name != "mean_price" or who == "user":
                    assert row[f"{who}_{name}"] == want, (who, name, row)
        assert (row.hour, row.weekday) == (row.event_ts.hour, row.ds.weekday())
        assert 0 <= row.user_bucket < 60


def test_observed_labels_add_the_rate_of_conversions_so_far(context):
    bought = {"labels": "observed", "exposure_events": ["purchase"], "conversion_events": ["purchase"], "min_value": 2}
    samples = context.config.samples.model_copy(update=bought)
    observed = replace(context, config=context.config.model_copy(update={"samples": samples}))
    rates = {"user_conversion_rate", "item_conversion_rate"}
    assert {*base_columns(samples)} - {*base_columns(context.config.samples)} == rates
    events = context.tables.read("interactions").collect()
    rows = with_base_features(observed, context.tables.read("samples").where("stage = 'ranker_test'")).collect()
    for row in rows:
        for key in ("user", "item"):
            past = [e.value >= 2 for e in events if e[f"{key}_id"] == row[f"{key}_id"] and e.ds < row.ds]
            want = sum(past) / len(past) if past else -1
            assert row[f"{key}_conversion_rate"] == pytest.approx(want, rel=1e-12)
    assert len({row.user_conversion_rate for row in rows}) > 3


def test_exposures_that_are_no_history_count_for_the_rate_alone(spark):
    days = [date(2024, 1, day) for day in range(1, 5)]
    events = spark.createDataFrame(
        [("u", days[0], 5.0, 1, 0, 1), ("u", days[1], None, 0, 1, 0), ("u", days[1], None, 0, 1, 0)],
        "user_id string, ds date, price double, n int, exposures int, conversions int",
    )
    asked = spark.createDataFrame([("u", day) for day in days], "user_id string, ds date")
    rows = history_before(events, asked, ["user_id"], "user").orderBy("ds").collect()
    assert [row.user_events for row in rows] == [0, 1, 1, 1]
    assert [row.user_days_since for row in rows] == [-1, 1, 2, 3]
    assert [row.user_mean_price for row in rows] == [-1, 5, 5, 5]
    assert [row.user_conversion_rate for row in rows] == [-1, -1, 0.5, 0.5]


def test_a_price_counts_from_the_day_after_it_was_seen(context):
    sample = context.tables.read("samples").where("stage = 'ranker_test'").limit(1)
    row = sample.first()
    version = context.tables.read("items").where(F.col("item_id") == row.item_id)
    for price, valid_from in ((2.0, "date_sub(ds, 1)"), (3.0, "ds")):
        valid = F.expr(valid_from.replace("ds", f"DATE'{row.ds}'")).cast("timestamp")
        context.tables.append("items", version.limit(1).withColumns({"price": F.lit(price), "valid_from": valid}))
    assert with_base_features(context, sample).first().price == 2.0


def test_thinning_keeps_whole_users(context):
    samples = context.tables.read("samples")
    settings = context.config.evaluation
    assert thinned(samples, settings).count() == samples.count()
    few: EvaluationSettings = settings.model_copy(update={"max_samples": 40})
    kept = thinned(samples, few).collect()
    full = Counter((r.stage, r.user_id) for r in samples.collect())
    assert 0 < len(kept) < sum(full.values())
    assert all(count == full[key] for key, count in Counter((r.stage, r.user_id) for r in kept).items())


def test_tail_events_equal_the_naive_threshold(context):
    end = context.config.windows.ranker_train_end
    counts = Counter(r.item_id for r in context.tables.read("interactions").collect() if r.ds < end)
    tail, held = 0, 0
    for size in sorted(set(counts.values())):
        held += size * sum(count == size for count in counts.values())
        if held <= 0.2 * sum(counts.values()):
            tail = size
    assert tail_events(context) == tail


def test_purchases_are_all_of_the_test_users(context):
    as_of, span = context.config.windows.towers_end, context.config.sequences.target_days
    events = context.tables.read("interactions").collect()
    rows = {(r.user_id, r.item_id): r for r in purchases(context).collect()}
    window = {(r.user_id, r.item_id) for r in events if as_of <= r.ds < as_of + timedelta(days=span)}
    assert {key for key, row in rows.items() if row.is_target} == window
    assert {key for key, row in rows.items() if row.is_seen} == {(r.user_id, r.item_id) for r in events if r.ds < as_of}
    assert all(row.item_idx == int(row.item_id[4:]) for row in rows.values())


def test_known_items_are_those_seen_before_the_test_day(context):
    as_of, days = context.config.windows.towers_end, context.config.retrieval.popularity_days
    rows = {r.item_idx: r.purchases for r in known_items(context).collect()}
    events = [r for r in context.tables.read("interactions").collect() if r.ds < as_of]
    assert set(rows) == {int(r.item_id[4:]) for r in events} and NEW_ITEM not in rows
    recent = Counter(r.item_id for r in events if r.ds >= as_of - timedelta(days=days))
    assert all(count == recent[f"item{i:02d}"] for i, count in rows.items())


def test_the_test_day_of_these_versions_is_written_once(context):
    first = day_snapshots(context)
    before = {path: path.stat().st_mtime_ns for folder in first.values() for path in folder.iterdir()}
    assert day_snapshots(context) == first
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_rows_name_the_newest_history_that_they_may_know(context):
    first = context.config.windows.towers_end
    stored = [row for row in context.tables.read("user_history").collect() if row.ds >= first]
    samples = with_history_day(context, ranker_samples(context))
    epoch, rows = date(1970, 1, 1), samples.collect()
    for row in rows:
        days = [one.ds for one in stored if one.user_id == row.user_id and one.ds <= row.ds]
        assert row.history_day == (max(days) - epoch).days if days else -1
    named = {(row.user_id, row.history_day) for row in rows if row.history_day >= 0}
    assert named and ranker_samples(context).count() == len(rows)
    histories = {(row.user_id, row.day): row for row in histories_of(context, samples).collect()}
    assert set(histories) == named
    for one in stored:
        if found := histories.get((one.user_id, (one.ds - epoch).days)):
            assert found.hist_items[: found.hist_len] == one.item_idx and not any(found.hist_items[found.hist_len :])
            assert found.hist_ts[: found.hist_len] == one.event_ts
            assert len(found.hist_items) == context.config.sequences.history_length


@pytest.fixture(scope="module")
def result(context):
    save_models(context)
    days = feature_days(context.config)
    features = write_features(context, days)
    context.ledger.record("write_features", dict.fromkeys(days, "f"), "run1", features, {}, {}, 2.5)
    before = context.tables.versions(TABLES)
    result = evaluate_features(context, [context.config.windows.end])
    assert context.tables.versions(TABLES) == before
    context.ledger.record("evaluate_features", {context.config.windows.end: "f"}, "run1", result, {}, {}, 4.0)
    return result


def test_the_step_measures_both(context, result):
    retrieval, ranker = result.details["retrieval"], result.details["ranker"]
    bought = {row.user_id for row in purchases(context).where("is_target = 1").collect()}
    assert 10 < retrieval["users"] == len(bought) < USERS, "the tiny lake's histories do not know its events"
    assert (retrieval["candidates"], retrieval["items"]) == ("known", known_items(context).count())
    assert retrieval["targets_not_known"] >= 1, "the new item is bought in the window"
    assert 0 <= retrieval["recall_at_10"] <= retrieval["recall_at_50"] < 1
    low, high = retrieval["last_item_new_recall_at_10_ci90"]
    assert low <= retrieval["last_item_new_recall_at_10"] <= high
    assert {"auc_without", "auc_with", "auc_gain", "auc_gain_ci90", "uauc_with", "segments", "alone"} <= set(ranker)
    stages = ("ranker_train", "ranker_test")
    samples = context.tables.read("samples").where(F.col("stage").isin(*stages)).count()
    assert sum(ranker["rows"].values()) == samples
    assert result.rows_in > samples


def test_the_step_measures_what_others_bring_and_the_embeddings_beside_them(context, result):
    ranker = result.details["ranker"]
    rivals = ranker["rivals"]
    assert set(rivals["systems"]) == set(rivals["titles"]) == {"als", "cooccurrence"}
    width = context.config.towers.model.embedding_dim
    added = {name: part["features"] - ranker["features"]["without"] for name, part in rivals["systems"].items()}
    assert added == {"als": 2 * width + 1, "cooccurrence": 1}
    assert rivals["together"]["auc_without"] == ranker["auc_without"]
    assert rivals["on_top"]["auc_without"] == rivals["together"]["auc_with"]
    assert set(rivals["on_top"]["segments"]) == set(ranker["segments"])
    (folder,) = context.tables.artifacts.path("models").glob("compare-als-*")
    assert (folder / "result.json").is_file()


def test_summary_and_report_come_from_ledger_and_tables(context, result):
    output = context.config.output.dir
    before = context.tables.versions(TABLES)
    summary = publish_report(context, peak_rss_mb=1234)
    assert context.tables.versions(TABLES) == before
    written = json.loads((output / "summary.json").read_text())
    assert written == json.loads(json.dumps(summary))
    assert written["peak_rss_mb"] == 1234
    features = written["stages"]["write_features"]
    assert (features["seconds"], features["runs"]) == (2.5, 1)
    assert features["days"] == len(feature_days(context.config))
    assert written["tables"]["sequences"]["rows"] == context.tables.read("sequences").count()
    assert set(written["tables"]) == set(TABLES)
    assert written["release_id"] == context.tables.read("releases").first().release_id
    assert written["ranker"]["segments"]["other_items"]["rows"] >= 0
    page = (output / "report" / "index.html").read_text()
    assert written["release_id"] in page
    assert "Beside what a team may have already" in page and "ALS (implicit feedback)" in page
    said = headline(context.config)
    assert f"{output}/report/index.html" in said
    assert "rivals     beside those of ALS (implicit feedback), Item co-occurrence the features still bring " in said


def test_the_report_is_an_artifact_of_the_experiment(context, result):
    from mlflow import MlflowClient

    publish_report(context, peak_rss_mb=1)
    publish_report(context, peak_rss_mb=1)
    client = MlflowClient(tracking_uri=tracking_uri(context.config))
    experiment = client.get_experiment_by_name(context.config.mlflow.experiment)
    (run,) = client.search_runs([experiment.experiment_id], "tags.model != 'compare-als'")
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"index.html", "summary.json"}
    assert run.data.metrics["ranker.auc_with"] == result.details["ranker"]["auc_with"]


@pytest.mark.long
def test_other_rows_are_measured_anew_and_equal_ones_are_found(context, result):
    """A rerun finds finished results; late events, which change tables but not the config, lead to new figures."""
    end, folder = [context.config.windows.end], context.tables.artifacts.path("evaluation")
    finished = set(folder.iterdir())
    assert evaluate_features(context, end).details == result.details
    assert set(folder.iterdir()) == finished
    late = context.tables.read("samples").where("stage = 'ranker_test'").limit(1)
    context.tables.append("samples", late.withColumn("event_ts", F.expr("event_ts + INTERVAL 1 MINUTE")))
    ranker = evaluate_features(context, end).details["ranker"]
    assert sum(ranker["rows"].values()) == sum(result.details["ranker"]["rows"].values()) + 1
    assert set(folder.iterdir()) > finished
