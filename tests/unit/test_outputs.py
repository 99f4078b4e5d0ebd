"""Reports and other outputs for people reach the store that `output.dir` names."""

from pathlib import Path

import pytest

from learn_spark.bridge.folders import written_whole
from learn_spark.cli.outputs import require_outputs, send_outputs
from learn_spark.config.load import load_config
from learn_spark.config.sections import OutputSettings
from learn_spark.errors import ConfigError, LearnError
from learn_spark.storage import Location
from tests.builders.object_store import ObjectStore, object_store  # noqa: F401 - a fixture
from tests.conftest import CONF


@pytest.fixture
def output(object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OutputSettings:  # noqa: F811
    monkeypatch.setenv("LEARN_SPARK_CACHE", str(tmp_path / "cache"))
    return OutputSettings(dir=object_store.bucket() / "a folder")


def sent(store: ObjectStore) -> list[str]:
    return [request.rpartition("/")[2] for request in store.requests if request.startswith("PUT ")]


def test_files_are_sent_once_and_the_summary_last(output, object_store):  # noqa: F811
    require_outputs(output)
    for name in ("summary.json", "report/index.html", "logs/a.log", ".half"):
        (output.folder / name).parent.mkdir(exist_ok=True)
        (output.folder / name).write_text(name)
    object_store.requests.clear()
    send_outputs(output)
    assert sent(object_store) == ["a.log", "index.html", "summary.json"]
    assert (output.dir / "report" / "index.html").read_text() == "report/index.html"
    assert set(output.dir.matching("**")) == {"summary.json", "report/index.html", "logs/a.log"}
    object_store.requests.clear()
    (output.folder / "summary.json").write_text("other")
    send_outputs(output)
    assert sent(object_store) == ["summary.json"]


def test_nothing_is_sent_for_a_local_folder_or_before_anything_is_written(tmp_path, output, object_store):  # noqa: F811
    object_store.requests.clear()
    send_outputs(OutputSettings(dir=tmp_path))
    send_outputs(output)
    assert sent(object_store) == []
    assert OutputSettings(dir=tmp_path).folder == tmp_path


def test_a_store_that_refuses_is_said_before_the_work_and_what_was_not_sent_goes_next_time(
    output: OutputSettings,
    object_store: ObjectStore,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = ("403 Forbidden", "AccessDenied", "no")
    with monkeypatch.context() as during:
        during.setattr(object_store, "refuse", lambda request: told if request["REQUEST_METHOD"] == "PUT" else None)
        with pytest.raises(ConfigError, match="s3a://.*a folder.*the store refuses access"):
            require_outputs(output)
        (output.folder / "summary.json").write_text("{}")
        with pytest.raises(LearnError, match="summary.json: the store refuses access"):
            send_outputs(output)
    send_outputs(output)
    assert (output.dir / "summary.json").read_text() == "{}"


def test_mlflow_needs_a_server_where_no_sqlite_file_can_lie():
    stored = ["output.dir=s3a://bucket/output", "lake.options.key=AKIAFORTHISTEST"]
    with pytest.raises(ConfigError, match=r"output\.dir is s3a://bucket/output, .* mlflow\.tracking_uri"):
        load_config(CONF / "test.yaml", stored)
    config = load_config(CONF / "test.yaml", [*stored, "mlflow.tracking_uri=http://mlflow:5000"])
    assert isinstance(config.output.dir, Location) and config.output.dir.options["key"] == "AKIAFORTHISTEST"
    assert config.output.folder.is_absolute()


def test_an_export_to_a_store_is_there_as_a_whole_or_not_at_all(
    output: OutputSettings,
    object_store: ObjectStore,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    assert isinstance(output.dir, Location)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    out = output.dir / "export"

    def fill(folder: Path) -> None:
        for name in ("spec.json", "result.json", "vectors.bin", "pyfunc/MLmodel"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)

    refused = pytest.MonkeyPatch()
    with pytest.raises(ConfigError, match="the store refuses access"), written_whole(out) as folder:
        fill(folder)
        told = ("403 Forbidden", "AccessDenied", "no")
        is_last = lambda request: request["REQUEST_METHOD"] == "PUT" and "vectors" in request["PATH_INFO"]  # noqa: E731
        refused.setattr(object_store, "refuse", lambda request: told if is_last(request) else None)
    refused.undo()
    assert not out.exists() and not list(tmp_path.glob(".export*"))
    object_store.requests.clear()
    with written_whole(out) as folder:
        fill(folder)
    assert sent(object_store) == ["MLmodel", "vectors.bin", "result.json"]
    assert set(out.matching("**")) == {"result.json", "vectors.bin", "pyfunc/MLmodel"}
    assert not list(tmp_path.glob(".export*"))
    with pytest.raises(ConfigError, match="--out s3a://.*/export is there already"), written_whole(out):
        pass
