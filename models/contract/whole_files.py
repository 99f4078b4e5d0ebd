"""Small files that both sides read and write: JSON with errors of one line, and what is written whole or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.contract.failures import BadInput


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        BadInput: in one line that starts with `what`; the file cannot be read, is no JSON, or holds no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{what}: cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{what}: {path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise BadInput(f"{what}: {path} must hold a JSON object, not {type(values).__name__}")
    return values


def write_whole(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Writes a file whole or not at all: beside its place, through to the disk, then renamed.

    Args:
        path: the file; its folder is made where it is missing.
        content: text, bytes, or a function that writes the file whose path it gets.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if callable(content):
        content(partial)
    else:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def require_folder(path: Path, key: str) -> Path:
    """The path, if it is a folder.

    Raises:
        BadInput: it is none; names the spec's key and the path.
    """
    if not path.is_dir():
        raise BadInput(f"{key}: no such folder: {path}")
    return path
