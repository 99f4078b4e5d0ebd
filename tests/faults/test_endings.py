"""Commands that real signals or dead processes end: one line, the right code, and nothing lives on."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.builders.commands import CONFIG, ROOT, environment
from tests.builders.hostile import CONF, SECRETS
from tests.builders.journey import thinned_logs

pytestmark = pytest.mark.e2e

INTERRUPTED = "error: interrupted; the same command goes on where it stopped"
GONE = "error: Spark's JVM is gone: it was killed, or ended for lack of memory;"
TRAINING = ("train_towers", "--restate", "--set", "towers.train={epochs: 10000, patience: 10000, learning_rate: 0.002}")


@dataclass
class Run:
    """A started command, and every process that was ever below it."""

    job: subprocess.Popen
    log: Path
    below: dict[int, psutil.Process] = field(default_factory=dict)

    def look(self) -> list[psutil.Process]:
        """Those that live."""
        with suppress(psutil.Error):
            self.below |= {each.pid: each for each in psutil.Process(self.job.pid).children(recursive=True)}
        return [each for each in self.below.values() if _lives(each)]

    def wait_for(self, text: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log.read_text():
            self.look()
            assert self.job.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def process(self, part: str) -> psutil.Process:
        return next(each for each in self.look() if part in " ".join(_command(each)))

    def ends(self, code: int, said: str, lines: int, lake: Path) -> None:
        """Within seconds, in one line after those that were there; children end, the lock is free."""
        assert self.job.wait(10) == code
        deadline = time.monotonic() + 5
        while left := self.look():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
        told = self.log.read_text().splitlines()[lines:]
        assert len(told) == 1 and said in told[0], told
        assert_free(lake)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _is_jvm(command: str) -> bool:
    """Spark's own, not the short one that only says how to start it."""
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
    """Starts a command on the lake of a folder, its output in a file; ends what is left of it."""
    runs = []

    def start(folder: Path, *arguments: str) -> Run:
        places = ("--set", f"lake.root={folder}/lake", "--set", f"output.dir={folder}/output")
        log = tmp_path / "said.log"
        with log.open("w") as file:
            job = subprocess.Popen(
                ["learn-spark", *arguments, "--config", str(CONFIG), *places],
                cwd=ROOT,
                env=environment(),
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
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
    if code == -9:
        assert run.job.wait(5) == code
        deadline = time.monotonic() + 5
        while left := run.look():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
        assert_free(finished / "lake")
    else:
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


@pytest.mark.parametrize("seconds", [0.0, 1.5])
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
