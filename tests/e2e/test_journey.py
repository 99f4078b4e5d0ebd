"""The whole journey on real logs, run once as a user would: its tables, its readers, and a rerun that does nothing."""

import json
import re
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pytest
from pyspark.sql import SparkSession

from learn_spark.api import open_lake
from learn_spark.lake.schemas import TABLES
from learn_spark.releases.join import create_views
from learn_spark.releases.release import FEATURE_TABLES
from tests.builders.commands import ROOT, Done, run_here
from tests.builders.journey import finished_journey
from tests.builders.reading import relation, versions

pytestmark = pytest.mark.e2e

Journey = tuple[Path, Done]
PAGES = [ROOT / "README.md", ROOT / "docs" / "reading.md"]
SNIPPETS = [
    text for page in PAGES for text in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]
GOLD = ("user_features", "item_features", "pair_features", "releases")


@pytest.fixture(scope="module")
def journey(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Journey:
    """A copy of the finished journey's folder, and how its command ended. Later commands run in this process."""
    folder, done = finished_journey()
    return Path(shutil.copytree(folder, tmp_path_factory.mktemp("journey") / "copy")), done


def test_it_leaves_tables_summary_and_report(journey: Journey) -> None:
    folder, done = journey
    summary = json.loads((folder / "output" / "summary.json").read_text())
    assert set(summary["tables"]) == set(TABLES)
    assert {name for name, table in summary["tables"].items() if not table["rows"]} == {"forgotten"}
    assert all(Path(table["path"]).is_dir() for table in summary["tables"].values())
    for stage in ("ingest_events", "build_sequences", "embed_items", "train_towers", "train_cvr", "write_features"):
        assert summary["stages"][stage]["rows_in"] > 0
        assert summary["stages"][stage]["rows_out"] > 0
        assert summary["stages"][stage]["seconds"] > 0
    assert summary["stages"]["evaluate_features"]["rows_in"] > 0
    scorers = ("", "popularity_", "last_item_", "mean_content_")
    wanted = {"users", "ndcg_at_50", *(f"{scorer}recall_at_50" for scorer in scorers)}
    assert wanted <= set(summary["retrieval"])
    wanted = {"auc_without", "auc_with", "auc_gain", "auc_gain_ci90", "uauc_without", "uauc_with", "segments"}
    assert wanted <= set(summary["ranker"])
    assert summary["peak_rss_mb"] > 500
    assert summary["release_id"] in done.out
    page = (folder / "output" / "report" / "index.html").read_text()
    assert summary["release_id"] in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page), "the report must be self-contained"


def test_no_line_of_the_log_is_lost(journey: Journey) -> None:
    folder, done = journey
    lake, figures = folder / "lake", done.summary["steps"]["ingest_events"]
    events = relation(lake, "interactions").count("*").fetchall()[0][0]
    rejects = relation(lake, "rejects").count("*").fetchall()[0][0]
    assert figures["rows_in"] == events + rejects + figures["duplicates"]
    assert events == figures["rows_out"]


def test_a_second_run_recomputes_nothing(journey: Journey) -> None:
    folder, _ = journey
    before = versions(folder / "lake")
    again = run_here(folder, "run_pipeline")
    assert again.code == 99, again.err[-3000:]
    assert "nothing is missing, nothing was recomputed" in again.err
    assert "recall@50" in again.out
    assert versions(folder / "lake") == before


def test_gold_tables_join_to_samples_without_spark(journey: Journey) -> None:
    folder, _ = journey
    for name in (*GOLD, "samples"):
        relation(folder / "lake", name).create_view(name, replace=True)
    joined = duckdb.sql(
        """
        SELECT count(*), count(DISTINCT s.user_id), min(len(p.mid_emb)), min(len(i.item_emb)), bool_and(u.ds <= s.ds)
        FROM samples s
        JOIN pair_features p USING (user_id, item_id, event_ts)
        JOIN releases r ON r.release_id = p.release_id
        ASOF LEFT JOIN user_features u ON u.user_id = s.user_id AND u.ds <= s.ds
        ASOF LEFT JOIN item_features i ON i.item_id = s.item_id AND i.ds <= s.ds
        WHERE s.stage <> 'cvr'
        """
    )
    joined_rows, users, mid_width, item_width, no_leak = joined.fetchall()[0]
    expected = duckdb.sql("SELECT count(*) FROM samples WHERE stage <> 'cvr'").fetchall()[0][0]
    assert joined_rows == expected > 1000
    assert users > 50
    assert (mid_width, item_width) == (32, 64)
    assert no_leak


