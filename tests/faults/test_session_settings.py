"""Settings from spark-submit that would change rows have no effect, and neither has the working directory."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.commands import ROOT, run_here, run_job
from tests.builders.hostile import hostile_folder, ran
from tests.builders.journey import thinned_logs
from tests.builders.reading import rows

pytestmark = pytest.mark.e2e

HOSTILE = {
    "spark.sql.session.timeZone": "Asia/Shanghai",
    "spark.sql.ansi.enabled": "false",
    "spark.sql.caseSensitive": "true",
    "spark.sql.legacy.timeParserPolicy": "LEGACY",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
    "spark.sql.parquet.outputTimestampType": "INT96",
}


def test_rows_are_equal_whatever_spark_submit_says(spark: SparkSession, tmp_path: Path) -> None:
    logs = thinned_logs(tmp_path / "logs")
    command = ("--start", "2011-11-01", "--end", "2011-11-04", "--set", f"ingest.path={logs}")
    given = [part for key, value in HOSTILE.items() for part in ("--conf", f"{key}={value}")]
    launcher = ("spark-submit", "--master", "local[2]", *given, str(ROOT / "jobs" / "ingest_events.py"))
    cwd = hostile_folder(tmp_path / "cwd")
    done = run_job(tmp_path, *command, launcher=launcher, cwd=cwd)
    assert done.code == 0, done.err
    assert (
        "warning: spark.sql.caseSensitive of spark-defaults.conf or --conf has no effect" in done.out
    )  # spark-submit joins them
    assert ran(cwd) == []
    assert run_here(tmp_path / "plain", "ingest_events", *command).code == 0
    for name in ("interactions", "rejects", "items"):
        assert rows(tmp_path / "lake", name) == rows(tmp_path / "plain" / "lake", name), name
