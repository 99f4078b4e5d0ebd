"""Columns inside others: paths into objects, elements of lists, parts of a file's path; and texts that mean null."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial, reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, DoubleType, MapType, StringType, StructField, StructType

from learn_spark.config.formats import POSITION, FilesSettings, beginning, hive_keys
from learn_spark.errors import ConfigError
from learn_spark.ingest.files import part_pattern

_AT, _ELEMENT = "_at", "_element"
UNEVEN = "_uneven"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Value:
    """A column, its type in Spark, and the type that a file says it has.

    JSON values are all read as text; for them `number` is the value as a double, null for a string.
    """

    column: Column
    kind: DataType = StringType()
    stored: str = ""
    number: Column | None = None


def number_in(text: Column, key: str) -> Column:
    """The number that a JSON object has under a key."""
    return F.from_json(text, StructType([StructField(key, DoubleType())])).getField(key)


def beginnings(name: str) -> list[str]:
    """The keys under which a JSON line may hold a name: `user.id` under this key itself, or inside `user`."""
    return list(dict.fromkeys([name, name.split(".")[0]]))


def keys_of_path(settings: FilesSettings, path: str, columns: Iterable[str]) -> tuple[str, ...]:
    """The mapped columns whose values are in a file's path: parts that `files` names, else folders `key=value`."""
    known, folders = set(columns), hive_keys(path)
    asked = settings.source_columns()
    given = set(settings.path_parts())
    return tuple(
        name for name in asked if name in given or (name in folders and not beginning(settings.holder(name), known))
    )


def values_of_path(
    settings: FilesSettings, names: Iterable[str], of_path: Callable[[Callable[[Column], Column]], Column]
) -> dict[str, Value]:
    """The values of these columns in a file's path; `of_path` makes a column from a function of the path."""
    return {name: Value(of_path(partial(_part_of_path, settings, name))) for name in names}


def _part_of_path(settings: FilesSettings, name: str, path: Column) -> Column:
    if name in settings.path_parts():
        return F.regexp_extract(path, part_pattern(settings, name), 1)
    text = F.regexp_extract(path, f"(?:^|/){re.escape(name)}=([^/]*)/", 1)  # Hive writes %3A for a colon
    text = F.coalesce(F.try_url_decode(F.replace(text, F.lit("+"), F.lit("%2B"))), text)
    return F.when(text != _HIVE_NULL, text)


def value_at(name: str, tops: Mapping[str, Value]) -> Value | None:
    """The value of this name, or the one inside its longest known prefix; in JSON the first that is not null."""
    parts = name.split(".")
    found: list[Value] = []
    for length in range(len(parts), 0, -1):
        top = tops.get(".".join(parts[:length]))
        if top is not None:
            found.append(_inside(top, ".".join(parts[length:]), name))
            if top.number is None:  # not a JSON object's key, which a line may leave out
                break
    if len(found) <= 1:
        return found[0] if found else None
    numbers = [each.number for each in found if each.number is not None]
    number = F.coalesce(*numbers) if numbers else None
    return Value(F.coalesce(*(each.column.cast("string") for each in found)), number=number)


def _inside(value: Value, path: str, name: str) -> Value:
    """The value that a path of keys leads to: through structs and maps, or the text of a JSON object."""
    if not path:
        return value
    first, _, rest = path.partition(".")
    if isinstance(value.kind, StructType):
        names = value.kind.names
        key = path if path in names else first
        if key not in names:
            raise ConfigError(f"column {name}: there is no {first} among {', '.join(names)}")
        inner = Value(value.column.getField(key), value.kind[key].dataType)
        return _inside(inner, "" if key == path else rest, name)
    if isinstance(value.kind, MapType):
        inner = Value(F.try_element_at(value.column, F.lit(first)), value.kind.valueType)
        return _inside(inner, rest, name)
    if not isinstance(value.kind, StringType):
        raise ConfigError(f"column {name}: there is nothing in a {value.kind.simpleString()}")
    schema = StructType([StructField(key, StringType()) for key in beginnings(path)])
    parsed = F.from_json(value.column, schema)
    number = number_in(value.column, path)
    if not rest:
        return Value(parsed.getField(path), number=number)
    inner = _inside(Value(parsed.getField(first)), rest, name)
    of_inner = number if inner.number is None else F.coalesce(number, inner.number)
    return Value(F.coalesce(parsed.getField(path), inner.column), number=of_inner)


def exploded(
    lines: DataFrame, settings: FilesSettings, tops: Mapping[str, Value]
) -> tuple[DataFrame, dict[str, Value]]:
    """A row per element of the lists, and the values with those of the elements.

    An empty list gives no row. A line without its list, or with lists of different lengths, gives one row without
    elements; if the lengths differ, `_uneven` is true.
    """
    explode = settings.explode
    if explode is None:
        return lines, dict(tops)
    lists = [_list(name, value_at(name, tops), explode.separator) for name in explode.columns]
    held = {f"_list{place}": each.column for place, each in enumerate(lists)}
    rows = lines.withColumns(held)
    sizes = [F.size(F.coalesce(F.col(name), F.array())) for name in held]
    even = reduce(Column.__and__, (size == sizes[0] for size in sizes), F.lit(True))
    rows = rows.where(~(even & F.col("_list0").isNotNull() & (sizes[0] == 0)))
    zipped = F.when(even, F.arrays_zip(*held))
    rows = rows.select("*", (~even).alias(UNEVEN), F.posexplode_outer(zipped).alias(_AT, _ELEMENT))
    values = dict(tops)
    for place, (name, each) in enumerate(zip(explode.columns, lists, strict=True)):
        assert isinstance(each.kind, ArrayType)
        element = Value(F.col(_ELEMENT).getField(f"_list{place}"), each.kind.elementType)
        values |= {name: element, f"{name}.{POSITION}": Value(F.col(_AT).cast("string"))}
        values |= _groups(name, element, explode.pattern)
    return rows, values


def _list(name: str, value: Value | None, separator: str | None) -> Value:
    if value is None:
        raise ConfigError(f"explode: there is no column {name}")
    if isinstance(value.kind, ArrayType):
        return value
    if not isinstance(value.kind, StringType):
        raise ConfigError(f"explode: column {name} is a {value.kind.simpleString()}, not a list")
    if separator is None:
        return Value(F.from_json(value.column, "array<string>"), ArrayType(StringType()))
    text = F.trim(value.column)
    parts = F.split(text, re.escape(separator))
    return Value(F.when(text == "", F.array().cast("array<string>")).otherwise(parts), ArrayType(StringType()))


def _groups(name: str, element: Value, pattern: str | None) -> dict[str, Value]:
    """The named groups of a pattern over an element's text."""
    if pattern is None:
        return {}
    java = re.sub(r"\(\?P<\w+>", "(", pattern)
    text = element.column.cast("string")
    numbers = re.compile(pattern).groupindex
    return {f"{name}.{group}": Value(F.regexp_extract(text, java, number)) for group, number in numbers.items()}


def without_nulls(text: Column, settings: FilesSettings) -> Column:
    """The text; null if it is one of `nulls`."""
    return F.when(~F.trim(text).isin(settings.nulls), text) if settings.nulls else text