def test_samples_are_joined_by_a_job_and_a_release_shows_its_lineage(journey: Journey, tmp_path: Path) -> None:
    folder, _ = journey
    wanted = ("--samples", f"{folder}/lake/samples", "--out", f"{tmp_path}/joined")
    assert run_here(folder, "join_features", *wanted).code == 0
    joined = duckdb.sql(f"SELECT count(*), min(len(user_emb)), max(len(item_emb)) FROM '{tmp_path}/joined/*.parquet'")
    samples = relation(folder / "lake", "samples").count("*").fetchall()[0][0]
    assert joined.fetchall() == [(samples, 64, 64)]
    newest = f"SELECT item_id, arg_max(item_emb, ds) AS item_emb FROM '{tmp_path}/joined/*.parquet' GROUP BY item_id"
    leaky = f"SELECT s.item_id, s.ds, n.item_emb FROM '{tmp_path}/joined/*.parquet' s JOIN ({newest}) n USING (item_id)"
    (tmp_path / "leaky").mkdir()
    duckdb.sql(leaky).write_parquet(f"{tmp_path}/leaky/part.parquet")
    audit = run_here(folder, "audit_join", "--joined", f"{tmp_path}/leaky")
    assert audit.code == 3
    assert audit.summary["audit"][0]["leaks"] > 0 == audit.summary["audit"][1]["leaks"]
    assert re.search(r"leakage audit failed: item_emb was known on the sample's day: \d+ of", audit.err)
    shown = run_here(folder, "release", "show")
    models = shown.summary["release"]["lineage"]["models"]
    assert "mlflow_run_id" in models["towers"]
    assert models["cvr"]["snapshots"]["train"]["source"].startswith("samples version")


def test_tables_have_names_and_views_show_the_current_release(journey: Journey, spark: SparkSession) -> None:
    folder, _ = journey
    before = versions(folder / "lake")
    named = run_here(folder, "run_pipeline", "--set", "lake.catalog=journey")
    assert named.code == 99, named.err[-3000:]
    release = create_views(spark, folder / "lake")
    for table in FEATURE_TABLES:
        shown, expected = spark.table(f"journey.current_{table}"), spark.table(table)
        assert shown.columns == expected.columns
        assert not shown.exceptAll(expected).count()
        assert shown.count() == expected.count() > 0
    assert open_lake(spark, catalog="journey").release() == release
    done = run_here(folder, "join_features", "--samples", "table:journey.samples", "--out", "table:journey.joined")
    assert done.code == 0, done.err[-3000:]
    joined = spark.table("journey.joined")
    assert joined.count() == spark.table("journey.samples").count()
    assert set(joined.columns) > {"user_emb", "item_emb"}
    audit = run_here(folder, "audit_join", "--joined", "table:journey.joined")
    assert audit.code == 0, audit.err[-3000:]
    again = run_here(folder, "join_features", "--samples", "table:journey.nothing", "--out", "table:journey.joined")
    assert again.code == 2
    assert re.search(r"error: table:journey\.nothing: \[TABLE_OR_VIEW_NOT_FOUND\]", again.err)
    spark.sql("DROP SCHEMA journey CASCADE")
    assert versions(folder / "lake") == before


def test_the_audit_finds_no_leak(journey: Journey) -> None:
    done = run_here(journey[0], "audit_leakage")
    assert done.code == 0, done.err[-3000:]
    assert len(done.summary["audit"]) == 5
    assert all(figure["rows"] > 0 and figure["leaks"] == 0 for figure in done.summary["audit"])


def test_other_config_is_refused_without_restate(journey: Journey) -> None:
    folder, _ = journey
    before = versions(folder / "lake")
    done = run_here(folder, "train_cvr", "--set", "cvr.train.epochs=3")
    assert done.code == 2
    assert re.search(r"train_cvr of 2011-11-20 was made from other code, config or input.*--restate", done.err)
    assert versions(folder / "lake") == before


def test_the_pages_have_a_snippet_for_each_reader() -> None:
    assert [next(w for w in ("spark.read", "duckdb", "polars") if w in text) for text in SNIPPETS] == [
        "spark.read",
        "spark.read",
        "duckdb",
        "polars",
    ]


@pytest.mark.filterwarnings("ignore:Sortedness of columns")
def test_all_snippets_find_the_same_rows(journey: Journey, spark: SparkSession) -> None:
    counts = []
    for text in SNIPPETS:
        names = {"spark": spark}
        exec(text.replace("build/demo/lake", str(journey[0] / "lake")), names)
        rows = names["rows"]
        counts.append(rows.count() if "spark.read" in text else len(rows))
    assert len(set(counts)) == 1
    assert counts[0] > 1000


def test_the_api_page_runs_from_top_to_bottom(journey: Journey, spark: SparkSession) -> None:
    """Runs the code of docs/api.md on the finished lake; its vectors equal those of the release."""
    text = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.DOTALL))
    names = {"open_session": lambda: spark}
    exec(text.replace("ls.session()", "open_session()").replace("build/demo/lake", str(journey[0] / "lake")), names)
    lake, towers = names["lake"], names["towers"]
    assert names["rows"].count() == names["samples"].count() > 1000
    assert names["users"].first().content_coverage > 0
    ours = towers.embed_users(lake.table("user_history").where("ds = '2011-11-16'"))
    theirs = lake.table("user_features").where("ds = '2011-11-16'").withColumnRenamed("user_emb", "published")
    both = ours.join(theirs.select("user_id", "published"), on="user_id", how="inner").collect()
    assert len(both) > 10
    np.testing.assert_allclose([row.user_emb for row in both], [row.published for row in both], atol=5e-5)
    assert names["built"].rows.count() > 100
    assert len(names["titles"].join(names["items"].select("item_id"), on="item_id", how="left_semi").collect()) > 0
    assert towers.torch.config.embedding_dim == len(both[0].user_emb)
