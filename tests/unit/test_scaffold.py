"""The project's scaffold: declared dependencies, a portable lock file, a pinned data set."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import learn_spark

ROOT = Path(__file__).resolve().parents[2]
OURS = {"learn_spark", "models", "jobs", "benchmarks"}
LOCKS = ("constraints.txt", "constraints-4.0.txt", "constraints-petastorm.txt")


def declared() -> dict[str, list[str]]:
    """The literal lists in setup.py by name; extras by their own names."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return {"install": found["INSTALL_REQUIRES"], **found["EXTRAS_REQUIRE"]}


def distribution(requirement: str) -> str:
    """`Torch>=2.10` -> `torch`."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_every_import_is_declared() -> None:
    known = {distribution(line) for part, lines in declared().items() if part != "test" for line in lines}
    owners = importlib.metadata.packages_distributions()
    undeclared = {}
    for path in (path for folder in OURS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for top in {name.split(".")[0] for name in names} - OURS - set(sys.stdlib_module_names):
                if not {distribution(owner) for owner in owners.get(top, [top])} & known:
                    undeclared.setdefault(top, str(path.relative_to(ROOT)))
    assert undeclared == {}


def lock(name: str) -> dict[str, str]:
    """The lock file's versions by package."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9.-]+==[\w.+]+( ; .+)?", line)] == []  # no address
    return dict(line.split(" ;")[0].split("==") for line in lines)


def test_locks_name_every_requirement_and_versions_that_fit() -> None:
    new, old, petastorm = map(lock, LOCKS)
    required = {distribution(line) for part in declared().values() for line in part}
    assert required - {"petastorm"} <= set(new) and required <= set(old)
    assert {versions["pyspark"].rpartition(".")[0]: versions["delta-spark"] for versions in (new, old)} == {
        "4.1": "4.1.0",
        "4.0": "4.0.1",
    }
    assert petastorm.items() <= old.items()  # the versions that it was tested with


def test_all_days_of_the_demo_data_are_there() -> None:
    days = sorted(path.name for path in (ROOT / "data" / "online_retail").glob("*.csv.gz"))
    assert len(days) == 305
    assert (days[0], days[-1]) == ("2010-12-01.csv.gz", "2011-12-09.csv.gz")


@pytest.mark.process
@pytest.mark.parametrize(
    ("version", "is_taken"), [("17.0.15", True), ("21", True), ("25.0.1", False), ("1.8.0_402", False)]
)
def test_java_home_is_taken_if_spark_runs_on_it(tmp_path: Path, version: str, is_taken: bool) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "java").chmod(0o755)
    (tmp_path / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    found = subprocess.run(
        [ROOT / "scripts" / "java.sh", "home"],
        env={**os.environ, "JAVA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.stdout.strip() == str(tmp_path)) is is_taken


@pytest.mark.process
def test_the_version_is_said_once() -> None:
    stated = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    assert stated == learn_spark.__version__
    assert stated not in (ROOT / "setup.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["learn_spark", "models"])
def test_packages_ship_their_types(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    assert f'"{package}": ["py.typed"]' in (ROOT / "setup.py").read_text(encoding="utf-8")
