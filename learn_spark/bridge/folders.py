"""Folders that an export fills by the trainer's process: all of one or nothing."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from learn_spark.errors import ConfigError, LearnError, TemporaryError
from learn_spark.storage import Location
from models.contract.failures import is_disk_full
from models.contract.result import ERROR_LOG, RESULT, SPEC
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
def written_whole(out: Path | Location) -> Iterator[Path]:
    """A folder of this machine to write into, which becomes `out` at the end, without the trainer's spec.

    It is renamed; in a store its files are sent, result.json as the last one.

    Where that fails, the folder goes, but for the trainer's error.log.

    Raises:
        ConfigError: `out` is there already.
    """
    require_absent(out)
    beside = out.parent if isinstance(out, Path) else Path(tempfile.gettempdir())
    partial = beside / f".{out.name}.{uuid.uuid4().hex[:8]}"
    try:
        yield partial
        (partial / SPEC).unlink()
        if isinstance(out, Path):
            partial.rename(out)
        else:
            _send(partial, out)
    except BaseException:
        log = partial / ERROR_LOG
        told = log.read_bytes() if log.is_file() else b""
        shutil.rmtree(partial, ignore_errors=True)
        if told:
            write_whole(log, told)
        raise


def _send(folder: Path, out: Location) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    try:
        for file in sorted(files, key=lambda file: (file.name == RESULT, file)):
            (out / str(file.relative_to(folder))).send(file)
    except BaseException:
        with suppress(LearnError):
            out.remove()
        raise
    shutil.rmtree(folder)
