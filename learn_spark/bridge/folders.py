"""Folders that an export fills by the trainer's process: all of one or nothing."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from learn_spark.errors import ConfigError
from models.contract.result import ERROR_LOG, SPEC


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
        _remove_all_but(partial / ERROR_LOG)
        raise


def _remove_all_but(kept: Path) -> None:
    if not kept.is_file():
        shutil.rmtree(kept.parent, ignore_errors=True)
        return
    for path in kept.parent.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path != kept:
            path.unlink()
