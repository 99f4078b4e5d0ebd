"""Errors on the terminal: one line that says what failed, and a file with the whole error."""

import logging
import re
from argparse import Namespace
from pathlib import Path

import pytest
from py4j.protocol import Py4JNetworkError

from learn_spark.cli.command import Call
from learn_spark.cli.main import COMMANDS, main
from learn_spark.cli.troubles import in_a_line
from learn_spark.errors import LearnError, TemporaryError
from tests.builders.commands import ROOT

CONFIG = ROOT / "conf" / "test.yaml"
JVM = """An error occurred while calling o108.collectToPython.
: org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT] Encountered error while reading file a.parquet.
\tat org.apache.spark.sql.errors.QueryExecutionErrors$.cannotReadFilesError(QueryExecutionErrors.scala:849)
"""


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def in_line(tmp_path: Path, error: Exception) -> tuple[LearnError, str]:
    """The one-line error, and the content of the file that it names."""
    call = Call("run_backfill", Namespace(config=CONFIG, set=[f"output.dir={tmp_path}"]))
    assert call.config
    found = in_a_line(raised(error), call.keep)
    named = re.search(r"; the whole error is in (\S+)$", str(found))
    return found, Path(named[1]).read_text() if named else ""


def test_a_jvm_stack_is_left_to_the_file(tmp_path: Path) -> None:
    error = RuntimeError(JVM)
    error.add_note("build_sequences of 2011-11-02")
    found, kept = in_line(tmp_path, error)
    said = "build_sequences of 2011-11-02: RuntimeError: org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT]"
    assert str(found).startswith(said) and "\n" not in str(found)
    assert "Traceback (most recent call last)" in kept and JVM in kept
    assert [path.parent.name for path in tmp_path.rglob("*.log")] == ["logs"]
    assert found.exit_code == 1


def test_a_damaged_file_that_comet_read_is_named(tmp_path: Path) -> None:
    error = Exception(
        "An error occurred while calling o85.save.\n: org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT]"
        " Encountered error while reading file . SQLSTATE: KD001\n\tat org.apache.spark.A.b(A.scala:1)\nCaused by:"
        " org.apache.spark.SparkException: Parquet error: Failed to fetch metadata for file"
        " lake/interactions/ds=2011-11-08/part-0.parquet: Object Store error: Out of range of file"
    )
    said = str(in_a_line(error, lambda _: tmp_path / "log"))
    assert "while reading file /lake/interactions/ds=2011-11-08/part-0.parquet. SQLSTATE" in said


@pytest.mark.parametrize(
    "cause",
    [
        "Caused by: java.io.FileNotFoundException: /lake/a.parquet (Read-only file system)",
        "x: /lake/a (Permission denied)",
    ],
)
def test_what_may_not_be_written_is_no_lost_file(tmp_path: Path, cause: str) -> None:
    found, kept = in_line(tmp_path, RuntimeError(f"{JVM}{cause}\n\tat java.base/java.io.FileOutputStream.open0"))
    assert str(found) == f"a file cannot be read or written: {cause.removeprefix('Caused by: ')}"
    assert (found.exit_code, kept) == (2, "")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("a"), r"KeyError: 'a'; the whole"),
        (ValueError(), r"ValueError; the whole"),
        (ValueError("x" * 9999), r"ValueError: x{400}…; the whole"),
        (Py4JNetworkError("Answer from Java side is empty"), r"Spark's JVM is gone: it was killed"),
    ],
)
def test_an_error_is_a_line_of_a_bounded_length(tmp_path: Path, error: Exception, said: str) -> None:
    found, kept = in_line(tmp_path, error)
    assert re.match(said, str(found)) and type(error).__name__ in kept


def test_a_known_trouble_keeps_its_message_and_needs_no_file(tmp_path: Path) -> None:
    found, _ = in_line(tmp_path, OSError(28, "No space left on device"))
    assert isinstance(found, TemporaryError) and str(found).startswith("no space left on device; free some")
    assert not list(tmp_path.rglob("*.log"))


def test_before_the_config_the_file_is_a_temporary_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    handlers = list(logging.getLogger("learn_spark").handlers)
    assert main(["inspect", "--path", str(tmp_path), "--out", "x" * 300]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    (log,) = tmp_path.glob("learn-spark-inspect-*.log")
    assert line.startswith("inspect: error: OSError: [Errno 36] ") and line.endswith(f"the whole error is in {log}")
    assert "Traceback" in log.read_text()
    assert logging.getLogger("learn_spark").handlers == handlers


@pytest.mark.parametrize("place", ["file/x.json", "folder", "/proc/nowhere/x.json"])
def test_a_summary_that_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    given = ["--config", str(CONFIG), "--set", f"lake.root={tmp_path}/lake", "--dry-run"]
    assert main(["run_pipeline", *given, "--json-out", str(tmp_path / place)]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and re.fullmatch(r"run_pipeline: error: --json-out.*\n", shown.err)


def test_an_output_folder_that_cannot_be_written_is_said_before_spark_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    given = ["--config", str(CONFIG), "--set", f"lake.root={tmp_path}/lake", "--set", f"output.dir={tmp_path}/file/out"]
    assert main(["run_pipeline", *given]) == 2
    shown = capsys.readouterr().err
    assert re.fullmatch(r"run_pipeline: error: output\.dir: nothing can be written into .*: Not a directory\n", shown)


def test_every_command_has_a_job_file_or_needs_no_spark() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(COMMANDS) - {"inspect", "init"}
