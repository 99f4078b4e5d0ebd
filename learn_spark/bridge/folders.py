"""Export folders that the trainer's process fills: each one appears complete or not at all."""

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
    """Checks, before hours of work, that a file can be written into a folder; makes the folder if it is missing.

    Args:
        folder: a nameless temporary file is written into it.
        what: how the error message begins, such as `--out`.

    Raises:
        ConfigError: the folder cannot be made, or no file can be written into it.
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
    """Refuses a folder that exists: an export overwrites nothing.

    Raises:
        ConfigError: the folder exists already, or cannot be made.
    """
    if out.exists():
        raise ConfigError(f"--out {out} is there already: remove it, or name another")
    if isinstance(out, Path):
        require_writable(out.parent, "--out")


@contextmanager
def written_whole(out: Path | Location) -> Iterator[Path]:
    """Yields the path of a local folder to write, which becomes `out` at the end, without the trainer's spec.

    The folder is renamed to a local `out`; for a store, its files are uploaded, result.json last. After an error the
    folder is removed, except for the trainer's error.log.

    Raises:
        ConfigError: `out` exists already.
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
