"""A machine whose clock is set back between two nights: the later release still counts as the newer one."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest
from pyspark.sql import SparkSession

from tests.builders.commands import run_here
from tests.builders.journey import assert_equal_lakes
from tests.faults.conftest import NEXT

pytestmark = [pytest.mark.faults, pytest.mark.e2e]


def test_time_goes_on_where_the_clock_does_not(
    night: Path, next_night: Path, tmp_path: Path, spark: SparkSession
) -> None:
    lake = Path(shutil.copytree(night, tmp_path / "lake"))
    with patch("learn_spark.lake.clock.now", lambda: datetime(2020, 1, 1, tzinfo=UTC)):
        assert run_here(lake, *NEXT).code == 0
        assert_equal_lakes(lake / "lake", next_night / "lake", "a night in the past")
        current, *before = run_here(lake, "release", "list").summary["releases"]
        assert current["status"] == "published" and len(before) == 2
        shutil.rmtree(lake / "lake" / "user_history")
        assert run_here(lake, "repair").code == 0
        assert run_here(lake, *NEXT).code == 99, "the table that was made anew is not taken for an old copy"
        assert_equal_lakes(lake / "lake", next_night / "lake", "repaired in the past")
        assert run_here(lake, "release", "rollback").summary["withdrawn"] == [current["release"]]
