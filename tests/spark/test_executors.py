"""A training of two ranks on the executors of a real small cluster, in a driver process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.process import end_session
from tests.builders.commands import wait_for_lines
from tests.builders.tensors import random_vectors, sequences_table, write_matrix, write_snapshot

pytestmark = [pytest.mark.spark, pytest.mark.e2e, pytest.mark.long]

DRIVER = """
import json, sys
from pathlib import Path
from learn_spark.config.load import load_config
from learn_spark.errors import LearnError
from learn_spark.lake.session import build_session
from learn_spark.config.model_sections import Launch
from learn_spark.bridge.launch import run_trainer
from models.contract.training_specs import TowersSpec

folder, conf = Path(sys.argv[1]), sys.argv[2]
master = "spark.master=local-cluster[2,1,1024]"
spark = build_session(load_config(conf, [master, f"lake.root={folder}/lake", f"output.dir={folder}/out"]), "test")
spec, launch = json.loads((folder / "spec.json").read_text()), Launch("spark", 2)
print(json.dumps(run_trainer(TowersSpec(**spec, out_dir=folder / "model"), launch, spark)))
endless = spec["train"] | {"epochs": 100_000, "patience": 100_000, "run": {"threads": 1, "log_every": 1}}
for changes, name in (({"val_snapshot": "nowhere"}, "bad"), ({"train": endless}, "lost")):
    try:
        run_trainer(TowersSpec(**spec | changes, out_dir=folder / name), launch, spark)
    except LearnError as error:
        print(type(error).__name__, " ".join(str(error).split()))
"""


def test_two_ranks_train_on_two_executors_and_one_that_is_lost_ends_the_job(tmp_path):
    write_snapshot(tmp_path / "train", sequences_table(83, 30))
    write_snapshot(tmp_path / "val", sequences_table(30, 30, seed=1))
    write_matrix(tmp_path / "matrix", random_vectors(30))
    spec = {
        "train_snapshot": str(tmp_path / "train"),
        "val_snapshot": str(tmp_path / "val"),
        "content_matrix": str(tmp_path / "matrix"),
        "towers": {"d_model": 16, "heads": 2, "layers": 1, "embedding_dim": 8, "max_len": 6},
        "train": {"batch_size": 8, "epochs": 2, "seed": 1, "run": {"threads": 1}},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    conf = Path(__file__).parents[2] / "conf" / "test.yaml"
    command = [sys.executable, "-c", DRIVER, str(tmp_path), str(conf)]
    environment = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1"}
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            cwd=tmp_path,
            start_new_session=True,
        )
    try:
        wait_for_lines(driver, tmp_path / "lost" / "metrics.jsonl", 10, seconds=600)
        ranks = ranks_below(driver.pid)
        assert sorted(ranks) == [0, 1]
        ranks[1].kill()
        said = driver.communicate(timeout=400)[0]
    except BaseException:
        end_session(driver)  # its training would not end
        raise
    assert driver.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    result, refused, lost = said.splitlines()[-3:]
    assert (json.loads(result)["steps"], json.loads(result)["samples"]) == (10, 160)
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert refused.startswith("ConfigError") and "val_snapshot: no such folder: nowhere" in refused
    assert lost.startswith(("LearnError train-towers ended with exit code 1", "LearnError train-towers: RuntimeError"))
    assert not (tmp_path / "lost" / "result.json").exists()
    assert not any(rank.is_running() for rank in ranks.values())


def ranks_below(pid):
    """The training processes of a driver by rank, from the environment that torchrun gives them."""
    found = {}
    for child in psutil.Process(pid).children(recursive=True):
        try:
            told = child.environ()
        except psutil.NoSuchProcess:  # it has just ended
            continue
        if "LOCAL_RANK" in told:
            found[int(told["RANK"])] = child
    return found
