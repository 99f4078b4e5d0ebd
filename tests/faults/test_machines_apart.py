"""A cluster whose machines share nothing, with a package instead of a checkout, makes the local journey's lake."""

from pathlib import Path

import pytest

from learn_spark.config.load import load_config
from learn_spark.pipeline import STEPS
from tests.builders.cluster import sharing_nothing
from tests.builders.commands import CONFIG, ROOT, run_job
from tests.builders.journey import LEARNED, assert_equal_tables, finished_journey
from tests.builders.object_store import ObjectStore, object_store  # noqa: F401 - a fixture
from tests.builders.reading import relation
from tests.builders.transfer import download, upload
from tests.builders.wheel import zipped  # noqa: F401 - a fixture

pytestmark = pytest.mark.e2e


def test_machines_that_share_nothing_make_the_tables_of_one(
    object_store: ObjectStore,  # noqa: F811
    zipped: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    driver = tmp_path / "driver"
    driver.mkdir()
    bucket = object_store.bucket()
    root, logs = bucket / "lake", upload(ROOT / "data" / "online_retail", bucket / "logs")
    hidden = [driver, *(ROOT / name for name in ("learn_spark", "models", "data", "tests", "build"))]
    quick = load_config(CONFIG).spark.conf["spark.driver.extraJavaOptions"]  # too late once spark-submit has a JVM
    with sharing_nothing(tmp_path, hidden, object_store.environment) as master:
        launcher = ("spark-submit", "--master", master, "--driver-java-options", quick, "--py-files", str(zipped))
        what = ("--steps", ",".join(name for name in STEPS if name != "evaluate_features"))  # writes no table
        where = ("--set", f"lake.root={root}", "--set", f"ingest.path={logs}")
        done = run_job(
            driver,
            str(ROOT / "jobs" / "run_pipeline.py"),
            *what,
            *where,
            launcher=launcher,
            cwd=driver,
            also={**object_store.environment, "LEARN_SPARK_CACHE": f"{driver}/cache"},
        )
        assert done.code == 0, done.err[-5000:]
    ours, theirs = finished_journey()[0] / "lake", download(root, tmp_path / "copy")
    assert_equal_tables(theirs, ours)
    for name in LEARNED:
        assert relation(theirs, name).count("*").fetchall() == relation(ours, name).count("*").fetchall(), name
    copies = {path.parent.name for path in tmp_path.glob("worker-*/cache/*/_artifacts/*/*/") if path.is_dir()}
    assert {"matrix", "models"} <= copies, "the executors worked with copies of their own"
    assert not (root / "_artifacts" / "_incoming").glob("*"), "what tasks left for the driver is gone"
