"""Strict settings: every unknown key, wrong type or missing value is one line that names it."""

import reprlib
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from models.contract.failures import BadInput


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors (ValueError), values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


ModelT = TypeVar("ModelT", bound=BaseModel)


def parse_settings(cls: type[ModelT], data: object, where: str) -> ModelT:
    """Make settings out of plain data.

    Args:
        cls: the settings class.
        data: what a JSON or YAML file held.
        where: named at the start of the error, such as the file's path.

    Raises:
        BadInput: in one line, with the key's dotted path, what is wrong and the keys that exist.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise BadInput(f"{where}: {explained(error, cls)}") from None


def explained(error: ValidationError, cls: type[BaseModel] | None = None) -> str:
    """All that is wrong, in one line; of unknown keys also those that there are, if the class is given."""
    return "; ".join(_explain(cls, item) for item in error.errors())


def _explain(cls: type[BaseModel] | None, item: dict) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    if item["type"] == "extra_forbidden":
        return f"unknown key {key!r}" + (f"; known: {', '.join(_known_keys(cls, item['loc'][:-1]))}" if cls else "")
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
