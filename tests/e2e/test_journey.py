"""The whole journey on real logs, run once as a user would: its tables, reruns, nightly runs, a cluster, readers."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pytest
from pyspark.sql import SparkSession

from learn_spark.config.load import load_config
from learn_spark.lake.schemas import TABLES
from learn_spark.pipeline import STEPS
from tests.builders.commands import CONFIG, ROOT, Done, environment, kill_job, run_here, run_job
from tests.builders.reading import relation, rows, versions

pytestmark = pytest.mark.e2e

Journey = tuple[Path, Done]
VECTORS = {"content_embeddings": {"embedding", "norm"}}  # the last bits differ with the batches
LEARNED = {
    "user_features": ("user_id, ds", "user_emb"),
    "item_features": ("item_id, ds", "item_emb"),
    "pair_features": ("user_id, item_id, event_ts", "mid_emb, cvr_score"),
}
NIGHTS = ("--start", "2011-11-27", "--end", "2011-11-29")
PAGES = [ROOT / "README.md", ROOT / "docs" / "reading.md"]
SNIPPETS = [
    text for page in PAGES for text in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]
GOLD = ("user_features", "item_features", "pair_features", "releases")


@pytest.fixture(scope="module")
def journey(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Journey:
    """Folder and end of a command that was a process of its own; most later ones run here, on `spark`."""
    folder = tmp_path_factory.mktemp("journey")
    done = run_job(folder, "run_pipeline")
    assert done.code == 0, done.err[-5000:]
    return folder, done


def test_it_leaves_tables_summary_and_report(journey: Journey) -> None:
    folder, done = journey
    summary = json.loads((folder / "output" / "summary.json").read_text())
    assert set(summary["tables"]) == set(TABLES)
    assert all(table["rows"] > 0 and Path(table["path"]).is_dir() for table in summary["tables"].values())
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


@dataclass(frozen=True)
class Nights:
    """A copy of the journey's lake, and how a plan, a refused run and a run of two more days on it ended."""

    folder: Path
    plan: Done
    refused: Done
    refused_page: str
    done: Done


