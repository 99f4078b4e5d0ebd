"""Executors of another process, and a package without a checkout around it, on every fifth customer's lines."""

import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from learn_spark.config.load import load_config
from learn_spark.pipeline import STEPS
from tests.builders.commands import CONFIG, ROOT, environment, run_here, run_job
from tests.builders.journey import LEARNED, assert_equal_tables, thinned_logs
from tests.builders.reading import relation

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make package` builds, without a checkout around it."""
    folder = tmp_path_factory.mktemp("package")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, env=environment(), capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel.rename(folder / "learn_spark.zip")


def test_cluster_and_local_run_make_equal_tables(spark: SparkSession, zipped: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    quick = load_config(CONFIG).spark.conf["spark.driver.extraJavaOptions"]  # too late once spark-submit has a JVM
    cluster = ("--master", "local-cluster[2,1,1024]", "--driver-java-options", quick)
    launcher = ("spark-submit", *cluster, "--py-files", str(zipped))
    what = ("--steps", ",".join(name for name in STEPS if name != "evaluate_features"))  # writes no table
    what += ("--set", f"ingest.path={thinned_logs(tmp_path / 'logs')}", "--set", "towers.train.batch_size=8")
    done = run_job(tmp_path, str(ROOT / "jobs" / "run_pipeline.py"), *what, launcher=launcher, cwd=elsewhere)
    assert done.code == 0, done.err[-5000:]
    local = run_here(tmp_path / "local", "run_pipeline", *what)
    assert local.code == 0, local.err[-5000:]
    ours, theirs = tmp_path / "local" / "lake", tmp_path / "lake"
    assert_equal_tables(theirs, ours)
    for name in LEARNED:
        assert relation(theirs, name).count("*").fetchall() == relation(ours, name).count("*").fetchall(), name
