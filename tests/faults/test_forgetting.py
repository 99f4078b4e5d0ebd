"""Forgetting on a whole journey's lake: all bytes before and after, real kills, and what could bring ids back."""

import csv
import gzip
import os
import shutil
import time
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from learn_spark.forgetting.rows import SEARCHED
from learn_spark.lake.artifacts import Artifacts
from learn_spark.lake.forget_requests import hash_of
from learn_spark.lake.lease import living_holder
from learn_spark.storage import Location
from tests.builders.byte_scan import places_of
from tests.builders.commands import ROOT, as_settings, kill_job, run_here, run_job
from tests.builders.journey import assert_equal_tables, finished_journey
from tests.builders.kills import kill_after_each
from tests.builders.object_store import ObjectStore, object_store  # noqa: F401 - a fixture
from tests.builders.reading import relation
from tests.builders.transfer import download, upload
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
    shutil.copytree(killed, whole)  # so that both have the same salt
    assert run_here(whole, "forget").code == 0
    done = [name for name in AFTER if name != "intervals"]  # it names only heavy users, and there are none
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


def test_a_lake_in_a_store_is_killed_and_another_machine_ends_it(
    object_store: ObjectStore,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tables, artifacts, `output.dir` and local copies are as clean as for a lake on a disk."""
    bucket, disk = object_store.bucket(), tmp_path / "disk"
    shutil.copytree(finished_journey()[0], disk)
    lists = _lists(tmp_path)
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LEARN_SPARK_CACHE", f"{tmp_path}/one")
    root = _put_into(bucket / "lake", disk / "lake")
    (disk / "output" / "logs").mkdir(exist_ok=True)
    (disk / "output" / "logs" / "sent-1.log").write_text(f"Traceback: row ('{USERS[0]}', 12)\n")
    upload(disk / "output", bucket / "output")
    held = places_of([*USERS, *ITEMS], download(bucket, tmp_path / "before"))
    for part in ("_delta_log", "snapshots", "interactions/", "output/logs"):
        assert any(part in place for places in held.values() for place in places), f"nothing is in {part}"
    told = as_settings(f"lake.root={root}", f"output.dir={bucket}/output", "mlflow.tracking_uri=sqlite://")
    assert run_job(tmp_path, "forget", *lists, "--dry-run", *told).code == 0
    kill_job(
        tmp_path, "forget", *lists, *told, when=lambda: bool(root.matching("_artifacts/forgetting/*/request.json"))
    )
    while living_holder(root):
        time.sleep(1)
    monkeypatch.setenv("LEARN_SPARK_CACHE", f"{tmp_path}/two")
    ended = run_job(tmp_path, "forget", *told)
    assert ended.code == 0, ended.err
    expected = run_here(disk, "forget", *lists)
    assert ended.summary["retrain_due"] == expected.summary["retrain_due"] != []
    ours = download(bucket, tmp_path / "after")
    salted = frozenset({"forgotten", "item_index"})  # each lake has a salt of its own
    assert_equal_tables(ours / "lake", disk / "lake", but=salted)
    (one, other) = (
        sorted(relation(lake, "item_index").filter("item_id NOT LIKE 'forgotten-%'").fetchall())
        for lake in (ours / "lake", disk / "lake")
    )
    assert one == other != []
    held = places_of([*USERS, *ITEMS], ours, tmp_path / "two")
    assert not any(held.values()), held
    assert f"certificate {root}/_artifacts/forgetting/" in ended.out
    monkeypatch.setenv("LEARN_SPARK_CACHE", f"{tmp_path}/one")
    assert run_job(tmp_path, "forget", *lists, *told).code == 99
    held = places_of([*USERS, *ITEMS], tmp_path / "one")
    assert not any(held.values()), "the first machine has thrown its copies away"


def _put_into(root: Location, lake: Path) -> Location:
    """Copies a lake on a disk into a store; this machine then has only copies of its artifacts."""
    artifacts = Artifacts(root)
    for folder in (path for path in lake.glob("_artifacts/*/*") if path.is_dir()):
        shutil.copytree(folder, artifacts.path(folder.parent.name, folder.name))
    artifacts.publish()
    for part in lake.iterdir():
        if part.is_file():
            (root / part.name).send(part)
        elif part.name != "_artifacts":
            upload(part, root / part.name)
    return root


def _raw_lines() -> int:
    """The number of raw lines with forgotten ids in the days that the journey ingests."""
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
