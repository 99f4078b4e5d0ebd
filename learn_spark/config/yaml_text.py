"""YAML of a config: what PyYAML reads safely, less what it lets pass or what would never end."""

from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from learn_spark.errors import ConfigError

_LONGEST = 1_000_000  # bytes of a file
_DEEPEST = 50  # levels of nesting
_LARGEST = 100_000  # values, each alias counted with all that it stands for


class _Refused(yaml.YAMLError):
    """Something that YAML allows and a config may not hold."""


class _Loader(yaml.SafeLoader):
    """Refuses keys that stand twice, and aliases and nesting out of bounds; a date that is none stays a text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _Refused(f"it is nested more than {_DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, MappingNode | SequenceNode) and id(node) not in self._sizes:
            raise _Refused("an alias (*) stands inside of what it stands for")
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:  # noqa: ANN401 - PyYAML's stubs and code differ
        node = super().compose_mapping_node(anchor)
        self._measure(node, [part for pair in node.value for part in pair])
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                if key.value in lines:
                    places = f"in lines {lines[key.value]} and {key.start_mark.line + 1}"
                    raise _Refused(f"the key `{key.value}` stands twice, {places}")
                lines[key.value] = key.start_mark.line + 1
        return node

    def compose_sequence_node(self, anchor: Any) -> SequenceNode:  # noqa: ANN401 - as above
        node = super().compose_sequence_node(anchor)
        self._measure(node, node.value)
        return node

    def _measure(self, node: Node, parts: list[Node]) -> None:
        size = 1 + sum(self._sizes.get(id(part), 1) for part in parts)
        if size > _LARGEST:
            raise _Refused(f"its aliases (*) stand for more than {_LARGEST:,} values")
        self._sizes[id(node)] = size


def _number_or_date(construct: Any) -> Any:  # noqa: ANN401 - a method of PyYAML's constructor
    """A number or date that Python cannot hold stays a text, which the key's own check refuses by name."""

    def constructed(loader: _Loader, node: ScalarNode) -> Any:  # noqa: ANN401
        try:
            return construct(loader, node)
        except (ValueError, OverflowError):
            return node.value

    return constructed


for _kind in ("timestamp", "int", "float"):
    _tag = f"tag:yaml.org,2002:{_kind}"
    _Loader.add_constructor(_tag, _number_or_date(yaml.SafeLoader.yaml_constructors[_tag]))


def read_yaml(text: str, what: str) -> Any:  # noqa: ANN401 - what the text holds
    """The value of a YAML text.

    Args:
        text: a whole document, or a value.
        what: starts the error.

    Raises:
        ConfigError: in one line, with the place, and without the text itself: it may hold a secret.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except _Refused as error:
        raise ConfigError(f"{what}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{what} is not YAML: {_line(error.problem or error.context)}{where}") from None
    except yaml.YAMLError as error:  # a character that YAML does not know
        raise ConfigError(f"{what} is not YAML: {_line(getattr(error, 'reason', None) or error)}") from None
    except (RecursionError, TypeError, ValueError) as error:  # keys that cannot be keys, tags with a wrong content
        raise ConfigError(f"{what} cannot be read: {_line(error)}") from None


def read_yaml_file(file: Path) -> Any:  # noqa: ANN401
    """The value of a YAML file.

    Raises:
        ConfigError: as of `read_yaml`; or there is no such file, or something else than a config.
    """
    try:
        if file.exists() and not file.is_file():
            raise ConfigError(f"config file {file} is not a file")
        if file.stat().st_size > _LONGEST:
            raise ConfigError(f"config file {file} is larger than {_LONGEST:,} bytes, which no config is")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"config file {file} does not exist (working directory {Path.cwd()})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {file} cannot be read: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise ConfigError(f"config file {file} cannot be read: {error.strerror}") from None
    return read_yaml(text, f"config file {file}")


def _line(said: object) -> str:
    return " ".join(str(said).split())[:200]
