"""What runs in a process of its own: a contender, the check of its output, or the preparation of the inputs."""

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
    """What a child process is asked, and what it answers.

    Attributes:
        size: the case's size; its unit is the benchmark's (events, percent of users).
        sizes: all sizes of this run, for a preparation.
        quick: small inputs are wanted.
        folder: the cache of inputs that runs share.
        output: where the contender writes; it does not exist yet.
        memory_mb: above it, the process tree is ended.
        seconds: the answer: what the `clock` block took.
        figures: the answer: further figures and the checksum, by name.
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
        """Times the block: sessions are up and warm before it, checks come after it."""
        start = time.perf_counter()
        yield
        self.seconds = time.perf_counter() - start

    def to_json(self) -> str:
        """Paths as strings; `from_json` reads it."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(**values | {name: Path(values[name]) for name in ("folder", "output")})


class WithParent(Periodic):
    """Ends this process when its parent is gone: a killed harness must not leave a contender at work."""

    def __init__(self) -> None:
        super().__init__(seconds=1.0)
        self._parent = os.getppid()

    def tick(self) -> None:
        """Looks whether the parent still is the same."""
        if os.getppid() != self._parent:
            os._exit(1)


def main(target: str, file: str) -> None:
    """Calls `module:function` with the task in the file, and writes the answered task back."""
    module, _, function = target.partition(":")
    path = Path(file)
    task = Task.from_json(path.read_text(encoding="utf-8"))
    with WithParent():
        getattr(importlib.import_module(module), function)(task)
    answer = path.with_suffix(".answer")
    answer.write_text(task.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
