"""A whole journey whose lake and logs lie in a store, with a kill -9 in the middle, beside one on a disk."""

import json
import time
from pathlib import Path

import pytest

from learn_spark.lake.lease import living_holder
from tests.builders.commands import ROOT, kill_job, run_job
from tests.builders.journey import (
    assert_equal_tables,
    assert_equal_vectors,
    current_parts,
    finished_journey,
)
from tests.builders.object_store import SECRET, ObjectStore, object_store  # noqa: F401 - a fixture
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
    places = {"lake.root": root, "ingest.path": logs, "output.dir": bucket / "output"}
    settings = [f"--set={key}={place}" for key, place in places.items()]
    run = ("run_pipeline", *settings, f"--set=mlflow.tracking_uri=sqlite:///{tmp_path}/mlflow.db")

    kill_job(tmp_path, *run, when="cache/*/_artifacts/models/towers-*/spec.json")
    refused = run_job(tmp_path, *run)
    assert (refused.code, "another run works on the lake" in refused.err) == (75, True), refused.err
    while living_holder(root):
        time.sleep(1)
    done = run_job(tmp_path, *run)
    assert done.code == 0, done.err[-3000:]
    assert "[1/7]" not in done.err, "what was done before the kill is not done again"
    assert run_job(tmp_path, *run).code == 99

    expected = finished_journey()[0] / "lake"
    ours = download(root, tmp_path / "copy")
    assert_equal_tables(ours, expected)
    assert_equal_vectors(ours, expected)
    assert current_parts(ours) == current_parts(expected)
    output = download(bucket / "output", tmp_path / "output")
    summary = json.loads((output / "summary.json").read_bytes())
    assert summary["ranker"] and (output / "report" / "index.html").read_bytes().startswith(b"<!doctype html")
    assert f"report     {bucket}/output/report/index.html" in done.out
    written = b"".join(file.read_bytes() for file in output.rglob("*") if file.is_file())
    assert SECRET.encode() not in written + done.err.encode() + done.out.encode()
    assert not [file for file in ours.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
