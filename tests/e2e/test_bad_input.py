"""A wrong command ends with an exit code that says whether to retry, and one line that names the cause."""

import fcntl
from pathlib import Path

import pytest

from tests.builders.commands import ROOT, run_here

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run_pipeline", "--config", "nowhere.yaml"), "nowhere.yaml does not exist"),
        (("run_pipeline", "--set", "towers.modle.layers=3"), "unknown key `towers.modle`"),
        (("train_towers", "--set", "towers.model.layer=3"), "unknown key `towers.model.layer`"),
        (("run_backfill", "--start", "2011-12-02", "--end", "2011-12-01"), "start 2011-12-02 must come before end"),
        (("run_backfill", "--start", "2009-12-02", "--end", "2011-12-01"), "before ingest.start"),
        (("ingest_events", "--start", "2011-12-02"), "--start and --end together"),
    ],
)
def test_wrong_arguments_exit_2_before_any_work(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run_here(tmp_path, *arguments)
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert said in line
    assert line.startswith(f"{arguments[0]}: error: ")
    assert said in done.summary["error"]
    assert not (tmp_path / "lake").exists()


def test_a_second_driver_is_sent_away(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    with (tmp_path / "lake" / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = run_here(tmp_path, "ingest_events")
    assert done.code == 75
    assert "another run works on the lake" in done.err


def test_paper_scale_config_prints_its_plan_and_sizes(tmp_path: Path) -> None:
    done = run_here(tmp_path, "run_pipeline", "--config", str(ROOT / "conf" / "kuaishou.yaml"), "--dry-run")
    assert done.code == 0, done.err
    assert "7. evaluate_features" in done.out
    assert "31,000,000 texts, 3,968,000,000 tokens" in done.out
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_every_job_file_is_the_command_of_its_name(path: Path) -> None:
    text = path.read_text()
    assert f'raise SystemExit(main_of("{path.stem}"))' in text
    assert f"spark-submit jobs/{path.name}" in text
    assert len(text.splitlines()) < 8
