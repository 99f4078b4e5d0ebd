"""Runs jobs as a user does: as a process with a config and an exit code."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "conf" / "test.yaml"
SUMMARY = "json-out.json"


@dataclass(frozen=True)
class Done:
    """How a job ended."""

    code: int
    out: str
    err: str
    summary: dict[str, object]


def run_job(
    folder: Path,
    *arguments: str,
    launcher: tuple[str, ...] = ("learn-spark",),
    cwd: Path = ROOT,
    also: Mapping[str, str] | None = None,
) -> Done:
    """Runs `<launcher> <arguments>` with the tests' config on the lake in `folder`.

    Args:
        folder: gets `lake/` and `output/`.
        arguments: the job's name and its arguments.
        launcher: the command before the arguments.
        cwd: the working directory.
        also: further environment variables.
    """
    done = subprocess.run(
        [*launcher, *_with_summary(folder, arguments)],
        cwd=cwd,
        env=environment() | dict(also or {}),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    return Done(done.returncode, done.stdout, done.stderr, _summary(folder))


def run_here(folder: Path, *arguments: str) -> Done:
    """As `run_job`, but in this process: calls `main` of `learn-spark` on the existing session, which stays open."""
    from pyspark.sql import SparkSession  # imported here, because tests of `models` use this module without Spark

    from learn_spark.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with patch.object(SparkSession, "stop"), redirect_stdout(out), redirect_stderr(err):
        code = main(_with_summary(folder, arguments))
    return Done(code, out.getvalue(), err.getvalue(), _summary(folder))


def kill_job(folder: Path, *arguments: str, when: str | Callable[[], bool], seconds: float = 600) -> None:
    """Starts a job as `run_job` does and kills it with its JVM as soon as `when` holds; see `kill_process`."""
    kill_process(folder, ["learn-spark", *arguments, *_settings(folder, arguments)], when, seconds)


def kill_process(folder: Path, command: list[str], when: str | Callable[[], bool], seconds: float = 600) -> None:
    """Starts a command and kills it with its children once a file in `folder` matches `when`, or `when()` is true."""
    is_time = when if callable(when) else lambda: any(folder.glob(when))
    with (folder / "killed.log").open("wb") as log:
        job = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + seconds
    while not is_time():
        if job.poll() is not None or time.monotonic() > deadline:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
            raise AssertionError(
                f"the job ended before {when} was there: {(folder / 'killed.log').read_text()[-2000:]}"
            )
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()


def wait_for_lines(job: subprocess.Popen, file: Path, lines: int, seconds: float = 400) -> None:
    """Waits until the running job's file has `lines` lines; fails if the job ends before or time runs out."""
    deadline = time.monotonic() + seconds
    while not file.is_file() or file.read_text().count("\n") < lines:
        assert job.poll() is None and time.monotonic() < deadline, f"{file} has no {lines} lines"
        time.sleep(0.005)


def as_settings(*told: str) -> list[str]:
    """The arguments with `--set` before each KEY=VALUE."""
    return [part for each in told for part in ("--set", each)]


def _with_summary(folder: Path, arguments: tuple[str, ...]) -> list[str]:
    """The command's arguments, with `--json-out` for a summary; removes that of an earlier command."""
    summary = folder / SUMMARY
    summary.unlink(missing_ok=True)
    return [*arguments, *_settings(folder, arguments), "--json-out", str(summary)]


def _summary(folder: Path) -> dict[str, object]:
    summary = folder / SUMMARY
    return json.loads(summary.read_text()) if summary.exists() else {}


def _settings(folder: Path, arguments: tuple[str, ...]) -> list[str]:
    config = [] if "--config" in arguments else ["--config", str(CONFIG)]
    for key, place in {"lake.root": folder / "lake", "output.dir": folder / "output"}.items():
        if not any(each.startswith(f"{key}=") for each in arguments):
            config += ["--set", f"{key}={place}"]
    return config


def environment() -> dict[str, str]:
    """This process's environment, with this Python's commands first on the path and Spark on the loopback address."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "SPARK_LOCAL_IP": "127.0.0.1"}
