"""Folders that an export fills by the trainer's process: all of one or nothing."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from learn_spark.errors import ConfigError
from models.contract.result import ERROR_LOG, SPEC
from models.contract.whole_files import write_whole


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

    Where that fails, the folder goes, but for the trainer's error.log.

    Raises:
        ConfigError: `out` is there already.
    """
    require_absent(out)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield partial
        (partial / SPEC).unlink()
        partial.rename(out)
    except BaseException:
        log = partial / ERROR_LOG
        told = log.read_bytes() if log.is_file() else b""
        shutil.rmtree(partial, ignore_errors=True)
        if told:
            write_whole(log, told)
        raise
