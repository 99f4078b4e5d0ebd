"""Checks that files are unchanged and where they should be: digests, sealed JSON, file names from metadata."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from models.contract.failures import BadInput
from models.contract.whole_files import read_json

SEAL = "digest"
WAY_BACK = "bring the file back, or make it again: learn-spark repair"
_log = logging.getLogger(__name__)

FileState = tuple[int, int, int, int]


def inside(folder: Path, name: str, pattern: str, what: str) -> Path:
    """The path of a file that metadata names, after a check that the file is in the metadata's own folder.

    Args:
        folder: the folder of the metadata.
        name: the name in the metadata.
        pattern: a regular expression that the whole name must match; it must not allow a path separator.
        what: begins the error message.

    Raises:
        BadInput: the name does not match, or is a link that leads out of the folder.
    """
    if not re.fullmatch(pattern, name):
        raise BadInput(f"{what}: {name!r} leads out of the folder, or is no name of its files")
    file = folder / name
    if file.is_symlink() and not file.resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"{what}: {name} is a link that leads out of the folder")
    return file


def file_state(file: Path) -> FileState:
    """Device, inode, size and time of the last write: these change when a file is written or replaced."""
    stat = file.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def file_digest(file: Path) -> str:
    """SHA-256 of a file; an unchanged one is read only once per process."""
    return _file_digest(file.resolve(), file_state(file))


@lru_cache(maxsize=1024)
def _file_digest(file: Path, _: FileState) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def require_digest(file: Path, digest: str, what: str) -> None:
    """Refuses a file whose bytes have changed.

    Raises:
        BadInput: the file has changed or cannot be read; one line with `what`, the file and how to repair it.
    """
    try:
        found = file_digest(file)
    except OSError as error:
        raise BadInput(f"{what}: cannot read {file}: {error.strerror or error}; {WAY_BACK}") from None
    if found != digest:
        raise BadInput(f"{what}: {file} has changed since it was written (SHA-256 differs); {WAY_BACK}")


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values and a digest over them, which `read_sealed` checks."""
    return {**values, SEAL: _seal(values)}


def read_sealed(file: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file, without its seal (the digest). Files of earlier versions have no seal.

    Raises:
        BadInput: as `read_json`, or the values do not match the seal.
    """
    values = read_json(file, what)
    seal = values.pop(SEAL, None)
    if seal is not None and seal != _seal(values):
        raise BadInput(f"{what}: {file} has changed since it was written (its digest differs); {WAY_BACK}")
    return values


def _seal(values: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(values))  # as a reader gets them: tuples become lists
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@lru_cache(maxsize=1024)
def warn_unverified(path: Path, until: str) -> None:
    """Warns once per process that an artifact of an earlier version has no digests."""
    _log.warning("warning: %s was written without digests: damage in it is not noticed until %s", path, until)
