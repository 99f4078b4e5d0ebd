"""A real kill between every pair of commits of docs/reliability.md: the same command then ends in equal tables.

A command is killed after its first commit, run again, killed after its second, and so on. So one chain of runs covers
every gap, and each run begins with the state that a killed one left. `FAULTS_ALL=1` also tries what is left out by
default: further compactions, which are all alike, and the other commits of a restatement.
"""

import os
import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.commands import run_here
from tests.builders.journey import assert_equal_lakes, finished_journey
from tests.builders.kills import COMMITS, commits_of, kill_after, kill_after_each
from tests.builders.reading import rows
from tests.faults.conftest import NEXT, NIGHTS

pytestmark = [pytest.mark.faults, pytest.mark.e2e]

ALL = os.environ.get("FAULTS_ALL") == "1"
PLAIN = ("interactions", "rejects", "items", "item_index", "user_history", "sequences", "samples")


def ends(folder: Path, *command: str) -> None:
    done = run_here(folder, *command)
    assert done.code in (0, 99), (command, done.err[-3000:])


def assert_goes_on(folder: Path, night: Path, next_night: Path) -> None:
    """Asserts that the lake equals that of undisturbed nights, also after the next night."""
    assert_equal_lakes(folder / "lake", night / "lake", "killed")
    ends(folder, *NEXT)
    assert_equal_lakes(folder / "lake", next_night / "lake", "a night later")


def test_nights(night: Path, next_night: Path, tmp_path: Path, spark: SparkSession) -> None:
    lake = Path(shutil.copytree(finished_journey()[0], tmp_path / "lake"))
    commits = (night / COMMITS).read_text().split()
    assert {"item_index", "interactions", "user_history", "item_life", "user_features", "releases"} <= set(commits)
    kill_after_each(lake, commits, *NIGHTS)
    ends(lake, *NIGHTS)
    assert_goes_on(lake, night, next_night)


def test_a_rollback_and_upkeep(night: Path, next_night: Path, tmp_path: Path, spark: SparkSession) -> None:
    """Kills a rollback, and then upkeep, after each commit; the nights' command makes the release again."""
    lake = Path(shutil.copytree(night, tmp_path / "lake"))
    kill_after(lake, ["intervals"], "release", "rollback")
    ends(lake, *NIGHTS)
    assert_equal_lakes(lake / "lake", night / "lake", "killed before the release was withdrawn")
    kill_after(lake, ["intervals", "releases"], "release", "rollback")
    upkeep = ("maintain_tables", "--set", "releases.keep_releases=1")
    gone = ("releases", "user_features", "item_features")  # the withdrawn release expires and its rows are deleted
    first, *others = commits_of(Path(shutil.copytree(lake, tmp_path / "whole")), *upkeep)[len(gone) :]
    compacted = others if ALL else [others[len(others) // 2], others[-1]]
    kill_after_each(lake, [*gone, first, *compacted], *upkeep)
    ends(lake, *upkeep)
    ends(lake, *NIGHTS)
    assert_goes_on(lake, night, next_night)


def test_a_restatement_that_is_given_up(tmp_path: Path, spark: SparkSession) -> None:
    """It is killed between its commits and never finished: a run with the old config makes the old rows again."""
    command = ("run_pipeline", "--steps", "build_sequences", "--restate")
    other = (*command, "--set", "sequences.history_length=10")
    whole = finished_journey()[0]
    lake = Path(shutil.copytree(whole, tmp_path / "lake"))
    before = {name: rows(lake / "lake", name) for name in PLAIN}
    commits = commits_of(Path(shutil.copytree(whole, tmp_path / "other")), *other)
    for number in range(1, len(commits)) if ALL else range(2, len(commits), 2):
        kill_after(lake, commits[:number], *other)
        ends(lake, *command)
        for name in PLAIN:
            assert rows(lake / "lake", name) == before[name], (commits[:number], name)


def test_a_repair(night: Path, next_night: Path, tmp_path: Path, spark: SparkSession) -> None:
    """Repairs lost item numbers, histories, feature rows and towers at once."""
    lake = Path(shutil.copytree(night, tmp_path / "lake"))
    for pattern in ("item_index/*.parquet", "user_history/ds=2011-11-28/*.parquet", "user_features/ds=2011-11-28/*"):
        for file in (lake / "lake").glob(pattern):
            file.unlink()
    for model in (lake / "lake" / "_artifacts" / "models").glob("towers-*/model.safetensors"):
        model.unlink()
    cleared = ("intervals", "releases", "item_index", "user_history", "user_features")
    made_again = ("user_history", "intervals", "intervals", "item_life", "user_features", "item_features")
    kill_after_each(lake, [*cleared, *made_again, "releases", "intervals"], "repair")
    ends(lake, "repair")
    assert_goes_on(lake, night, next_night)
