"""Nights after the journey: a plan, a refused release, two days at once or night by night, releases and exports."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from tests.builders.commands import ROOT, Done, run_here, run_job
from tests.builders.journey import assert_equal_tables, assert_equal_vectors
from tests.builders.reading import relation

pytestmark = [pytest.mark.e2e, pytest.mark.long]

NIGHTS = ("--start", "2011-11-27", "--end", "2011-11-29")


@dataclass(frozen=True)
class Nights:
    """A copy of the journey's lake, and how a plan, a refused run and a run of two more days on it ended."""

    folder: Path
    plan: Done
    refused: Done
    refused_page: str
    done: Done


@pytest.fixture(scope="module")
def nights(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("nights") / "copy"))
    plan = run_here(folder, "run_backfill", *NIGHTS, "--dry-run")
    refused = run_here(folder, "run_backfill", *NIGHTS, "--set", "features.gates.min_users=1000000")
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


def test_a_refused_release_is_shown(finished: Path, nights: Nights) -> None:
    current = json.loads((finished / "output" / "summary.json").read_text())["release_id"]
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


@pytest.fixture(scope="module")
def scheduled(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the journey's lake on which the two nights were run one by one."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("scheduled") / "copy"))
    assert run_here(folder, "run_backfill", "--start", "2011-11-27", "--end", "2011-11-28").code == 0
    how = ("--step-days", "1", "--max-parallel", "2", "--keep-going")
    assert run_here(folder, "run_backfill", *NIGHTS, *how).code == 0
    return folder


def test_a_backfill_equals_the_scheduled_nights(nights: Nights, scheduled: Path) -> None:
    one, other = nights.folder / "lake", scheduled / "lake"
    assert_equal_tables(one, other, but=frozenset({"item_life"}))
    # The state that the next release begins with: one per run, not one per day.
    ours, theirs = (relation(lake, "item_life") for lake in (one, other))
    newest = [table.filter(f"ds = DATE '{table.max('ds').fetchall()[0][0]}'") for table in (ours, theirs)]
    assert sorted(newest[0].fetchall(), key=str) == sorted(newest[1].fetchall(), key=str)
    assert_equal_vectors(one, other)


def test_releases_upkeep_and_exports_are_commands(finished: Path, scheduled: Path, tmp_path: Path) -> None:
    folder = scheduled
    first = json.loads((finished / "output" / "summary.json").read_text())["release_id"]
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


def test_days_of_a_withdrawn_release_are_missing_whatever_the_ledger_says(
    nights: Nights, tmp_path: Path, spark: SparkSession
) -> None:
    """The lake is as version 0.1.0 left it when a rollback was killed between its two commits."""
    folder = Path(shutil.copytree(nights.folder, tmp_path / "copy"))
    newest = relation(folder / "lake", "releases").filter("status = 'published'").order("published_at DESC").limit(1)
    ((name,),) = newest.project("release_id").fetchall()
    where = f"release_id = '{name}'"
    DeltaTable.forPath(spark, f"{folder}/lake/releases").update(where, {"status": "'rolled_back'"})
    night = ("run_backfill", "--start", "2011-11-29", "--end", "2011-11-30")
    assert run_here(folder, *night, "--dry-run").summary["plan"]["write_features"] == [
        *("2011-11-28", "2011-11-29", "2011-11-30")
    ]
    done = run_here(folder, *night)
    assert done.code == 0, done.err[-3000:]
    assert "feature_days_missing" not in done.err


def test_a_lost_model_is_missing(nights: Nights, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(nights.folder, tmp_path / "copy"))
    (weights,) = (folder / "lake" / "_artifacts" / "models").glob("cvr-*/model.safetensors")
    weights.unlink()
    assert run_here(folder, "train_cvr", "--dry-run").summary["plan"] == {"train_cvr": ["2011-11-20"]}
    night = run_here(folder, "run_backfill", "--start", "2011-11-29", "--end", "2011-11-30")
    assert night.code == 2
    assert "needs train_cvr of 2011-11-20, which has lost what it made" in night.err.splitlines()[-1]
    before = relation(folder / "lake", "pair_features").order("ALL").fetchall()
    done = run_here(folder, "repair")
    assert done.code == 0 and done.summary["plan"] == {"train_cvr": ["2011-11-20"]}, done.err[-3000:]
    assert weights.is_file()
    assert relation(folder / "lake", "pair_features").order("ALL").fetchall() == before
    assert run_here(folder, "repair").code == 99
