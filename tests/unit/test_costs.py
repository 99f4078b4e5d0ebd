"""The markers of cost: a test that starts a process without one fails, and slow files come first."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.costs import COSTLY

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
HEAD = "import multiprocessing, os, subprocess, sys\nimport pytest\n"
CALLS = {
    "subprocess": "subprocess.run([sys.executable, '-c', ''])",
    "fork": "os.fork() or os._exit(0)",
    "spawn": "multiprocessing.get_context('spawn').Process(target=print).start()",
    "system": "os.system('true')",
}


def run_pytest(folder: Path, *arguments: str, **files: str) -> subprocess.CompletedProcess:
    """Runs pytest on the given test files, with this project's plugin and markers."""
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(HEAD + text)
    command = [sys.executable, "-m", "pytest", "-q", "-c", "pyproject.toml", "--rootdir", str(folder)]
    command += ["-p", "tests.costs", "-p", "no:cacheprovider", *arguments, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_process_needs_a_marker(tmp_path: Path) -> None:
    bare = [f"def test_{name}():\n    {call}\n" for name, call in CALLS.items()]
    bare += [f"@pytest.fixture(scope='module')\ndef made():\n    {CALLS['fork']}\ndef test_fixture(made):\n    pass\n"]
    marked = [f"@pytest.mark.{marker}\ndef test_{marker}():\n    {CALLS['fork']}\n" for marker in COSTLY]
    done = run_pytest(tmp_path, it="\n".join([*bare, *marked, "def test_none():\n    pass\n"]))
    complaint = r"^E? *test_it.py::test_(\w+) starts a process .*mark it pytest.mark.process$"
    found = re.findall(complaint, done.stdout, re.MULTILINE)
    assert found == [*CALLS, "fixture"], done.stdout
    assert f"{len(CALLS) + len(COSTLY) + 2} passed, {len(found)} errors" in done.stdout


def test_a_session_needs_a_marker(tmp_path: Path) -> None:
    fixture = "@pytest.fixture\ndef spark():\n    pass\n"
    done = run_pytest(tmp_path, it=f"{fixture}def test_it(spark):\n    pass\n")
    assert done.returncode == 1
    assert "test_it takes the fixture `spark`: mark it pytest.mark.spark" in done.stdout


def test_files_with_spark_come_first_and_durations_are_kept(tmp_path: Path) -> None:
    slow = "def test_it():\n    pass\n\n@pytest.mark.spark\ndef test_slow():\n    import time; time.sleep(0.3)\n"
    record = ("-vv", "--record-durations", str(tmp_path / "kept" / "durations.txt"))
    done = run_pytest(tmp_path, *record, quick="def test_last():\n    pass\n", slow=slow)
    assert done.returncode == 0, done.stdout
    order = [done.stdout.index(f"::{name} PASSED") for name in ("test_it", "test_slow", "test_last")]
    assert order == sorted(order)
    first, *rest = (tmp_path / "kept" / "durations.txt").read_text().splitlines()
    assert float(first.split()[0]) >= 0.3 and first.endswith("test_slow.py")
    assert len(rest) == 4 and rest[1].endswith("test_slow.py::test_slow")
