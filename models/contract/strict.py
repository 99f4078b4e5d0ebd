"""Strict settings: an unknown key, a wrong type or a missing value is an error of one line that names the key."""

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from models.contract.failures import BadInput

_YEARS = range(1900, 2200)
_MOST_DAYS = 36_525  # a hundred years


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors (ValueError), and instances are immutable.

    The string below a field explains it; `scripts/base_yaml.py` copies that string into `conf/base.yaml`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    LATER: ClassVar[frozenset[str]] = frozenset()
    """Keys added when lakes already existed. Their defaults change no row, so a key at its default is left out of
    identities (hashes), which keeps those of older lakes valid."""

    @field_validator("*")
    @classmethod
    def _in_range(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - any field's
        """Refuses numbers beyond 64 bits, texts that files cannot hold, and days too extreme for date arithmetic."""
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, date) and each.year not in _YEARS:
                raise ValueError(f"{each} lies outside of the years {_YEARS.start} to {_YEARS.stop - 1}")
            if isinstance(each, str) and re.search("[\0\ud800-\udfff]", each):
                raise ValueError("the text holds a NUL or half a character")
            if isinstance(each, int) and abs(each) >= 2**63:
                raise ValueError("the number does not fit 64 bits")
            if isinstance(each, int) and (info.field_name or "").endswith("_days") and each > _MOST_DAYS:
                raise ValueError(f"{each} days are more than a hundred years")
        return value


ModelT = TypeVar("ModelT", bound=BaseModel)


def parse_settings(cls: type[ModelT], data: object, where: str) -> ModelT:
    """Make settings out of plain data.

    Args:
        cls: the settings class.
        data: what a JSON or YAML file held.
        where: begins the error message, such as the file's path.

    Raises:
        BadInput: one line, as `explained` makes it.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise BadInput(f"{where}: {explained(error, cls)}") from None


def explained(
    error: ValidationError, cls: type[BaseModel] | None = None, hidden: Sequence[Sequence[int | str]] = ()
) -> str:
    """The first five errors in one line, each with the dotted key, what is wrong, and the value.

    For an unknown key it names the closest known key, or else all known ones.

    Args:
        error: pydantic's error.
        cls: the settings class; without it no known keys are named.
        hidden: key paths whose values are not shown, nor values inside or around them; `[()]` hides all.
    """
    return "; ".join(_explain(cls, item, hidden) for item in error.errors()[:5])


def _explain(cls: type[BaseModel] | None, item: Mapping[str, Any], hidden: Sequence[Sequence[int | str]]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _known_keys(cls, item["loc"][:-1]) if cls else []
        close = get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        return f"unknown key `{key}`; {hint}" if known else f"unknown key `{key}`"
    if item["type"] == "missing":
        return f"key `{key}` is missing"
    if item["type"] == "value_error":  # our own: it names the value itself
        message = item["msg"].removeprefix("Value error, ")
        return f"`{key}`: {message}" if key else message
    if any(all(one == other for one, other in zip(place, item["loc"], strict=False)) for place in hidden):
        return f"`{key or 'all'}`: {item['msg']}"
    return f"`{key or 'all'}`: {item['msg']}, not {reprlib.repr(item['input'])}"


def _known_keys(cls: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The keys of the settings at a path of keys; empty if settings of several classes are possible there."""
    for part in loc:
        if part in cls.model_fields:
            inner = list(_settings_in(cls.model_fields[str(part)].annotation))
            if len(inner) != 1:
                return []
            cls = inner[0]
    return list(cls.model_fields)


def _settings_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The settings classes in a type, as in `dict[str, A | None]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _settings_in(inner)
