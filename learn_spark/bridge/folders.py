"""Folders that an export fills by the trainer's process: all of one or nothing."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from learn_spark.errors import ConfigError, TemporaryError
from learn_spark.storage import Location
from models.contract.failures import is_disk_full
from models.contract.result import ERROR_LOG, SPEC
from models.contract.whole_files import write_whole


def require_writable(folder: Path, what: str) -> None:
    """Tries whether a file can be written into a folder, which is made where it is missing: before hours of work.

    Args:
        folder: gets a file without a name for a moment.
        what: starts the error.

    Raises:
        ConfigError: it cannot.
        TemporaryError: the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        kind = TemporaryError if is_disk_full(error) else ConfigError
        raise kind(f"{what}: nothing can be written into {folder}: {error.strerror}") from None


def require_absent(out: Path | Location) -> None:
    """An export overwrites nothing.

    Raises:
        ConfigError: the folder is there already, or cannot be made.
    """
    if out.exists():
        raise ConfigError(f"--out {out} is there already: remove it, or name another")
    if isinstance(out, Path):
        require_writable(out.parent, "--out")


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
