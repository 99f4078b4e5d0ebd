"""Folders that an export fills by the trainer's process: all of one or nothing."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from learn_spark.bridge.launch import SPEC
from learn_spark.errors import ConfigError


def require_absent(out: Path) -> None:
    """An export overwrites nothing.

    Raises:
        ConfigError: the folder is there already.
    """
    if out.exists():
        raise ConfigError(f"--out {out} is there already: remove it, or name another")


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into, which takes its name at the end, without the trainer's spec.

    Raises:
        ConfigError: `out` is there already.
    """
    require_absent(out)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield partial
        (partial / SPEC).unlink()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
