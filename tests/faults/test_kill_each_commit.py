"""A real kill between every pair of commits of docs/reliability.md: the same command ends in equal tables."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.commands import run_here
from tests.builders.journey import assert_equal_lakes
from tests.builders.kills import commits_of, kill_after
from tests.builders.reading import rows

pytestmark = [pytest.mark.faults, pytest.mark.e2e]

NIGHTS = ("run_backfill", "--start", "2011-11-27", "--end", "2011-11-29")
NEXT = ("run_backfill", "--start", "2011-11-29", "--end", "2011-11-30")
PLAIN = ("interactions", "rejects", "items", "item_index", "user_history", "sequences", "samples")


@dataclass(frozen=True)
class Story:
    """A command that is killed after each of its commits, and what has to hold when it was run again.

    Attributes:
        command: the killed one.
        then: what follows it, killed or not.
        again: what finishes it; by default the same command.
    """

    command: tuple[str, ...]
    then: tuple[tuple[str, ...], ...] = ()
    again: tuple[str, ...] | None = None

    def try_each(self, before: Path, folder: Path) -> list[str]:
        """Kills it after each commit; returns the tables that it commits to, in order."""
        whole = Path(shutil.copytree(before, folder / "whole"))
        commits = commits_of(whole, *self.command)
        for command in self.then:
            assert run_here(whole, *command).code in (0, 99)
        for number in range(1, len(commits) + 1):
            killed = Path(shutil.copytree(before, folder / "killed"))
            assert kill_after(killed, number, *self.command) == commits[:number]
            for command in (self.again or self.command, *self.then):
                done = run_here(killed, *command)
                assert done.code in (0, 99), (number, commits[number - 1], done.err[-3000:])
            when = f"killed after commit {number} of {len(commits)}, to {commits[number - 1]}"
            assert_equal_lakes(killed / "lake", whole / "lake", when)
            shutil.rmtree(killed)
        return commits


def test_a_night(finished: Path, tmp_path: Path, spark: SparkSession) -> None:
    commits = Story(NIGHTS, then=(NEXT,)).try_each(finished, tmp_path)
    assert {"item_index", "interactions", "user_history", "item_life", "user_features", "releases"} <= set(commits)


def test_a_rollback(night: Path, tmp_path: Path, spark: SparkSession) -> None:
    """After the first commit the release may still be there, or go by the same command; nights go on either way."""
    commits = Story(("release", "rollback"), again=NIGHTS, then=(NEXT,)).try_each(night, tmp_path)
    assert commits == ["intervals", "releases"]


def test_upkeep(night: Path, tmp_path: Path, spark: SparkSession) -> None:
    command = ("maintain_tables", "--set", "releases.keep_releases=1")
    commits = Story(command, then=(NEXT,)).try_each(night, tmp_path)
    assert "releases" in commits


def test_a_restatement_that_is_given_up(finished: Path, tmp_path: Path, spark: SparkSession) -> None:
    """Killed between its rows and its ledger row, and never finished: the config of before makes its own rows again."""
    restated = ("run_pipeline", "--steps", "build_sequences", "--restate", "--set", "sequences.history_length=10")
    whole = Path(shutil.copytree(finished, tmp_path / "whole"))
    commits = commits_of(whole, *restated)
    for number in range(1, len(commits)):
        killed = Path(shutil.copytree(finished, tmp_path / "killed"))
        kill_after(killed, number, *restated)
        done = run_here(killed, "run_pipeline", "--steps", "build_sequences", "--restate")
        assert done.code in (0, 99), done.err[-3000:]
        for name in PLAIN:
            assert rows(killed / "lake", name) == rows(finished / "lake", name), (number, commits[number - 1], name)
        shutil.rmtree(killed)


def test_a_repair(night: Path, tmp_path: Path, spark: SparkSession) -> None:
    """Of lost numbers, histories and feature rows at once."""
    hurt = Path(shutil.copytree(night, tmp_path / "hurt"))
    for pattern in ("item_index/*.parquet", "user_history/ds=2011-11-28/*.parquet", "user_features/ds=2011-11-28/*"):
        for file in (hurt / "lake").glob(pattern):
            file.unlink()
    for model in (hurt / "lake" / "_artifacts" / "models").glob("towers-*/model.safetensors"):
        model.unlink()
    commits = Story(("repair",), then=(NEXT,)).try_each(hurt, tmp_path)
    assert {"intervals", "releases", "user_history", "user_features"} <= set(commits)
