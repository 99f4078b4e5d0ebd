"""Jobs as a user runs them: a process, a config, an exit code."""

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
        arguments: the job and what follows it.
        launcher: what stands before the arguments.
        cwd: the working directory.
        also: further variables of the environment.
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
    """As `run_job`, without a process of its own: what `learn-spark` calls, on the session that is there and stays."""
    from pyspark.sql import SparkSession  # here: the tests of `models` use this module, and need no Spark

    from learn_spark.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with patch.object(SparkSession, "stop"), redirect_stdout(out), redirect_stderr(err):
        code = main(_with_summary(folder, arguments))
    return Done(code, out.getvalue(), err.getvalue(), _summary(folder))


def kill_job(folder: Path, *arguments: str, when: str | Callable[[], bool], seconds: float = 600) -> None:
    """Starts a job as `run_job` does and kills it, JVM and all, as soon as a file matches `when` in `folder`."""
    kill_process(folder, ["learn-spark", *arguments, *_settings(folder, arguments)], when, seconds)


def kill_process(folder: Path, command: list[str], when: str | Callable[[], bool], seconds: float = 600) -> None:
    """Starts a command and kills it with all its children once a file matches `when` in `folder`, or `when` is true."""
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
    """Until the running job's file has so many lines; fails where the job ends before, or the time."""
    deadline = time.monotonic() + seconds
    while not file.is_file() or file.read_text().count("\n") < lines:
        assert job.poll() is None and time.monotonic() < deadline, f"{file} has no {lines} lines"
        time.sleep(0.005)


def as_settings(*told: str) -> list[str]:
    """`--set` before each KEY=VALUE."""
    return [part for each in told for part in ("--set", each)]


def _with_summary(folder: Path, arguments: tuple[str, ...]) -> list[str]:
    """The command's arguments, with a summary asked for; an earlier command's is gone."""
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
    """This one, with the commands of this Python's environment first on the path, and Spark on the loopback."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "SPARK_LOCAL_IP": "127.0.0.1"}
