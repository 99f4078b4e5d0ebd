"""A real NameNode: locations on HDFS, and a whole journey with lake and logs there and a kill -9 in the middle."""

import getpass
import subprocess
from pathlib import Path

import pytest

from learn_spark.errors import ConfigError, TemporaryError
from learn_spark.storage import Location, place_of
from tests.builders.commands import ROOT
from tests.builders.hdfs import hdfs, hdfs_folder  # noqa: F401 - fixtures
from tests.builders.stores import (
    assert_a_large_file_comes_back,
    assert_equals_one_on_a_disk,
    assert_files_come_and_go,
    assert_one_of_many_creates,
    journey_after_a_kill,
)
from tests.builders.transfer import upload

pytestmark = [pytest.mark.spark, pytest.mark.process]

ONE_TRY = {"dfs.client.failover.max.attempts": "1"}


def test_a_file_is_written_read_listed_and_gone(hdfs_folder: Location) -> None:  # noqa: F811
    assert_files_come_and_go(hdfs_folder, "a b%2Bü;x=1.json")


def test_of_many_who_create_a_file_at_once_one_succeeds(hdfs_folder: Location) -> None:  # noqa: F811
    assert_one_of_many_creates(hdfs_folder)


def test_a_large_file_goes_up_and_down_unchanged(hdfs_folder: Location, tmp_path: Path) -> None:  # noqa: F811
    assert_a_large_file_comes_back(hdfs_folder, tmp_path)


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
    journey_after_a_kill(tmp_path, root, logs)
    assert_equals_one_on_a_disk(root, tmp_path)
