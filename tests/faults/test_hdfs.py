"""A real NameNode: places in it, and a whole journey whose lake and logs lie there, with a kill -9 in the middle."""

import getpass
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from learn_spark.errors import ConfigError, TemporaryError
from learn_spark.lake.lease import living_holder
from learn_spark.storage import Location, place_of, size_of, write_whole
from tests.builders.commands import ROOT, kill_job, run_job
from tests.builders.hdfs import hdfs, hdfs_folder  # noqa: F401 - fixtures
from tests.builders.journey import assert_equal_tables, assert_equal_vectors, current_parts, finished_journey
from tests.builders.transfer import download, upload

pytestmark = [pytest.mark.spark, pytest.mark.process]

ONE_TRY = {"dfs.client.failover.max.attempts": "1"}


def test_a_file_is_written_read_listed_and_gone(hdfs_folder: Location) -> None:  # noqa: F811
    file = hdfs_folder / "folder" / "a b%2Bü;x=1.json"
    assert not file.exists() and not hdfs_folder.glob("*") and not hdfs_folder.matching("**")
    write_whole(file, "one")
    write_whole(file, "other")
    write_whole(hdfs_folder / "folder/below/x.json", b"x")
    assert (file.read_text(), size_of(file), file.is_file(), file.parent.is_dir()) == ("other", 5, True, True)
    assert [place.name for place in file.parent.glob("*.json")] == [file.name]
    assert list(hdfs_folder.matching("**/*.json")) == [f"folder/{file.name}", "folder/below/x.json"]
    before = file.entry().tag
    write_whole(file, "OTHER")
    assert file.entry().tag != before
    assert [place.name for place in file.parent.glob("*")] == [file.name, "below"], "no file is left half made"
    file.unlink()
    file.unlink(missing_ok=True)
    hdfs_folder.remove()
    assert not hdfs_folder.exists()
    hdfs_folder.remove()


def test_of_many_who_create_a_file_at_once_one_succeeds(hdfs_folder: Location) -> None:  # noqa: F811
    at_once = Barrier(8)

    def create(number: int) -> bool:
        at_once.wait()
        try:
            (hdfs_folder / "epoch").create(str(number).encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert (hdfs_folder / "epoch").read_text() == str(won.index(True))


def test_a_large_file_goes_up_and_down_unchanged(hdfs_folder: Location, tmp_path: Path) -> None:  # noqa: F811
    content = bytes(range(256)) * 4096 * 12
    (tmp_path / "up").write_bytes(content)
    (hdfs_folder / "large").send(tmp_path / "up")
    (hdfs_folder / "large").fetch(tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == content
    with (hdfs_folder / "large").open() as file:
        file.seek(256 * 4096 * 7 + 3)
        assert file.read(5) == bytes([3, 4, 5, 6, 7])


def test_what_is_wrong_is_one_line(hdfs: Location, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    with pytest.raises(TemporaryError, match=r"hdfs://127\.0\.0\.1:9/x: .*try again later"):
        (Location("hdfs://127.0.0.1:9", ONE_TRY) / "x").read_bytes()
    monkeypatch.setenv("HADOOP_CONF_DIR", "/nonexistent")
    for text in ("hdfs://nobody-knows-it/x", "hdfs:///x"):
        with pytest.raises(ConfigError, match="name the NameNode and its port, or set HADOOP_CONF_DIR") as raised:
            place_of(text).exists()
        assert "\n" not in str(raised.value)
    monkeypatch.setenv("HADOOP_USER_NAME", "somebody-else")
    foreign = Location(hdfs.uri, {"a.setting": "that makes another client"})
    with pytest.raises(ConfigError, match="HDFS refuses access: .*somebody-else.*HADOOP_USER_NAME") as raised:
        (foreign / "x").write_bytes(b"")
    assert "FSPermissionChecker" not in str(raised.value)


def test_a_process_that_is_forked_can_start_another_program(hdfs_folder: Location) -> None:  # noqa: F811
    (hdfs_folder / "x").write_bytes(b"x")
    subprocess.run(["true"], preexec_fn=lambda: None, timeout=30, check=True)  # as pyspark starts its JVM
    assert (hdfs_folder / "x").read_bytes() == b"x"


def test_a_journey_in_hdfs_equals_one_on_a_disk_also_when_it_is_killed(
    hdfs_folder: Location,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEARN_SPARK_CACHE", f"{tmp_path}/cache")
    monkeypatch.setenv("HADOOP_USER_NAME", getpass.getuser())
    root, logs = hdfs_folder / "lake", upload(ROOT / "data" / "online_retail", hdfs_folder / "logs")
    run = ("run_pipeline", "--set", f"lake.root={root}", "--set", f"ingest.path={logs}")

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
