"""A training of two ranks on the executors of a real small cluster, in a driver process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.tensors import random_vectors, sequences_table, write_matrix, write_snapshot

pytestmark = [pytest.mark.spark, pytest.mark.e2e]

DRIVER = """
import json, sys
from pathlib import Path
from learn_spark.core.config import load_config
from learn_spark.core.errors import ConfigError
from learn_spark.core.session import build_session
from learn_spark.core.settings import LaunchSettings
from learn_spark.training.launch import run_trainer

folder, conf = Path(sys.argv[1]), sys.argv[2]
master = "spark.master=local-cluster[2,1,1024]"
spark = build_session(load_config(conf, [master, f"lake.root={folder}/lake", f"output.dir={folder}/out"]), "test")
spec, launch = json.loads((folder / "spec.json").read_text()), LaunchSettings(mode="spark", processes=2)
print(json.dumps(run_trainer("train-towers", spec, folder / "model", launch, spark)))
try:
    run_trainer("train-towers", spec | {"colour": "red"}, folder / "bad", launch, spark)
except ConfigError as error:
    print(error)
"""


def test_two_ranks_train_on_two_executors(tmp_path):
    write_snapshot(tmp_path / "train", sequences_table(83, 30))
    write_snapshot(tmp_path / "val", sequences_table(30, 30, seed=1))
    write_matrix(tmp_path / "matrix", random_vectors(30))
    spec = {
        "train_snapshot": str(tmp_path / "train"),
        "val_snapshot": str(tmp_path / "val"),
        "content_matrix": str(tmp_path / "matrix"),
        "towers": {"d_model": 16, "heads": 2, "layers": 1, "out_dim": 8, "max_len": 6},
        "train": {"batch_size": 8, "epochs": 2, "threads": 1},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    conf = Path(__file__).parents[2] / "conf" / "test.yaml"
    command = [sys.executable, "-c", DRIVER, str(tmp_path), str(conf)]
    environment = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    result, refused = done.stdout.splitlines()[-2:]
    assert (json.loads(result)["steps"], json.loads(result)["samples"]) == (10, 160)
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert "unknown key 'colour'" in refused
