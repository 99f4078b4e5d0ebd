"""Executors in other processes, with a package instead of a checkout, make the same lake as the local journey."""

from pathlib import Path

import pytest

from learn_spark.config.load import load_config
from learn_spark.pipeline import STEPS
from tests.builders.commands import CONFIG, ROOT, run_job
from tests.builders.journey import LEARNED, assert_equal_tables, finished_journey
from tests.builders.reading import relation
from tests.builders.wheel import zipped  # noqa: F401 - a fixture

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_cluster_and_local_run_make_equal_tables(zipped: Path, tmp_path: Path) -> None:  # noqa: F811
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    quick = load_config(CONFIG).spark.conf["spark.driver.extraJavaOptions"]  # too late once spark-submit has a JVM
    cluster = ("--master", "local-cluster[2,1,1024]", "--driver-java-options", quick)
    launcher = ("spark-submit", *cluster, "--py-files", str(zipped))
    what = ("--steps", ",".join(name for name in STEPS if name != "evaluate_features"))  # writes no table
    done = run_job(tmp_path, str(ROOT / "jobs" / "run_pipeline.py"), *what, launcher=launcher, cwd=elsewhere)
    assert done.code == 0, done.err[-5000:]
    ours, theirs = finished_journey()[0] / "lake", tmp_path / "lake"
    assert_equal_tables(theirs, ours)
    for name in LEARNED:
        assert relation(theirs, name).count("*").fetchall() == relation(ours, name).count("*").fetchall(), name
