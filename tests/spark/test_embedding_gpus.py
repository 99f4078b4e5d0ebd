"""GPU scheduling by Spark itself, on a local cluster with made-up addresses; no GPU computes anything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from learn_spark.config.load import load_config
from learn_spark.embedding.gpus import encoding_profile
from learn_spark.errors import ConfigError
from tests.builders.commands import CONFIG, ROOT, environment
from tests.builders.encoders import save_tiny_llama
from tests.builders.items import with_embedding

pytestmark = pytest.mark.spark


@pytest.mark.long
def test_tasks_run_where_the_addresses_say_and_share_one_only_where_asked(tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path / "llama")
    shares = ("0.5", "1.0")  # in this order, because tasks overlap while workers load the model
    done = subprocess.run(
        [sys.executable, "-m", "tests.builders.gpu_cluster", str(tmp_path), str(model), *shares],
        cwd=ROOT,
        env=environment() | {"SPARK_WORKER_DIR": str(tmp_path / "work")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    addresses = {path.name.removeprefix("gpu") for path in tmp_path.glob("gpu?")}
    assert len(addresses) == 2
    for share, found in json.loads(done.stdout.splitlines()[-1]).items():
        assert found["texts"] == 200
        assert {span["device"] for span in found["spans"]} == addresses
        assert len(found["spans"]) == 6
        most = [at_once([span for span in found["spans"] if span["device"] == address]) for address in addresses]
        assert max(most) == (1 if share == "1.0" else 2)


def at_once(spans: list[dict]) -> int:
    """The largest number of spans that overlap at any moment."""
    return max(sum(span["started"] <= other["started"] < span["ended"] for span in spans) for other in spans)


def test_share_of_gpus_that_no_executor_has_is_refused(spark: SparkSession) -> None:
    config = load_config(CONFIG)
    assert encoding_profile(spark, config) is None
    with pytest.raises(ConfigError, match=r"gpu_per_task is 0\.5, but the executors have no GPUs: set spark\.executor"):
        encoding_profile(spark, with_embedding(config, gpu_per_task=0.5))
