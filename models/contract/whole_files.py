"""Small files that both sides read and write: JSON with one-line errors, and files written whole or not at all."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.contract.failures import BadInput


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        BadInput: the file cannot be read, is no JSON, or holds no object; one line that begins with `what`.
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
    """Writes a file whole or not at all: to a temporary file beside it, synced to disk, then renamed.

    The temporary name cannot be guessed; otherwise somebody else could place a link there.

    Args:
        path: the file; its folder is made if it is missing.
        content: text, bytes, or a function that writes to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)  # nobody else's file or link
    os.close(handle)
    try:
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def require_folder(path: Path, key: str) -> Path:
    """The path, if it is a folder.

    Raises:
        BadInput: it is no folder; names the spec's key and the path.
    """
    if not path.is_dir():
        raise BadInput(f"{key}: no such folder: {path}")
    return path
