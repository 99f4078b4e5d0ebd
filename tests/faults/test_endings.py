"""Commands ended by real signals or by the death of a process: one line, the right exit code, no process left."""

import fcntl
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.builders.commands import CONFIG, ROOT, environment
from tests.builders.hostile import CONF, SECRETS
from tests.builders.journey import thinned_logs

pytestmark = pytest.mark.e2e

INTERRUPTED = "error: interrupted; the same command goes on where it stopped"
GONE = "error: Spark's JVM is gone: it was killed, or ended for lack of memory;"
RANK_LOST = "train_towers: error: train-towers"  # the other rank prints this, too, if it lives long enough
TRAINING = ("train_towers", "--restate", "--set", "towers.train={epochs: 10000, patience: 10000, learning_rate: 0.002}")


@dataclass
class Run:
    """A started command, and all child processes that it ever had."""

    job: subprocess.Popen
    log: Path
    below: dict[int, psutil.Process] = field(default_factory=dict)

    def look(self) -> list[psutil.Process]:
        """The child processes that are still alive."""
        with suppress(psutil.Error):
            self.below |= {each.pid: each for each in psutil.Process(self.job.pid).children(recursive=True)}
        return [each for each in self.below.values() if _lives(each)]

    def wait_for(self, text: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log.read_text():
            self.look()
            assert self.job.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def wait_for_file(self, folder: Path, pattern: str, seconds: float = 180) -> None:
        """Waits until a file that matches `pattern` is new or has changed since this call."""
        before = {file: file.stat().st_mtime_ns for file in folder.glob(pattern)}
        deadline = time.monotonic() + seconds
        while not any(file.stat().st_mtime_ns != before.get(file, 0) for file in folder.glob(pattern)):
            self.look()
            assert self.job.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def process(self, part: str) -> psutil.Process:
        return next(each for each in self.look() if part in " ".join(_command(each)))

    def ends(self, code: int, said: str, lines: int, lake: Path, by_ranks: int | None = 0) -> None:
        """Asserts that the command ends within seconds, with its children, and leaves the lock free.

        Unless it was killed, its last line holds `said`. Only `by_ranks` lines of ranks may come between the first
        `lines` lines and the last one; None: any number, as TorchDistributor passes on what ranks print.
        """
        assert self.job.wait(10) == code, self.log.read_text()
        self.is_alone()
        told = self.log.read_text().splitlines()[lines:]
        if code != -signal.SIGKILL:
            assert said in told[-1] and by_ranks in (None, len(told) - 1), told
        assert_free(lake)

    def is_alone(self) -> None:
        """Asserts that the children of the ended command end within seconds."""
        deadline = time.monotonic() + 5
        while left := self.look():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


def _in_terminal(terminal: int | None) -> None:
    """Runs in the new process: resets signals as a terminal's shell does, even if the tests or `nohup` ignore them."""
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)
    if terminal is not None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _is_jvm(command: str) -> bool:
    """Whether a command is Spark's JVM, not the short-lived JVM that only prints its start command."""
    return "SparkSubmit" in command and "launcher.Main" not in command and "bin/java" in command


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def assert_free(lake: Path) -> None:
    if lake.exists():
        with (lake / ".lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.fixture
def started(tmp_path: Path) -> Iterator:
    """Starts commands on the lake of a folder, with output to a file; kills what is left of them after the test."""
    runs = []

    def start(folder: Path, *arguments: str, terminal: int | None = None) -> Run:
        places = ("--set", f"lake.root={folder}/lake", "--set", f"output.dir={folder}/output")
        log = tmp_path / "said.log"
        with log.open("w") as file:
            job = subprocess.Popen(
                ["learn-spark", *arguments, "--config", str(CONFIG), *places],
                cwd=ROOT,
                env=environment(),
                stdin=terminal,
                stdout=file if terminal is None else terminal,
                stderr=file if terminal is None else terminal,
                start_new_session=True,
                preexec_fn=partial(_in_terminal, terminal),
            )
        runs.append(Run(job, log))
        return runs[-1]

    yield start
    for run in runs:
        for each in run.look():
            each.kill()
        run.job.kill()
        run.job.wait()


@pytest.mark.parametrize(
    ("who", "number", "code", "said"),
    [
        ("driver", signal.SIGINT, 130, INTERRUPTED),
        ("driver", signal.SIGTERM, 143, INTERRUPTED),
        ("driver", signal.SIGHUP, 129, INTERRUPTED),
        ("group", signal.SIGINT, 130, INTERRUPTED),
        ("jvm", signal.SIGKILL, 1, GONE),
        ("trainer", signal.SIGKILL, 1, "train-towers was killed by signal 9"),
        ("driver", signal.SIGKILL, -9, ""),
    ],
)
def test_while_a_trainer_works(finished: Path, started, who: str, number: signal.Signals, code: int, said: str) -> None:
    run = started(finished, *TRAINING)
    run.wait_for("step")
    time.sleep(0.5)
    lines = len(run.log.read_text().splitlines())
    jvm, trainer = run.process("bin/java "), run.process("-m models")
    target = {"jvm": jvm.pid, "trainer": trainer.pid}.get(who, run.job.pid)
    (os.killpg if who == "group" else os.kill)(target, number)
    run.ends(code, said, lines, finished / "lake")


@pytest.mark.parametrize(
    ("who", "number", "code", "said", "parallel"),
    [
        ("driver", signal.SIGTERM, 143, INTERRUPTED, 2),
        ("driver", signal.SIGINT, 130, INTERRUPTED, 1),
        ("jvm", signal.SIGKILL, 1, GONE, 1),
    ],
)
def test_while_spark_works(
    tmp_path: Path, started, who: str, number: signal.Signals, code: int, said: str, parallel: int
) -> None:
    logs = thinned_logs(tmp_path / "logs")
    pieces = ("--step-days", "5", "--max-parallel", str(parallel), "--set", f"ingest.path={logs}")
    run = started(tmp_path, "run_pipeline", "--steps", "ingest_events", *pieces)
    run.wait_for("ingest_events: ")
    time.sleep(2)
    lines = len(run.log.read_text().splitlines())
    os.kill(run.process("bin/java ").pid if who == "jvm" else run.job.pid, number)
    run.ends(code, said, lines, tmp_path / "lake")


@pytest.mark.parametrize("launcher", ["torchrun", "spark"])
@pytest.mark.parametrize(
    ("who", "number", "code", "said"),
    [
        ("driver", signal.SIGTERM, 143, INTERRUPTED),
        ("driver", signal.SIGKILL, -9, ""),
        ("jvm", signal.SIGKILL, 1, GONE),
        ("rank", signal.SIGKILL, 1, RANK_LOST),
    ],
)
def test_while_two_ranks_train(
    finished: Path, started, launcher: str, who: str, number: signal.Signals, code: int, said: str
) -> None:
    run = started(finished, *TRAINING, "--set", f"towers={{ranks: 2, run: {{launcher: {launcher}}}}}")
    run.wait_for_file(finished / "lake" / "_artifacts" / "models", "towers-*/metrics.jsonl")
    lines = len(run.log.read_text().splitlines())
    ranks = [each for each in run.look() if "TORCHELASTIC_RUN_ID" in _environment(each) and "models" in _command(each)]
    assert len(ranks) == 2, [_command(each) for each in run.look()]
    target = {"jvm": run.process("bin/java "), "rank": ranks[-1]}.get(who, run.job)
    os.kill(target.pid, number)
    run.ends(code, said, lines, finished / "lake", None if launcher == "spark" or who == "rank" else 0)


def test_when_its_terminal_is_closed(tmp_path: Path, started) -> None:
    """The kernel then sends SIGHUP to all processes in the terminal, and writing to it fails."""
    logs = thinned_logs(tmp_path / "logs")
    screen, terminal = pty.openpty()
    run = started(
        tmp_path, "run_pipeline", "--steps", "ingest_events", "--set", f"ingest.path={logs}", terminal=terminal
    )
    os.close(terminal)
    said = b""
    while b"ingest_events: " not in said:
        said += os.read(screen, 1024)
    run.look()
    os.close(screen)
    assert run.job.wait(10) == 129
    run.is_alone()
    assert_free(tmp_path / "lake")


@pytest.mark.parametrize("seconds", [0.0, 0.75, 1.5, 2.25])
def test_while_the_jvm_starts(tmp_path: Path, started, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    run = started(tmp_path, "ingest_events", "--start", "2011-11-01", "--end", "2011-11-02", "--set", CONF)
    while not (commands := [told for each in run.look() if _is_jvm(told := " ".join(_command(each)))]):
        time.sleep(0.01)
    (command,) = commands
    assert "spark.sql.session.timeZone=UTC" in command
    assert not [secret for secret in SECRETS.values() if secret in command], "others can read it"
    time.sleep(seconds)
    os.killpg(run.job.pid, signal.SIGINT)
    run.ends(130, INTERRUPTED, 0, tmp_path / "lake")
