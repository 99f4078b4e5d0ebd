"""The same slice by `spark-submit` from another folder, on two worker processes, from the shipped zip."""

import subprocess
import sys
from pathlib import Path

import pytest

from learn_spark.core.schemas import TABLES
from tests.builders.commands import ROOT, Done, environment, run_job
from tests.builders.reading import relation, rows

pytestmark = pytest.mark.e2e

VECTORS = {"content_embeddings": {"embedding", "norm"}}  # batches differ with the workers, and the last bits with them
LEARNED = ("user_features", "item_features", "pair_features")


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make package` builds, without a checkout around it."""
    folder = tmp_path_factory.mktemp("package")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, env=environment(), capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel.rename(folder / "learn_spark.zip")


def test_cluster_and_local_run_make_equal_tables(journey: tuple[Path, Done], zipped: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    launcher = ("spark-submit", "--master", "local-cluster[2,1,1024]", "--py-files", str(zipped))
    done = run_job(tmp_path, str(ROOT / "jobs" / "run_pipeline.py"), launcher=launcher, cwd=elsewhere)
    assert done.code == 0, done.err[-5000:]
    ours, theirs = journey[0] / "lake", tmp_path / "lake"
    for name in sorted(set(TABLES) - set(LEARNED) - {"releases", "intervals"}):
        without = frozenset(VECTORS.get(name, ()))
        assert rows(theirs, name, without) == rows(ours, name, without), name
    for name in LEARNED:
        assert relation(theirs, name).count("*").fetchall() == relation(ours, name).count("*").fetchall(), name
