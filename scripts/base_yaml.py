"""Prints conf/base.yaml from the classes in learn_spark/config: every key, its default, its explanation."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import yaml
from pydantic import BaseModel

from learn_spark.config.load import Config
from learn_spark.config.mapping import FieldMappings
from models.contract.settings import TrainConfig

HEAD = """\
# Every key, its default, and why. A config of your own holds what differs; with `extends: other.yaml`, from that file.
# Relative paths are taken from the folder of the file that holds them; with --set, from the working directory.
# Days are written 2011-12-01, in UTC; an end is exclusive. This file is made by `python scripts/base_yaml.py` from the
# classes in learn_spark/config, where the defaults are: it need not lie beside a config.
"""
COMMENT_AT, WIDTH = 34, 120
SHARED = TrainConfig  # written once with a YAML anchor; settings that extend it list only what differs


def base_yaml() -> str:
    """The whole file."""
    config = Config()
    return "\n".join([HEAD, *("\n".join([*_settings(name, config, ""), ""]) for name in Config.model_fields)])


def explanations(cls: type[BaseModel]) -> dict[str, str]:
    """The explanations by field: the strings below the fields of a settings class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
            for field, below in zip(body, body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    found[field.target.id] = " ".join(below.value.value.split())
    return found


def _settings(name: str, above: BaseModel, indent: str) -> Iterator[str]:
    """The lines of the key `name` of the settings `above`, with all keys inside it."""
    value, told = getattr(above, name), explanations(type(above)).get(name, "")
    if not isinstance(value, BaseModel):
        yield _commented(f"{indent}{name}: {_plain(value)}", told)
    elif isinstance(value, FieldMappings):
        yield _commented(f"{indent}{name}:", told)
        yield from _mapping(value, f"{indent}  ")
    else:
        cls, is_other = type(value), type(value).__base__ is SHARED
        yield _commented(f"{indent}{name}:{' &shared' if cls is SHARED else ''}", (cls.__doc__ or "").split("\n\n")[0])
        if is_other:
            yield f"{indent}  <<: *shared"
            yield from (f"{indent}  {inner}: {_plain(getattr(value, inner))}" for inner in cls.__annotations__)
            return
        for inner in cls.model_fields:
            yield from _settings(inner, value, f"{indent}  ")


def _mapping(mapping: FieldMappings, indent: str) -> Iterator[str]:
    """A comment per kind of field that explains its keys, then the default fields."""
    kinds: dict[type[BaseModel], list[str]] = {}
    for name, field in type(mapping).model_fields.items():
        for cls in (field.annotation, *get_args(field.annotation)):
            if isinstance(cls, type) and issubclass(cls, BaseModel):
                kinds.setdefault(cls, []).append(name)
    for cls, names in kinds.items():
        text = " ".join((cls.__doc__ or "").split())
        yield from textwrap.wrap(
            f"{', '.join(names)}: {text}", WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   "
        )
    for name, field in mapping.named().items():
        yield f"{indent}{name}: {_plain(field.model_dump(exclude_defaults=True))}"


def _commented(line: str, text: str) -> str:
    """A line with its comment beside it; a long comment is wrapped."""
    if not text:
        return line
    at = max(COMMENT_AT, len(line) + 2)
    first, *more = textwrap.wrap(text, WIDTH - at - 2, break_long_words=False, break_on_hyphens=False)
    more = textwrap.wrap(" ".join(more), WIDTH - COMMENT_AT - 2, break_long_words=False, break_on_hyphens=False)
    return "\n".join([f"{line.ljust(at)}# {first}", *(f"{' ' * COMMENT_AT}# {part}" for part in more)])


def _plain(value: object) -> str:
    """A value as one line of YAML."""
    text = yaml.safe_dump(
        str(value) if isinstance(value, Path) else value,
        default_flow_style=True,
        width=10_000,
        sort_keys=False,
        allow_unicode=True,
    )
    return text.removesuffix("\n").removesuffix("...").strip()


if __name__ == "__main__":
    print(base_yaml(), end="")
