"""Runs that are really killed, on the shipped lines of every fifth customer."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.commands import kill_job, run_here, run_job
from tests.builders.journey import thinned_logs
from tests.builders.reading import rows, versions

pytestmark = pytest.mark.e2e

KILLS = (
    "lake/interactions/ds=*/*.parquet",  # data files without a commit
    "lake/interactions/_delta_log/*1.json",  # a commit that the ledger does not have
    "lake/user_history/ds=*/*.parquet",  # in the middle of the second step
)


def test_a_run_killed_three_times_is_finished_by_the_same_command(spark: SparkSession, tmp_path: Path) -> None:
    command = ("run_pipeline", "--steps", "ingest_events,build_sequences")
    command += ("--set", f"ingest.path={thinned_logs(tmp_path / 'logs')}")
    for when in KILLS:
        kill_job(tmp_path, *command, when=when)
        assert versions(tmp_path / "lake")["intervals"] == ("user_history" in when)
    done = run_job(tmp_path, *command)
    assert done.code == 0, done.err[-3000:]
    assert run_here(tmp_path / "unhurt", *command).code == 0
    for name in ("interactions", "rejects", "items", "item_index", "sequences", "user_history", "samples"):
        assert rows(tmp_path / "lake", name) == rows(tmp_path / "unhurt" / "lake", name), name
    assert run_here(tmp_path, *command).code == 99
