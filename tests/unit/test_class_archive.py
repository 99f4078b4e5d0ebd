"""When a new JVM may map the class archive, and the options that make it do so."""

import os
import sys
from pathlib import Path

import pytest

from learn_spark.lake import class_archive


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PySpark's folder as `make setup` leaves it."""
    folder = tmp_path / "class_archive"
    (tmp_path / "conf").mkdir()
    folder.mkdir()
    for name in ("log4j2.properties", "spark-env.sh"):
        (tmp_path / "conf" / name).touch()
    (folder / "spark.jsa").touch()
    (folder / "java_home").write_text("/opt/java\n")
    monkeypatch.setattr(class_archive, "HOME", tmp_path)
    for name, file in (("ARCHIVE", "spark.jsa"), ("JAVA_HOME", "java_home"), ("EMPTY", "conf")):
        monkeypatch.setattr(class_archive, name, folder / file)
    monkeypatch.delenv("SPARK_CONF_DIR", raising=False)
    return tmp_path


def test_settings_of_the_users_keep_their_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert class_archive.is_usable()
    (home / "conf" / "spark-defaults.conf").touch()
    assert not class_archive.is_usable()
    (home / "conf" / "spark-defaults.conf").unlink()
    monkeypatch.setenv("SPARK_CONF_DIR", "/etc/spark")
    assert not class_archive.is_usable()
    monkeypatch.delenv("SPARK_CONF_DIR")
    (home / "class_archive" / "spark.jsa").unlink()
    assert not class_archive.is_usable()


def test_the_drivers_own_java_options_stay(home: Path) -> None:
    key = "spark.driver.extraJavaOptions"
    given = class_archive.with_archive({key: "-XX:+UseSerialGC", "spark.ui.enabled": "false"})
    assert given[key].startswith(f"-XX:+UseSerialGC -XX:SharedArchiveFile={home}/class_archive/spark.jsa ")
    assert f"-Dlog4j2.configurationFile=file://{home}/conf/log4j2.properties" in given[key]
    assert given["spark.ui.enabled"] == "false"
    assert class_archive.with_archive({})[key].startswith("-XX:SharedArchiveFile=")


def test_the_environment_is_as_before_once_the_jvm_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with class_archive.without_conf():
        assert os.environ["JAVA_HOME"] == "/opt/java"
        assert os.environ["SPARK_CONF_DIR"] == f"{home}/class_archive/conf"
    assert "SPARK_CONF_DIR" not in os.environ
    assert "JAVA_HOME" not in os.environ
    monkeypatch.setenv("JAVA_HOME", "/usr/lib/jvm/mine")
    with class_archive.without_conf():
        assert os.environ["JAVA_HOME"] == "/usr/lib/jvm/mine"
    assert os.environ["JAVA_HOME"] == "/usr/lib/jvm/mine"


def test_make_setup_has_made_the_archive() -> None:
    """`make setup` does not fail without a complete archive, so nobody would notice that every start is slower."""
    log = Path(sys.prefix, "classes.log")
    if not log.is_file():
        pytest.skip("no environment that `make setup` made")
    assert class_archive.ARCHIVE.is_file() and "Traceback" not in log.read_text(), log.read_text()[-3000:]