@pytest.fixture(scope="module")
def nights(journey: Journey, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    folder = Path(shutil.copytree(journey[0], tmp_path_factory.mktemp("nights") / "copy"))
    plan = run_here(folder, "run_backfill", *NIGHTS, "--dry-run")
    refused = run_here(folder, "run_backfill", *NIGHTS, "--set", "features.min_users=1000000")
    page = (folder / "output" / "report" / "index.html").read_text()
    return Nights(folder, plan, refused, page, run_job(folder, "run_backfill", *NIGHTS))


def test_a_plan_of_nights_shows_days_rows_and_texts(nights: Nights) -> None:
    plan = nights.plan
    assert plan.code == 0
    assert re.search(r"1\. ingest_events +2 days +2011-11-27 \.\. 2011-11-28", plan.out)
    assert "train_towers" not in plan.out
    assert "estimated sizes" not in plan.out, "the lake knows better than the config"
    assert set(plan.summary["rows"]) == set(plan.summary["plan"])
    assert all(rows > 0 for rows in plan.summary["rows"].values())
    encoding, items = plan.summary["encoding"], relation(nights.folder / "lake", "item_index").count("*").fetchall()
    assert encoding["texts"] == 0 < encoding["expected"] < items[0][0], "nothing waits; the two days bring new items"


def test_a_refused_release_is_shown(journey: Journey, nights: Nights) -> None:
    current = json.loads((journey[0] / "output" / "summary.json").read_text())["release_id"]
    assert nights.refused.code == 3
    assert nights.refused.out.splitlines()[-1] == f"report     {nights.folder}/output/report/index.html"
    gate = r"release (\S+): nothing is published, gates failed: users_on_first_day"
    stopped = re.search(gate, nights.refused.err)[1]
    assert f"{stopped}</code> was not published: users on first day is" in nights.refused_page
    assert f"Readers still get <code>{current}</code>." in nights.refused_page


def test_nightly_runs_follow(nights: Nights) -> None:
    assert nights.done.code == 0, nights.done.err[-5000:]
    lake = nights.folder / "lake"
    news = relation(lake, "user_features").filter("ds >= '2011-11-28'")
    active = relation(lake, "interactions").filter("ds >= '2011-11-27' AND event_type = 'purchase'")
    active_days = set(active.project("user_id, ds + 1").distinct().fetchall())
    assert set(news.project("user_id, ds").fetchall()) == active_days
    releases = relation(lake, "releases").project("release_id, len(days)").fetchall()
    assert sorted(count for _, count in releases)[0] == 2


def published(lake: Path, name: str) -> duckdb.DuckDBPyRelation:
    """A feature table without what a refused release has staged."""
    relation(lake, "releases").create_view("published_releases", replace=True)
    is_published = "release_id IN (SELECT release_id FROM published_releases WHERE status = 'published')"
    return relation(lake, name).filter(is_published)


def assert_equal_lakes(one: Path, other: Path) -> None:
    """Equal rows in all tables; learned vectors to 5e-5 of a length of 3.8, whatever release they came with."""
    once_a_run = {"item_life"}  # the state that the next release begins with: one a run, not one a day
    for name in sorted(set(TABLES) - set(LEARNED) - once_a_run - {"releases", "intervals"}):
        without = frozenset(VECTORS.get(name, ()))
        assert rows(one, name, without) == rows(other, name, without), name
    ours, theirs = (relation(lake, "item_life") for lake in (one, other))
    newest = [table.filter(f"ds = DATE '{table.max('ds').fetchall()[0][0]}'") for table in (ours, theirs)]
    assert sorted(newest[0].fetchall(), key=str) == sorted(newest[1].fetchall(), key=str)
    for name, (keys, vectors) in LEARNED.items():
        columns = f"{keys}, {vectors}"
        ours, theirs = (published(lake, name).order(keys).project(columns).fetchnumpy() for lake in (one, other))
        for key in keys.split(", "):
            assert ours[key].tolist() == theirs[key].tolist(), (name, key)
        for vector in vectors.split(", "):
            left, right = (np.array(table[vector].tolist(), dtype=np.float64) for table in (ours, theirs))
            np.testing.assert_allclose(left, right, atol=5e-5, err_msg=f"{name} {vector}")


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


@pytest.fixture(scope="module")
def scheduled(journey: Journey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the journey's lake on which each of the two nights was run when its day was over."""
    folder = Path(shutil.copytree(journey[0], tmp_path_factory.mktemp("scheduled") / "copy"))
    assert run_here(folder, "run_backfill", "--start", "2011-11-27", "--end", "2011-11-28").code == 0
    how = ("--step-days", "1", "--max-parallel", "2", "--keep-going")
    assert run_here(folder, "run_backfill", *NIGHTS, *how).code == 0
    return folder


def test_a_backfill_equals_the_scheduled_nights(nights: Nights, scheduled: Path) -> None:
    assert_equal_lakes(nights.folder / "lake", scheduled / "lake")


def test_releases_upkeep_and_exports_are_commands(journey: Journey, scheduled: Path, tmp_path: Path) -> None:
    folder = scheduled
    first = json.loads((journey[0] / "output" / "summary.json").read_text())["release_id"]
    listed = run_here(folder, "release", "list")
    assert len(listed.out.splitlines()) == 3, "a release a day"
    second = next(line.split()[1] for line in listed.out.splitlines() if line.startswith("*"))
    assert first in listed.out and second != first
    diff = run_here(folder, "release", "diff", first, second)
    assert re.search(r"days_added +2011-11-28 .. 2011-11-29", diff.out)
    assert run_here(folder, "release", "rollback", "no-such-release").code == 2
    assert run_here(folder, "release", "rollback", first).code == 0
    assert f"* {first}" in run_here(folder, "release", "list").out
    assert run_here(folder, "maintain_tables").code == 0
    vectors = run_here(folder, "export_vectors", "--out", f"{tmp_path}/vectors")
    assert vectors.code == 0, vectors.err[-3000:]
    assert json.loads((tmp_path / "vectors" / "result.json").read_text())
    online = run_here(folder, "export_online", "--out", f"{tmp_path}/online")
    assert online.code == 0, online.err[-3000:]
    score = [sys.executable, ROOT / "examples" / "score_online.py", "--programs", tmp_path / "online", "--repeats", "5"]
    assert "500 candidates" in subprocess.run(score, check=True, capture_output=True, text=True, timeout=300).stdout


def test_tower_variants_are_compared_by_one_command(journey: Journey) -> None:
    asked = ("--systems", "variant_1,variant_3", "--seeds", "1", "--set", "comparison.bootstrap=20")
    done = run_here(journey[0], "compare-towers", *asked)
    assert done.code == 0, done.err[-5000:]
    compared = json.loads((journey[0] / "output" / "comparison" / "compare_towers.json").read_text())
    assert list(compared["systems"]) == ["variant_1", "variant_3"]
    assert all(0 < row["metrics"]["recall_at_50"]["mean"] < 1 for row in compared["systems"].values())
    page = (journey[0] / "output" / "comparison" / "compare_towers.html").read_text()
    assert page.count("<svg") >= 2 and "Variant 3 (content itself)" in page, "bars and training curves"


FRONT = ("--steps", "ingest_events,build_sequences")


KILLS = (
    "lake/interactions/ds=*/*.parquet",  # data files without a commit
    "lake/interactions/_delta_log/*1.json",  # a commit that the ledger does not have
    "lake/user_history/ds=*/*.parquet",  # in the middle of the second step
)


def test_a_run_killed_three_times_is_finished_by_the_same_command(journey: Journey, tmp_path: Path) -> None:
    for when in KILLS:
        kill_job(tmp_path, "run_pipeline", *FRONT, when=when)
        assert versions(tmp_path / "lake")["intervals"] == ("user_history" in when)
    done = run_job(tmp_path, "run_pipeline", *FRONT)
    assert done.code == 0, done.err[-3000:]
    for name in ("interactions", "rejects", "items", "item_index", "sequences", "user_history", "samples"):
        assert rows(tmp_path / "lake", name) == rows(journey[0] / "lake", name), name
    assert run_here(tmp_path, "run_pipeline", *FRONT).code == 99


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


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make package` builds, without a checkout around it."""
    folder = tmp_path_factory.mktemp("package")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, env=environment(), capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel.rename(folder / "learn_spark.zip")


def test_cluster_and_local_run_make_equal_tables(journey: Journey, zipped: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    quick = load_config(CONFIG).spark.conf["spark.driver.extraJavaOptions"]  # too late once spark-submit has a JVM
    cluster = ("--master", "local-cluster[2,1,1024]", "--driver-java-options", quick)
    launcher = ("spark-submit", *cluster, "--py-files", str(zipped))
    steps = ("--steps", ",".join(name for name in STEPS if name != "evaluate_features"))  # writes no table
    done = run_job(tmp_path, str(ROOT / "jobs" / "run_pipeline.py"), *steps, launcher=launcher, cwd=elsewhere)
    assert done.code == 0, done.err[-5000:]
    ours, theirs = journey[0] / "lake", tmp_path / "lake"
    for name in sorted(set(TABLES) - set(LEARNED) - {"releases", "intervals"}):
        without = frozenset(VECTORS.get(name, ()))
        assert rows(theirs, name, without) == rows(ours, name, without), name
    for name in LEARNED:
        assert relation(theirs, name).count("*").fetchall() == relation(ours, name).count("*").fetchall(), name


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
