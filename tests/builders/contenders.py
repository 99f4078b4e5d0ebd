"""Contenders without Spark, which the child processes of benchmarks run in tests."""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.child import Task

HUNGRY = "import time; held = bytearray(200 << 20); time.sleep({seconds})"


def task(folder: Path, memory_mb: int) -> Task:
    return Task(size=10, sizes=[10], quick=True, folder=folder, output=folder / "output", memory_mb=memory_mb)


def prepare(task: Task) -> None:
    (task.folder / "input").write_text("1")


def fast(task: Task) -> None:
    with task.clock():
        _write(task, int(task.size))


def slow(task: Task) -> None:
    with task.clock():
        subprocess.run([sys.executable, "-c", HUNGRY.format(seconds=0.5)], check=True)
        _write(task, int(task.size))
    task.figures["bytes"] = task.size


def wrong(task: Task) -> None:
    with task.clock():
        _write(task, int(task.size) + 1)


def broken(task: Task) -> None:
    with task.clock():
        raise MemoryError


def endless(task: Task) -> None:
    child = subprocess.Popen([sys.executable, "-c", HUNGRY.format(seconds=600)])
    (task.folder / "pid").write_text(str(child.pid))
    time.sleep(600)


def waiting(task: Task) -> None:
    (task.folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)


def check_numbers(task: Task) -> None:
    numbers = (task.output / "numbers").read_text().split()
    task.figures["checksum"] = f"{len(numbers)}:{sum(map(int, numbers))}"


def refuse(task: Task) -> None:
    task.figures |= {"checksum": "any", "cosine": 0.5, "failure": "not faithful"}


def _write(task: Task, count: int) -> None:
    assert (task.folder / "input").exists()
    task.output.mkdir(parents=True)
    (task.output / "numbers").write_text(" ".join(map(str, range(count))))
