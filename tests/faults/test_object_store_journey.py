"""A journey with lake and logs in a store, with a kill -9 in the middle, and `compare`: equal to those on a disk."""

import json
import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyarrow.csv import write_csv

from learn_spark.storage import Location
from tests.builders.commands import ROOT, Done, as_settings, run_job
from tests.builders.journey import assert_equal_tables, assert_equal_vectors, finished_journey
from tests.builders.object_store import SECRET, ObjectStore, object_store  # noqa: F401 - a fixture
from tests.builders.stores import assert_equals_one_on_a_disk, journey_after_a_kill
from tests.builders.transfer import download, upload

pytestmark = [pytest.mark.spark, pytest.mark.process]


def test_a_journey_in_a_store_equals_one_on_a_disk_also_when_it_is_killed(
    object_store: ObjectStore,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = object_store.bucket()
    root, logs = bucket / "lake", upload(ROOT / "data" / "online_retail", bucket / "logs")
    for name, value in {**object_store.environment, "LEARN_SPARK_CACHE": f"{tmp_path}/cache"}.items():
        monkeypatch.setenv(name, value)
    told = (
        f"output.dir={bucket}/output",
        f"mlflow.tracking_uri=sqlite:///{tmp_path}/mlflow.db",
        "lake.catalog=shop",  # each process has its own catalog in memory
    )
    done = journey_after_a_kill(tmp_path, root, logs, *told)
    ours = assert_equals_one_on_a_disk(root, tmp_path)
    output = download(bucket / "output", tmp_path / "output")
    summary = json.loads((output / "summary.json").read_bytes())
    assert summary["ranker"] and (output / "report" / "index.html").read_bytes().startswith(b"<!doctype html")
    assert f"report     {bucket}/output/report/index.html" in done.out
    written = b"".join(file.read_bytes() for file in output.rglob("*") if file.is_file())
    assert SECRET.encode() not in written + done.err.encode() + done.out.encode()
    assert not [file for file in ours.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    _assert_done_in_another_bucket(ours, object_store.bucket(), tmp_path, told)
    told = (f"lake.root={root}", f"ingest.path={logs}", *told)
    _assert_repaired(root, told, tmp_path)
    monkeypatch.setenv("LEARN_SPARK_CACHE", f"{tmp_path}/cache of another machine")
    _assert_compared_as_on_a_disk(bucket, told, tmp_path)


def _assert_done_in_another_bucket(lake: Path, bucket: Location, folder: Path, told: tuple[str, ...]) -> None:
    """Copies lake and logs to another bucket; asserts that a run there, on a machine without copies, does nothing."""
    root, logs = upload(lake, bucket / "moved"), upload(ROOT / "data" / "online_retail", bucket / "raw")
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setenv("LEARN_SPARK_CACHE", f"{folder}/cache of the other bucket")
        moved = as_settings(f"lake.root={root}", f"ingest.path={logs}", *told)
        done = run_job(folder, "run_pipeline", *moved)
        assert (done.code, "nothing is missing" in done.err + done.out) == (99, True), done.err[-3000:]
        assert run_job(folder, "repair", "--deep", *moved).code == 99


def _assert_repaired(root: Location, told: tuple[str, ...], folder: Path) -> None:
    """Deletes blocks of towers and matrix and a file of features; asserts that a repair makes equal ones again."""
    towers, matrix = (
        next(place for place in (root / "_artifacts" / kind).glob(pattern))
        for kind, pattern in (("models", "towers-*"), ("matrix", "*"))
    )
    for place in (towers, matrix):
        next(block for block in place.glob("*") if block.name != "index.json").unlink()
    lost = sorted((root / "user_features").matching("**/*.parquet"))[0]
    (root / "user_features" / lost).unlink()
    done = run_job(folder, "repair", *as_settings(*told))
    assert done.code == 0, done.err[-3000:]
    for said in (f"{towers} lacks 1 of", f"{matrix} lacks 1 of", f"{lost} is gone"):
        assert said in done.out, done.out
    assert run_job(folder, "repair", "--deep", *as_settings(*told)).code == 99
    ours, expected = download(root, folder / "repaired"), finished_journey()[0] / "lake"
    assert_equal_tables(ours, expected, but=frozenset({"item_life"}))
    assert_equal_vectors(ours, expected)


def _assert_compared_as_on_a_disk(bucket: Location, told: tuple[str, ...], folder: Path) -> None:
    """Asserts equal figures for test rows in the store, and that another machine then trains nothing again."""
    (folder / "local").mkdir()
    disk = Path(shutil.copytree(finished_journey()[0], folder / "local" / "copy"))
    seen = DeltaTable(str(disk / "lake" / "interactions")).to_pyarrow_table(columns=["user_id", "item_id"])
    (folder / "asked").mkdir()
    write_csv(seen.slice(0, 300), folder / "asked" / "rows.csv")
    rows = upload(folder / "asked", bucket / "asked") / "rows.csv"
    command = ("compare", "--systems", "als,popularity,mean_content", "--seeds", "3", "--final")
    expected = run_job(disk, *command, *as_settings(f"comparison.test_rows.path={folder}/asked/rows.csv"))
    first = run_job(folder, *command, *as_settings(*told, f"comparison.test_rows.path={rows}"))
    assert (expected.code, first.code) == (0, 0), expected.err[-2000:] + first.err[-2000:]
    assert "als with seed 3 is trained" in first.err
    assert _figures(first) == _figures(expected)
    assert (bucket / "output" / "comparison" / "compare.html").is_file()
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setenv("LEARN_SPARK_CACHE", f"{folder}/cache of a third machine")
        second = run_job(folder, *command, *as_settings(*told, f"comparison.test_rows.path={rows}"))
    assert "is trained" not in second.err
    assert _figures(second) == _figures(first)


def _figures(done: Done) -> dict[str, object]:
    found = done.summary["comparison"]
    return {name: system["metrics"] for name, system in found["systems"].items()} | {"data": found["data"]}
