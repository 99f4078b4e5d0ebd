"""Runs a task in a process of its own. Its peak memory includes its child processes; a failure is a result, too."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.child import Task
from learn_spark.runs.memory import PeakMemory

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_SECONDS = 0.1
OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "out of memory", "Out of Memory", "Cannot allocate memory")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a process. `failure` says in a few words what went wrong, without paths or host names."""

    peak_mb: int
    seconds: float | None = None
    figures: dict[str, float | str] = field(default_factory=dict)
    failure: str | None = None


def run_task(target: str, task: Task, log: Path, timeout: float) -> Outcome:
    """Runs `module:function` on the task, then removes processes and spilled files that it leaves behind.

    Args:
        target: the `module:function` that `benchmarks.child` calls.
        task: the task, with the memory limit.
        log: file for the process's output.
        timeout: in seconds.
    """
    scratch = task.output.parent / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    question = scratch / "task.json"
    question.write_text(task.to_json(), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.child", target, str(question)]
    environment = os.environ | {"TMPDIR": str(scratch), "SPARK_LOCAL_DIRS": str(scratch)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            peak_mb, failure = _watch(child, task.memory_mb, timeout)
        finally:
            end_session(child)
    answer = question.with_suffix(".answer")
    if failure is None and not answer.exists():
        failure = _failure(child.returncode, log.read_text(encoding="utf-8", errors="replace"))
    answered = Task.from_json(answer.read_text(encoding="utf-8")) if failure is None else task
    shutil.rmtree(scratch, ignore_errors=True)
    return Outcome(peak_mb, answered.seconds, answered.figures, failure)


def _watch(child: subprocess.Popen, memory_mb: int, timeout: float) -> tuple[int, str | None]:
    """The process tree's peak memory in MiB, and why it was ended, if it was."""
    memory = PeakMemory(pid=child.pid)
    deadline = time.monotonic() + timeout
    while child.poll() is None:
        if memory.peak_mb > memory_mb:
            return memory.peak_mb, f"ended: above the memory limit of {memory_mb} MiB"
        if time.monotonic() > deadline:
            return memory.peak_mb, f"ended after {timeout:.0f} s"
        time.sleep(SAMPLE_SECONDS)
    return memory.peak_mb, None


def end_session(child: subprocess.Popen) -> None:
    """Ends all processes left in the child's session. A JVM outlives its Python process for a moment, and must not take
    CPU time from the next contender."""
    left = [process for process in psutil.process_iter() if _session(process.pid) == child.pid]
    if child.poll() is None:
        child.send_signal(signal.SIGKILL)
        patience = 0.0
    else:
        patience = 5.0
    _, alive = psutil.wait_procs([process for process in left if process.pid != child.pid], timeout=patience)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=30)
    child.wait()


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:  # ended in between
        return None


def _failure(code: int, log: str) -> str:
    if any(sign in log for sign in OUT_OF_MEMORY):
        return "out of memory"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
