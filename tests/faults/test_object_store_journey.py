"""A whole journey whose lake and logs lie in a store, with a kill -9 in the middle, beside one on a disk."""

import json
from pathlib import Path

import pytest

from tests.builders.commands import ROOT
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
    told = (f"output.dir={bucket}/output", f"mlflow.tracking_uri=sqlite:///{tmp_path}/mlflow.db")
    done = journey_after_a_kill(tmp_path, root, logs, *told)
    ours = assert_equals_one_on_a_disk(root, tmp_path)
    output = download(bucket / "output", tmp_path / "output")
    summary = json.loads((output / "summary.json").read_bytes())
    assert summary["ranker"] and (output / "report" / "index.html").read_bytes().startswith(b"<!doctype html")
    assert f"report     {bucket}/output/report/index.html" in done.out
    written = b"".join(file.read_bytes() for file in output.rglob("*") if file.is_file())
    assert SECRET.encode() not in written + done.err.encode() + done.out.encode()
    assert not [file for file in ours.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
