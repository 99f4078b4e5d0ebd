"""The torch side's tests run without Java and the Spark side's packages, and with Petastorm."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.process, pytest.mark.long]

ROOT = Path(__file__).parents[2]
ALONE = """
import sys
import pytest
sys.modules.update(dict.fromkeys(["learn_spark", "pyspark", "py4j", "delta", "mlflow"]))
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


RUN = ("stream", "towers_task", "content", "checkpoint", "train_cvr", "retrieval_rows", "vectors")


def test_all_are_found_and_readers_trainings_and_figures_pass() -> None:
    bare = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "SPARK_HOME")}
    bare["PATH"] = str(Path(sys.executable).parent)
    assert shutil.which("java", path=bare["PATH"]) is None
    if importlib.util.find_spec("petastorm") is None:
        bare["PYTHONPATH"] = str(Path(sys.prefix) / "petastorm")  # as in a training's process
    chosen = ["-m", "not process", "-k", " or ".join(f"test_{name}.py" for name in RUN)]
    command = [sys.executable, "-c", ALONE, "tests/unit/models", *chosen]  # all files are imported, whatever is chosen
    done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 40 and "skipped" not in done.stdout
