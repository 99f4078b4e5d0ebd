"""The wheel that `make package` builds, made once per test run from a copy of the sources without build products."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.commands import ROOT, environment
from tests.builders.shared import shared


def built_wheel() -> Path:
    """The built wheel, in a folder that all tests share: copy it before you rename it."""
    (wheel,) = shared("wheel", _build).glob("learn_spark-*.whl")
    return wheel


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what `make package` builds, in a folder without a checkout around it."""
    return Path(shutil.copy(built_wheel(), tmp_path_factory.mktemp("package") / "learn_spark.zip"))


def _build(folder: Path) -> None:
    source = folder / "source"
    for package in ("learn_spark", "models"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel", "--no-deps"]
    command = [*pip, "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)
