"""The torch side's tests run on a machine that has neither Java nor the Spark side's packages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
ALONE = """
import sys
import pytest
sys.modules.update(dict.fromkeys(["learn_spark", "pyspark", "py4j", "delta", "mlflow"]))
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def run_alone(*arguments: str) -> subprocess.CompletedProcess:
    bare = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "SPARK_HOME")}
    bare["PATH"] = str(Path(sys.executable).parent)
    assert shutil.which("java", path=bare["PATH"]) is None
    command = [sys.executable, "-c", ALONE, *arguments]
    return subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=600)


def test_all_are_found() -> None:
    done = run_alone("tests/unit/models", "--collect-only")
    assert done.returncode == 0, done.stdout[-3000:]
    assert all(path.name in done.stdout for path in (ROOT / "tests" / "unit" / "models").glob("test_*.py"))


def test_readers_losses_towers_and_trainings_pass() -> None:
    names = ("stream", "losses", "towers", "training", "train_cvr", "checkpoint", "evaluate_retrieval", "vectors")
    files = [f"tests/unit/models/test_{name}.py" for name in names]
    done = run_alone(*files, "-m", "not process")
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout.splitlines()[-1]
