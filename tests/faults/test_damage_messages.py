"""Unexpected damage: one line and no stack trace of Spark on the terminal, the whole error in a file."""

import gzip
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from tests.builders.commands import Done, as_settings, run_job
from tests.builders.logs import WEEK, line, write_day

pytestmark = pytest.mark.e2e

DAYS = [f"2011-11-0{number}" for number in range(1, 7)]
STEPS = "ingest_events,build_sequences"


def settings(folder: Path) -> list[str]:
    windows = [f"windows.{key}={value}" for key, value in WEEK.items()]
    values = [f"ingest.path={folder}/logs", "ingest.start=2011-11-01", "sequences.target_days=1", *windows]
    return as_settings(*values)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A small intact lake, and how its audit ends."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "logs").mkdir()
    for number, day in enumerate(DAYS):
        at = f"{day} 10:00:00"
        events = [line(InvoiceNo=f"{number}{user}", CustomerID=f"{user}.0", InvoiceDate=at) for user in range(9)]
        write_day(folder / "logs", day, events)
    done = run_job(folder, "run_pipeline", "--steps", STEPS, *settings(folder))
    assert done.code == 0, done.err
    audit = run_job(folder, "audit_leakage", *settings(folder))
    assert audit.code == 0, audit.err
    assert not list((folder / "output").rglob("*.log")), "a command that ends well leaves no log"
    return folder, audit


def test_bombs_and_long_lines_leave_the_night_standing(tmp_path: Path) -> None:
    """A gzip file of 1 GB of zeros, a line of 50 MB, and lines just under the limit, all with a heap of 1 GB."""
    logs = tmp_path / "logs"
    good = [line(StockCode=str(item), InvoiceDate="2011-11-01 10:00:00") for item in range(40)]
    write_day(logs, "2011-11-01", [*good, line(StockCode="long", Description="x " * 500_000)])
    write_day(
        logs, "2011-11-02", [line(StockCode="never", InvoiceDate="2011-11-02 10:00:00", Description="x" * (50 << 20))]
    )
    with gzip.open(logs / "2011-11-03.csv.gz", "wb") as bomb:
        for _ in range(1024):
            bomb.write(bytes(1 << 20))
    wide = [line(StockCode=str(n), InvoiceDate="2011-11-04 10:00:00", Description=f"{n} " * 170_000) for n in range(60)]
    write_day(logs, "2011-11-04", wide)
    night = ("ingest_events", "--start", "2011-11-01", "--end", "2011-11-05", "--set", "spark.driver_memory=1g")
    done = run_job(tmp_path, *night, "--set", "ingest.gates.max_bad_files=2", *settings(tmp_path))
    assert done.code == 0, done.err
    for name, length in (("2011-11-02.csv.gz", "line 2 has"), ("2011-11-03.csv.gz", "line 1 has")):
        assert f"{logs}/{name}: line too long: {length}" in done.err
    events = duckdb.sql(
        f"SELECT ds, count(*) FROM read_parquet('{tmp_path}/lake/interactions/*/*.parquet') GROUP BY ds"
    )
    assert {str(day): count for day, count in events.fetchall()} == {"2011-11-01": 41, "2011-11-04": 60}


def cut(file: Path) -> None:
    """Leaves the first half of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def overwrite(file: Path) -> None:
    """Overwrites the first bytes of a file; the rest stays."""
    content = file.read_bytes()
    file.write_bytes(b"?" * 100 + content[100:])


@pytest.mark.parametrize(
    ("damaged", "how", "said", "stack"),
    [
        (
            *("user_history/ds=2011-11-04/*.parquet", cut),
            *(r"user_history/ds=2011-11-04/\S+\.parquet", "is not a Parquet file"),
        ),
        (
            *("user_history/_delta_log/*1.json", overwrite),
            *("user_history", r"JsonEOFException|JsonParseException|JsonProcessing"),
        ),
    ],
    ids=["parquet", "delta_log"],
)
def test_a_damaged_table_is_a_line_and_a_file(
    tmp_path: Path, filled: tuple[Path, Done], damaged: str, how: Callable[[Path], None], said: str, stack: str
) -> None:
    whole, audit = filled
    shutil.copytree(whole / "lake", tmp_path / "lake")
    for file in (tmp_path / "lake").glob(damaged):
        how(file)
        (file.parent / f".{file.name}.crc").unlink(missing_ok=True)
        for checksum in file.parent.glob("0*.crc"):  # with the newest checksum, Delta would not have to read its log
            checksum.unlink()
    done = run_job(tmp_path, "audit_leakage", *settings(whole))
    assert done.code == 1
    lines = done.err.splitlines()
    assert lines[-1].startswith("audit_leakage: error: ") and re.search(said, lines[-1]), done.err
    assert len(lines) == len(audit.err.splitlines()) + 1, done.err
    assert len(lines[-1]) < 1000
    (log,) = (tmp_path / "output" / "logs").glob("audit_leakage-*.log")
    assert lines[-1].endswith(f"the whole error is in {log}")
    text = log.read_text()
    assert text.count("Traceback (most recent call last)") and "\n\tat org.apache.spark" in text
    assert re.search(stack, text)
    assert done.summary["error"] in lines[-1] and done.summary["exit_code"] == 1


def test_a_step_that_meets_damage_is_named(tmp_path: Path, filled: tuple[Path, Done]) -> None:
    whole, _ = filled
    shutil.copytree(whole / "lake", tmp_path / "lake")
    for file in (tmp_path / "lake").glob("interactions/*/*.parquet"):
        cut(file)
    done = run_job(tmp_path, "build_sequences", "--restate", "--set", "sequences.history_length=3", *settings(whole))
    assert done.code == 1
    last = done.err.splitlines()[-1]
    said = r"build_sequences: error: build_sequences of 2011-11-02 .*: .*interactions/\S+\.parquet"
    assert re.match(said, last), last
    assert "\tat " not in done.err and "Traceback" not in done.err
