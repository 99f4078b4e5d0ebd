"""Read-only lakes, and disks that are full when Spark starts."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.commands import CONFIG, ROOT, Done, environment, run_job
from tests.builders.mounts import behind, read_only, small
from tests.faults.conftest import NEXT

pytestmark = [pytest.mark.faults, pytest.mark.e2e]

SEVERAL = """
import json, sys
from learn_spark.cli.main import main
sys.exit(max(main([*command, *sys.argv[2:]]) for command in json.loads(sys.argv[1])))
"""
READING = """
import sys
import learn_spark as ls
lake = ls.open_lake(ls.session(), sys.argv[1])
samples = lake.table("samples").where("stage <> 'cvr'")
print(lake.join(samples, pairs=True).where("NOT user_is_cold").count(), len(lake.releases()))
"""


@pytest.fixture
def lake(night: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(night, tmp_path / "night"))


def settings(folder: Path) -> list[str]:
    return ["--config", str(CONFIG), "--set", f"lake.root={folder}/lake", "--set", f"output.dir={folder}/output"]


def run(*command: str) -> Done:
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    return Done(done.returncode, done.stdout, done.stderr, {})


def test_who_reads_needs_no_right_to_write(lake: Path, tmp_path: Path) -> None:
    joined, online = tmp_path / "joined", tmp_path / "online"
    commands = [
        ["release", "list"],
        ["release", "show"],
        ["audit_leakage"],
        ["join_features", "--samples", f"{lake}/lake/samples", "--out", str(joined)],
        ["audit_join", "--joined", str(joined)],
        ["export_online", "--no-onnx", "--out", str(online)],
        ["adopt", "--dry-run"],
    ]
    alone = behind(read_only(lake / "lake"))
    done = run(*alone, sys.executable, "-c", SEVERAL, json.dumps(commands), *settings(lake))
    assert done.code == 0, done.err[-3000:]
    assert list(joined.glob("*.parquet")) and (online / "pyfunc").is_dir()
    done = run(*alone, sys.executable, "-c", READING, f"{lake}/lake")
    assert done.code == 0, done.err[-3000:]
    users, releases = map(int, done.out.split())
    assert users > 0 and releases == 2


WRITERS = (
    NEXT,
    ("run_pipeline", "--restate"),
    ("maintain_tables",),
    ("release", "rollback"),
    ("repair",),
    ("adopt",),
    ("compare",),
)


@pytest.mark.parametrize("place", ["lake", "lake/user_history", "lake/_artifacts"])
def test_who_writes_says_at_once_that_it_cannot(lake: Path, place: str) -> None:
    alone = behind(read_only(lake / place))
    for command in WRITERS if place == "lake" else WRITERS[:2]:
        done = run(*alone, "learn-spark", *command, *settings(lake))
        assert done.code == 2, done.err
        (line,) = done.err.splitlines()
        assert line.startswith(f"{command[0]}: error: lake.root") and str(lake / place) in line


@pytest.mark.parametrize("size", ["4k", "2m"])
def test_spark_finds_no_room_when_it_starts(tmp_path: Path, size: str) -> None:
    full = tmp_path / "full"
    full.mkdir()
    filled = f"(dd if=/dev/zero of={full}/x bs=1k 2> {tmp_path}/dd || true)"
    command = ("ingest_events", "--start", "2011-11-01", "--end", "2011-11-02")
    launcher = (*behind(small(full, size), filled), "learn-spark")
    done = run_job(tmp_path, *command, "--set", f"spark.conf={{spark.local.dir: {full}}}", launcher=launcher)
    assert done.code == 75, done.err
    *before, line = done.err.splitlines()
    assert re.match(
        r"ingest_events: error: no space left on device; free some under (lake\.root or )?spark\.local\.dir", line
    )
    assert len(before) <= 1 and all(re.match(r" +\d:\d\d  \[1/1\] ingest_events: 2011-11-01$", each) for each in before)
