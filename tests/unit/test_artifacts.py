"""Copies of a store's artifacts on several machines, simulated by several cache folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from learn_spark.errors import ConfigError
from learn_spark.lake import artifact_copies, artifacts
from learn_spark.lake.artifacts import Artifacts, Copy, carried
from learn_spark.storage import CACHE, Location
from tests.builders.object_store import ObjectStore, object_store  # noqa: F401 - a fixture


@pytest.fixture
def root(object_store: ObjectStore, monkeypatch) -> Location:  # noqa: F811
    monkeypatch.setattr(artifact_copies, "BLOCK_BYTES", 1000)
    return object_store.bucket() / "lake"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch):
    """A function that switches to another machine, or to a new process on the same one."""

    def start(name: str) -> None:
        for mirror in artifacts._mirrors.values():
            for lock in mirror._used.values():
                lock.close()
        artifacts._mirrors.clear()
        monkeypatch.setenv(CACHE, str(tmp_path / name))

    start("one")
    yield start
    start("none")


def write(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_local_artifacts_stay_where_they_are(tmp_path):
    local = Artifacts(tmp_path)
    assert local.path("models", "a") == tmp_path / "_artifacts" / "models" / "a"
    local.publish()
    assert carried(tmp_path / "x").here() == tmp_path / "x"
    assert not list(tmp_path.iterdir())


def test_what_one_machine_publishes_another_has(root, machine):
    made = write(Artifacts(root).path("models", "a"), weights=b"w" * 2500, config=b"{}", empty=b"")
    Artifacts(root).publish()
    machine("two")
    assert content(Artifacts(root).path("models", "a")) == content(made)
    assert [folder.name for folder in Artifacts(root).path("models").iterdir()] == ["a"]
    assert not list(Artifacts(root).path("models", "b").parent.glob("b"))


def test_nothing_is_there_before_all_of_it_is(root, machine, monkeypatch):
    write(Artifacts(root).path("models", "a"), weights=b"w" * 5000)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        write_bytes = Location.write_bytes

        def until_the_index(place: Location, written: bytes) -> None:
            if "index" in place.uri:
                raise KeyboardInterrupt
            write_bytes(place, written)

        killed.setattr(Location, "write_bytes", until_the_index)
        Artifacts(root).publish()
    machine("two")
    assert not Artifacts(root).path("models", "a").exists()


def test_a_file_that_grows_sends_and_brings_only_what_is_new(root, machine, object_store):  # noqa: F811
    folder = write(Artifacts(root).path("matrix", "m"), vectors=b"a" * 1000 + b"b" * 1000 + b"c" * 10, meta=b"1")
    Artifacts(root).publish()
    machine("two")
    theirs = Artifacts(root).path("matrix", "m")
    machine("one")
    Artifacts(root).path("matrix", "m")
    write(folder, vectors=b"a" * 1000 + b"b" * 1000 + b"c" * 1000 + b"d", meta=b"2")
    object_store.requests.clear()
    Artifacts(root).publish()
    assert sum(request.startswith("PUT") for request in object_store.requests) == 4  # c, d, meta, the index
    Artifacts(root).publish()
    assert sum(request.startswith("PUT") for request in object_store.requests) == 4
    machine("two")
    object_store.requests.clear()
    assert Artifacts(root).path("matrix", "m") == theirs
    assert content(theirs) == content(folder)
    assert sum(request.startswith("GET") for request in object_store.requests) == 4  # the index, c, d, meta


def test_who_reads_the_index_before_still_finds_its_blocks_and_older_ones_go(root, machine):
    folder, place = Artifacts(root).path("matrix", "m"), root / "_artifacts" / "matrix" / "m"
    sizes = []
    for text in (b"one", b"two", b"three", b"four"):
        write(folder, meta=text)
        Artifacts(root).publish()
        sizes.append(len(place.glob("*")))
    assert sizes == [2, 3, 3, 3]


def test_a_block_that_changed_or_is_gone_is_named(root, machine):
    write(Artifacts(root).path("models", "a"), weights=b"w" * 1500)
    Artifacts(root).publish()
    block = sorted((root / "_artifacts/models/a").glob("[0-9a-f]*"), key=lambda place: place.entry().size)[0]
    kept = block.read_bytes()
    block.write_bytes(b"x" * len(kept))
    machine("two")
    with pytest.raises(ConfigError, match=f"{block} has changed since it was written"):
        Artifacts(root).path("models", "a")
    block.unlink()
    with pytest.raises(ConfigError, match=f"{block} is gone"):
        Artifacts(root).path("models", "a")
    block.write_bytes(kept)
    assert (Artifacts(root).path("models", "a") / "weights").read_bytes() == b"w" * 1500


def test_work_that_is_not_published_stays_unless_the_store_has_gone_on(root, machine):
    folder = write(Artifacts(root).path("matrix", "m"), meta=b"1", vectors=b"v" * 1500)
    Artifacts(root).publish()
    machine("one")  # a task or reader, while a run extends the matrix
    write(folder, vectors=b"v" * 2500)
    (folder / "meta").unlink()
    assert content(Artifacts(root).path("matrix", "m")) == {"meta": b"1", "vectors": b"v" * 2500}
    Artifacts(root).publish()
    machine("two")
    theirs = Artifacts(root).path("matrix", "m")
    assert content(theirs) == content(folder)
    machine("one")
    write(folder, vectors=b"lost" * 1000)  # a run that was killed, while another machine continues
    machine("two")
    write(theirs, vectors=b"w" * 3500, meta=b"2")
    Artifacts(root).path("matrix", "m")
    Artifacts(root).publish()
    machine("one")
    assert content(Artifacts(root).path("matrix", "m")) == content(theirs)


@pytest.mark.process
def test_a_reader_that_goes_on_sees_what_is_published_meanwhile(root, machine, tmp_path):
    Artifacts(root).path("matrix", "m")
    writer = (
        "from learn_spark.lake.artifacts import *\n"
        f"a = Artifacts(Location({root.uri!r}, {dict(root.options)!r})); f = a.path('matrix', 'm')\n"
        "f.mkdir(parents=True); (f / 'meta').write_text('new'); a.publish()\n"
    )
    subprocess.run([sys.executable, "-c", writer], check=True, env=os.environ | {CACHE: f"{tmp_path}/two"})
    assert content(Artifacts(root).path("matrix", "m")) == {"meta": b"new"}


def test_a_copy_of_what_the_store_lost_goes_and_unfinished_work_stays(root, machine):
    lost = write(Artifacts(root).path("models", "lost"), weights=b"w")
    Artifacts(root).publish()
    write(Artifacts(root).path("models", "training"), checkpoint=b"c")
    (root / "_artifacts/models/lost/index.json").unlink()
    machine("one")
    assert Artifacts(root).path("models", "lost") == lost
    assert not lost.exists()
    assert (Artifacts(root).path("models", "training") / "checkpoint").read_bytes() == b"c"


def test_a_task_on_another_machine_finds_its_artifact(root, machine):
    folder = write(Artifacts(root).path("models", "a"), weights=b"w")
    Artifacts(root).publish()
    copy = carried(folder)
    assert copy == Copy(folder, root)
    machine("two")
    assert copy.here() != folder
    assert content(copy.here()) == {"weights": b"w"}


@pytest.mark.process
def test_another_process_of_the_machine_shares_the_copy_while_it_is_used(root, machine):
    folder = write(Artifacts(root).path("models", "a"), weights=b"w")
    Artifacts(root).publish()
    task = f"from learn_spark.lake.artifacts import *; print(Artifacts(Location({root.uri!r}, {dict(root.options)!r}))"
    done = subprocess.run([sys.executable, "-c", f"{task}.path('models', 'a'))"], capture_output=True, timeout=60)
    assert done.stdout.decode().strip() == str(folder), done.stderr


def test_copies_that_nobody_uses_make_room(root, machine, monkeypatch):
    for name in ("a", "b"):
        write(Artifacts(root).path("models", name), weights=b"w" * 600)
    Artifacts(root).publish()
    machine("two")
    first = Artifacts(root).path("models", "a")
    machine("two")  # the process that used it has ended
    monkeypatch.setenv(artifact_copies.CACHE_GB, "1e-6")
    second = Artifacts(root).path("models", "b")
    assert (first.exists(), second.exists()) == (False, True)


def test_a_damaged_index_is_named(root, machine):
    (root / "_artifacts/models/a/index.json").write_bytes(json.dumps({"files": 1}).encode())
    with pytest.raises(ConfigError, match=r"index\.json is damaged"):
        Artifacts(root).path("models", "a")


def test_what_has_lost_blocks_counts_as_not_made_and_can_be_made_again(root, machine):
    for name in ("whole", "gone", "changed", "cut"):
        write(Artifacts(root).path("models", name), weights=name.encode() * 700, config=b"{}")
    Artifacts(root).publish()
    place = root / "_artifacts" / "models"
    first = json.loads((place / "gone" / "index.json").read_bytes())["files"]["weights"]["blocks"][0]
    (place / "gone" / first).unlink()
    changed = json.loads((place / "changed" / "index.json").read_bytes())["files"]["weights"]["blocks"][0]
    (place / "changed" / changed).write_bytes(b"other")
    (place / "cut" / "index.json").write_bytes(b"{")
    machine("two")
    ours = Artifacts(root)
    said = {str(index).split("/")[-2]: why for index, why in ours.damage(deep=False).items()}
    assert said.keys() == {"gone", "cut"} and f"lacks 1 of 3 blocks, as {first}" in said["gone"]
    said = {str(index).split("/")[-2]: why for index, why in ours.damage(deep=True).items()}
    assert said.keys() == {"gone", "cut", "changed"} and changed in said["changed"] and "is damaged" in said["cut"]
    assert content(ours.path("models", "whole")).keys() == {"weights", "config"}
    for name in said:
        assert not ours.path("models", name).exists()
        write(ours.path("models", name), weights=name.encode() * 700, config=b"{}")
    ours.publish()
    machine("three")
    assert not Artifacts(root).damage(deep=True)
    assert content(Artifacts(root).path("models", "gone"))["weights"] == b"gone" * 700


def test_what_is_discarded_is_gone_everywhere_and_nothing_of_before_is_left(root, machine):
    ours = Artifacts(root)
    kept = write(ours.path("matrix", "m"), vectors=b"v" * 2500)
    write(ours.path("snapshots", "s"), rows=b"rows of user07")
    write(ours.path("models", "a"), weights=b"w", log=b"a log of user07")
    ours.publish()
    machine("two")
    others = Artifacts(root)
    assert (others.path("snapshots", "s") / "rows").read_bytes() == b"rows of user07"
    assert others.path("models", "a").is_dir()
    machine("one")
    ours = Artifacts(root)
    assert sorted(path.name for path in ours.path().glob("*/*/*")) == ["log", "rows", "vectors", "weights"]
    ours.discard(ours.path("snapshots", "s"))
    ours.discard(ours.path("models", "a") / "log")
    (kept / "vectors").write_bytes(b"v" * 2000 + b"0" * 500)
    (root / "_artifacts" / "models" / "a" / "left by a publish that was killed").write_bytes(b"user07")
    ours.publish()
    assert len((root / "_artifacts" / "matrix" / "m").glob("*")) == 1 + 2 + 1, "who reads may need the block of before"
    ours.cut_history()
    assert len((root / "_artifacts" / "matrix" / "m").glob("*")) == 1 + 2
    assert not any(b"user07" in (root / name).read_bytes() for name in root.matching("**"))
    for name in ("one", "two", "three"):
        machine(name)
        read = Artifacts(root)
        assert not list(read.path("snapshots").glob("*"))
        assert content(read.path("models", "a")) == {"weights": b"w"}
        assert content(read.path("matrix", "m")) == {"vectors": b"v" * 2000 + b"0" * 500}
