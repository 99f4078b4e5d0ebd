"""The code of a child process, which runs a contender, the check of its output, or the preparation of the inputs."""

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from learn_spark.runs.periodic import Periodic


@dataclass
class Task:
    """The inputs of a child process, and its answer.

    Attributes:
        size: the case's size, in the benchmark's unit (events, percent of users, …).
        sizes: all sizes of this run, for a preparation.
        quick: whether small inputs are wanted.
        folder: the cache of inputs that runs share.
        output: where the contender writes; it does not exist yet.
        memory_mb: if the process tree uses more, it is killed.
        seconds: answer: the time that the `clock` block took.
        figures: answer: further figures and the checksum, by name.
    """

    size: float
    sizes: list[float]
    quick: bool
    folder: Path
    output: Path
    memory_mb: int
    seconds: float | None = None
    figures: dict[str, float | str] = field(default_factory=dict)

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Times the block. Sessions must be warm before it; checks belong after it."""
        start = time.perf_counter()
        yield
        self.seconds = time.perf_counter() - start

    def to_json(self) -> str:
        """JSON with paths as strings, for `from_json`."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(**values | {name: Path(values[name]) for name in ("folder", "output")})


class WithParent(Periodic):
    """Ends this process when its parent is gone, so that a killed harness does not leave a running contender."""

    def __init__(self) -> None:
        super().__init__(seconds=1.0)
        self._parent = os.getppid()

    def tick(self) -> None:
        """Exits if the parent has changed."""
        if os.getppid() != self._parent:
            os._exit(1)


def main(target: str, file: str) -> None:
    """Calls `module:function` with the task from the file, and writes the task with its answer beside it."""
    module, _, function = target.partition(":")
    path = Path(file)
    task = Task.from_json(path.read_text(encoding="utf-8"))
    with WithParent():
        getattr(importlib.import_module(module), function)(task)
    answer = path.with_suffix(".answer")
    answer.write_text(task.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
