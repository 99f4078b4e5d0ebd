"""Assertions for every kind of store: about its files, and about a whole journey with lake and logs in the store."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from learn_spark.lake.lease import living_holder
from learn_spark.storage import Location, move, size_of, write_whole
from tests.builders.commands import Done, as_settings, kill_job, run_job
from tests.builders.journey import assert_equal_tables, assert_equal_vectors, current_parts, finished_journey
from tests.builders.transfer import download


def assert_files_come_and_go(folder: Location, name: str) -> None:
    """Asserts that a file of any name can be written, rewritten, listed and removed; `folder` must be new."""
    file = folder / "folder" / name
    assert not file.exists() and not folder.glob("*") and not folder.matching("**")
    write_whole(file, "one")
    write_whole(file, "other")
    write_whole(folder / "folder/below/x.json", b"x")
    assert (file.read_text(), size_of(file), file.is_file(), file.parent.is_dir()) == ("other", 5, True, True)
    assert [place.name for place in file.parent.glob("*.json")] == [name]
    assert list(folder.matching("**/*.json")) == [f"folder/{name}", "folder/below/x.json"]
    before = file.entry().tag
    write_whole(file, "OTHER")
    assert file.entry().tag != before
    assert [place.name for place in file.parent.glob("*")] == [name, "below"], "no file is left half made"
    file.unlink()
    file.unlink(missing_ok=True)
    assert not file.exists()
    move(folder / "folder", folder / "aside" / "moved")
    assert (folder / "aside/moved/below/x.json").read_bytes() == b"x"
    assert not (folder / "folder").exists()
    folder.remove()
    assert not folder.exists()
    folder.remove()


def assert_one_of_many_creates(folder: Location) -> None:
    """Asserts that of many threads that create a file at once, one succeeds and its content is stored."""
    at_once = Barrier(8)

    def create(number: int) -> bool:
        at_once.wait()
        try:
            (folder / "epoch").create(str(number).encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert (folder / "epoch").read_text() == str(won.index(True))


def assert_a_large_file_comes_back(folder: Location, local: Path) -> None:
    """Asserts that a large file is uploaded and downloaded unchanged, and can be read from any position."""
    content = bytes(range(256)) * 4096 * 12
    (local / "up").write_bytes(content)
    (folder / "large").send(local / "up")
    (folder / "large").fetch(local / "down")
    assert (local / "down").read_bytes() == content
    with (folder / "large").open() as file:
        file.seek(256 * 4096 * 7 + 3)
        assert file.read(5) == bytes([3, 4, 5, 6, 7])


def journey_after_a_kill(folder: Path, root: Location, logs: Location, *settings: str) -> Done:
    """Kills a journey while its towers train, resumes it, and returns how the resumed run ended.

    Args:
        folder: working folder; its subfolder `cache` must be LEARN_SPARK_CACHE.
        root, logs: locations of the lake and of its logs.
        settings: further settings, as KEY=VALUE.
    """
    told = (f"lake.root={root}", f"ingest.path={logs}", *settings)
    run = ("run_pipeline", *as_settings(*told))
    kill_job(folder, *run, when="cache/*/_artifacts/models/towers-*/spec.json")
    refused = run_job(folder, *run)
    assert (refused.code, "another run works on the lake" in refused.err) == (75, True), refused.err
    while living_holder(root):
        time.sleep(1)
    done = run_job(folder, *run)
    assert done.code == 0, done.err[-3000:]
    assert "[1/7]" not in done.err, "what was done before the kill is not done again"
    assert run_job(folder, *run).code == 99
    return done


def assert_equals_one_on_a_disk(root: Location, folder: Path) -> Path:
    """Asserts that the lake has the same tables and vectors as one on a disk; returns a local copy of it."""
    expected = finished_journey()[0] / "lake"
    ours = download(root, folder / "copy")
    assert_equal_tables(ours, expected)
    assert_equal_vectors(ours, expected)
    assert current_parts(ours) == current_parts(expected)
    return ours
