"""Sessions made by other code, and settings that no session of this project has."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import learn_spark as ls
from learn_spark.config.load import Config
from learn_spark.config.sections import SparkSettings
from learn_spark.config.session_rules import changes_rows, refusal
from learn_spark.errors import ConfigError
from learn_spark.lake import class_archive
from learn_spark.lake.session import _settings

pytestmark = pytest.mark.spark


@pytest.mark.parametrize(
    ("key", "value", "way_out"),
    [
        ("spark.sql.session.timeZone", "Asia/Shanghai", 'spark.conf.set("spark.sql.session.timeZone", "UTC")'),
        ("spark.sql.ansi.enabled", "false", 'spark.conf.set("spark.sql.ansi.enabled", "true")'),
        ("spark.sql.caseSensitive", "true", 'spark.conf.unset("spark.sql.caseSensitive")'),
        ("spark.sql.parquet.int96RebaseModeInRead", "LEGACY", "spark.conf.unset("),
    ],
)
def test_a_session_that_gives_other_rows_is_refused_with_the_way_out(
    spark: SparkSession, key: str, value: str, way_out: str
) -> None:
    other = spark.newSession()
    for name in ("spark.sql.session.timeZone", "spark.sql.ansi.enabled"):
        other.conf.set(name, spark.conf.get(name))
    events = other.createDataFrame(
        [("a", "b", datetime(2024, 5, 1, tzinfo=UTC))], "user_id string, item_id string, event_ts timestamp"
    )
    other.conf.set(key, value)
    for use in (lambda: ls.open_lake(other, "/nowhere"), lambda: ls.build_sequences(events, ["2024-05-02"])):
        with pytest.raises(ConfigError, match="other rows") as caught:
            use()
        assert way_out in str(caught.value)
    with pytest.raises(ConfigError, match=r"conf sets spark\.sql\."):
        ls.session({key: value})
    exec(way_out if way_out.endswith(")") else f'spark.conf.unset("{key}")', {"spark": other})
    ls.build_sequences(events, ["2024-05-02"])


def test_the_jvm_has_mapped_the_archive_of_its_classes(spark: SparkSession) -> None:
    """`make setup` makes the archive; without it, each command starts seconds later."""
    process = spark.sparkContext._gateway.proc
    assert str(class_archive.ARCHIVE) in Path(f"/proc/{process.pid}/maps").read_text()


def test_spark_has_no_setting_that_nobody_has_looked_at(spark: SparkSession) -> None:
    """Settings that can only change speed are listed by name or prefix; checks some settings of both kinds."""
    entries = getattr(getattr(spark._jvm.org.apache.spark.sql.internal, "SQLConf$"), "MODULE$").getConfigEntries()
    keys = set()
    iterator = entries.iterator()
    while iterator.hasNext():
        keys.add(iterator.next().key())
    assert len(keys) > 500
    legacy = {key for key in keys if ".legacy." in key or "rebase" in key.lower() or "timestamp" in key.lower()}
    assert len(legacy) > 90
    allowed = {key for key in legacy if not changes_rows(key)}
    assert all(
        key.startswith(("spark.sql.hive.", "spark.sql.parquet.filterPushdown.", "spark.sql.streaming."))
        for key in allowed
    ), allowed
    assert {key for key in keys if key.startswith(("spark.sql.adaptive.", "spark.sql.codegen."))}.isdisjoint(
        {key for key in keys if changes_rows(key)}
    )


def test_what_we_set_ourselves_is_refused_in_a_config() -> None:
    settings = _settings(Config())
    assert len(settings) > 12
    assert [key for key in settings if refusal(key) is None] == []
    for key in settings:
        with pytest.raises(ValueError, match="conf sets"):
            SparkSettings(conf={key: "1"})


@pytest.mark.process
def test_what_the_jvm_says_is_kept_and_nothing_of_it_reaches_the_terminal() -> None:
    code = """
import subprocess
from learn_spark.lake.session import _quiet_start, said_by_jvm
with _quiet_start():
    jvm = subprocess.Popen("read line; echo deleted a file; echo an error >&2", shell=True, stdin=subprocess.PIPE)
jvm.communicate(b"go\\n")
print("ours", sorted(said_by_jvm().split("\\n")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ours ['', 'an error', 'deleted a file']\n"
    assert done.stderr == ""
