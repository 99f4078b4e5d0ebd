"""Strict settings: every unknown key, wrong type or missing file is one line that names it."""

import json
import reprlib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """Base of all settings of the torch side: unknown keys are errors (ValueError), values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


SettingsT = TypeVar("SettingsT", bound=Settings)


def parse_settings(cls: type[SettingsT], data: object, where: str) -> SettingsT:
    """Make settings out of plain data.

    Args:
        cls: the settings class.
        data: what a JSON or YAML file held.
        where: named at the start of the error, such as the file's path.

    Raises:
        ValueError: in one line, with the key's dotted path, what is wrong and the keys that exist.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"{where}: {'; '.join(_explain(cls, item) for item in error.errors())}") from None


def load_spec(path: Path | str, cls: type[SettingsT]) -> SettingsT:
    """Read one JSON spec file.

    Raises:
        ValueError: the file is missing, is no JSON, or does not fit `cls`; one line.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"spec {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"spec {path} is not JSON: {error}") from None
    return parse_settings(cls, data, f"spec {path}")


def read_json(path: Path, what: str) -> object:
    """What a JSON file holds.

    Raises:
        ValueError: in one line that starts with `what`; the file cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{what}: cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{what}: {path} is not JSON: {error}") from None


def require_folder(path: Path, key: str) -> Path:
    """Return `path` if it is a folder, else raise a ValueError that names the spec's key and the path."""
    if not path.is_dir():
        raise ValueError(f"{key}: no such folder: {path}")
    return path


def _explain(cls: type[BaseModel], item: dict) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    if item["type"] == "extra_forbidden":
        return f"unknown key {key!r}; known: {', '.join(_known_keys(cls, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"missing key {key!r}"
    message = " ".join(item["msg"].split()).removeprefix("Value error, ")
    return f"{key}: {message} (got {reprlib.repr(item['input'])})"


def _known_keys(cls: type[BaseModel], loc: tuple) -> list[str]:
    for part in loc:
        annotation = cls.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        cls = annotation
    return sorted(cls.model_fields)
