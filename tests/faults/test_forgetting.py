"""Forgetting on a whole journey's lake: every byte before and after, real kills, and what might bring somebody back."""

import csv
import gzip
import os
import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from learn_spark.forgetting.rows import SEARCHED
from learn_spark.lake.forget_requests import hash_of
from tests.builders.byte_scan import places_of
from tests.builders.commands import ROOT, run_here
from tests.builders.journey import assert_equal_tables, finished_journey
from tests.builders.kills import kill_after_each
from tests.builders.reading import relation
from tests.faults.conftest import NEXT, NIGHTS

pytestmark = [pytest.mark.faults, pytest.mark.e2e]

ALL = os.environ.get("FAULTS_ALL") == "1"
USERS, ITEMS = ("12388", "14911"), ("22910", "85123A")
AFTER = SEARCHED if ALL else ("interactions", "sequences", "item_text")
CUT = ("cut:interactions", "cut:forgotten") if ALL else ("cut:samples",)


def test_kills_a_night_a_rollback_a_restatement(tmp_path: Path, spark: SparkSession) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    shutil.copytree(finished_journey()[0], killed)
    lists = _lists(tmp_path)
    held = places_of([*USERS, *ITEMS], killed)
    assert all(len(places) > 10 for places in held.values()), held
    for part in ("_delta_log", "snapshots", "interactions/", "pair_features/"):
        assert any(part in place for name in USERS for place in held[name]), f"the scan does not look into {part}"

    kill_after_each(killed, ["forgotten"], "forget", *lists)
    shutil.copytree(killed, whole)  # of one salt
    assert run_here(whole, "forget").code == 0
    done = [name for name in AFTER if name != "intervals"]  # no user is heavy enough to be named there
    kill_after_each(killed, [*done, *CUT], "forget", *lists)
    ended = run_here(killed, "forget", *lists)
    assert ended.code == 0, ended.err
    assert ended.summary["retrain_due"], "both models learned from them"
    assert_equal_tables(killed / "lake", whole / "lake")
    _assert_gone(killed)
    assert run_here(killed, "forget", *lists).code == 99

    night = run_here(killed, *NIGHTS)
    assert night.code == 0, night.err
    assert "retrain due: " in night.out and night.summary["retrain_due"]
    assert "train_towers" not in night.summary["steps"], "a night does not train"
    assert run_here(killed, *NEXT).code == 0
    _assert_gone(killed)
    assert run_here(killed, "release", "rollback").code == 0
    assert run_here(killed, *NEXT).code == 0
    again = ("run_pipeline", "--steps", "ingest_events,build_sequences", "--restate", "--set", "ingest.late_days=2")
    restated = run_here(killed, *again)
    assert restated.code == 0, restated.err
    assert restated.summary["steps"]["ingest_events"]["not_wanted"] == {"user or item is forgotten": _raw_lines()}
    vectors = run_here(killed, "export_vectors", "--out", str(tmp_path / "vectors"), "--index", "none")
    assert vectors.code == 0, vectors.err
    _assert_gone(killed)


def _raw_lines() -> int:
    """Of the days that the journey ingests."""
    found = 0
    for file in sorted((ROOT / "data" / "online_retail").glob("2011-11-*.csv.gz")):
        if file.name < "2011-11-27":
            with gzip.open(file, "rt", encoding="utf-8", newline="") as lines:
                for line in csv.DictReader(lines):
                    found += line["CustomerID"].removesuffix(".0") in USERS or line["StockCode"] in ITEMS
    return found


def _lists(folder: Path) -> tuple[str, ...]:
    for kind, names in (("users", USERS), ("items", ITEMS)):
        (folder / kind).write_text("\n".join(names))
    return "--users", str(folder / "users"), "--items", str(folder / "items")


def _assert_gone(folder: Path) -> None:
    held = places_of([*USERS, *ITEMS], folder)
    assert not any(held.values()), held
    (salt,) = {row[0] for row in relation(folder / "lake", "forgotten").project("salt").fetchall()}
    hashes = {row[0] for row in relation(folder / "lake", "forgotten").project("id_hash").fetchall()}
    assert hashes == {hash_of(salt, name) for name in (*USERS, *ITEMS)}
