"""A machine's local copy of a folder in a store."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from learn_spark.embedding.encoders import model_source
from learn_spark.errors import ConfigError
from learn_spark.lake.folder_copies import folder_copy
from learn_spark.storage import Location
from tests.builders.object_store import SECRET, ObjectStore, object_store  # noqa: F401 - a fixture


@pytest.fixture
def model(object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:  # noqa: F811
    monkeypatch.setenv("LEARN_SPARK_CACHE", str(tmp_path / "cache"))
    folder = object_store.bucket() / "models" / "a model"
    (folder / "config.json").write_bytes(b"{}")
    (folder / "1_Pooling" / "config.json").write_bytes(b"{1}")
    return folder


def downloads(store: ObjectStore) -> int:
    return sum(request.startswith("GET ") and request.endswith(".json") for request in store.requests)


def test_it_is_brought_once_for_all_processes(model, object_store):  # noqa: F811
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(lambda _: folder_copy(model), range(8)))
    (copy,) = copies
    found = {str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert found == {"config.json": b"{}", "1_Pooling/config.json": b"{1}"}
    assert downloads(object_store) == 2
    assert [path.name for path in copy.parent.iterdir() if path.name != ".lock"] == [copy.name], "nothing half made"


def test_other_content_is_another_copy(model):
    before = folder_copy(model)
    (model / "config.json").write_bytes(b"[]")
    after = folder_copy(model)
    assert (before / "config.json").read_bytes() == b"{}"
    assert (after / "config.json").read_bytes() == b"[]"


def test_what_is_no_folder_is_one_line(model):
    with pytest.raises(ConfigError, match="s3a://.*/nowhere is no folder with files"):
        folder_copy(model.parent / "nowhere")
    with pytest.raises(ConfigError, match=r"embedding\.model: 'gs://bucket/x' is no path, nor in a store"):
        model_source("gs://bucket/x")


def test_a_model_is_named_by_its_uri(model):
    options = dict(model.options)
    source = model_source(str(model), options)
    assert Path(source, "config.json").read_bytes() == b"{}"
    assert SECRET not in source
