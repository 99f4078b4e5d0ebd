"""A mapped field as a column: text, number, time, flags. Pure column functions."""

import re
from collections.abc import Mapping
from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F

from learn_spark.config.mapping import FieldMapping, NumberMapping, TextMapping, TimeMapping

LIST_SEPARATOR = ", "
MICROSECONDS = {"seconds": 1e6, "milliseconds": 1e3, "microseconds": 1.0}
_FAR = 6e16  # microseconds: some 1,900 years
_ON, _OFF = ("1", "1.0", "true"), ("0", "0.0", "false")
_NAMES_A_ZONE = r"(?i)\d:\d{2}.*(z|utc|gmt|[+-]\d{1,2}(:?\d{2})?)$"
_AN_INSTANT = r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}(\.\d+)?Z$"


def quoted(name: str) -> Column:
    """The column of exactly this name, dots and backticks included."""
    return F.col(f"`{name.replace('`', '``')}`")


def mapped(field: FieldMapping) -> Column:
    """The field's text: trimmed and cut as the mapping says, null where empty."""
    if field.column is None:
        return F.lit(field.constant)
    text = F.trim(quoted(field.column))
    if field.strip_prefix:
        rest = F.substring(text, len(field.strip_prefix) + 1, 2**31 - 1)
        text = F.when(text.startswith(field.strip_prefix), F.trim(rest)).otherwise(text)
    if field.strip_suffix:
        rest = text.substr(F.lit(1), F.length(text) - len(field.strip_suffix))
        text = F.when(text.endswith(field.strip_suffix), F.trim(rest)).otherwise(text)
    text = _not_empty(text)
    if field.map:
        return _by_value(text, field)
    if field.by_prefix:
        return _by_prefix(text, field)
    return F.coalesce(text, F.lit(field.default)) if field.default else text


def _not_empty(text: Column) -> Column:
    return F.when(text != "", text)


def _by_value(text: Column, field: FieldMapping) -> Column:
    results = F.create_map(*(F.lit(part) for pair in field.map.items() for part in pair))
    is_named = text.isin(list(field.map))
    otherwise = F.when(text.isNotNull(), F.lit(field.default)) if field.default else text
    return _not_empty(F.when(is_named, F.try_element_at(results, text)).otherwise(otherwise))


def _by_prefix(text: Column, field: FieldMapping) -> Column:
    otherwise = F.when(text.isNotNull(), F.lit(field.default))
    branches = sorted(field.by_prefix.items(), key=lambda pair: len(pair[0]))  # the longest prefix is asked first
    return reduce(lambda rest, pair: F.when(text.startswith(pair[0]), pair[1]).otherwise(rest), branches, otherwise)


def mapped_text(field: TextMapping | None) -> Column:
    """A text; lists and flags as "a, b"."""
    if field is None:
        return F.lit(None).cast("string")
    if field.flags:
        return _not_empty(F.array_join(raised(field.flags), LIST_SEPARATOR))
    text = mapped(field)
    if field.list is None:
        return text
    if field.list == "json":
        joined = F.array_join(F.from_json(text, "array<string>"), LIST_SEPARATOR)
        return _not_empty(F.trim(F.coalesce(joined, text)))
    return F.regexp_replace(text, rf"\s*{re.escape(field.list)}\s*", LIST_SEPARATOR)


def mapped_number(field: NumberMapping | None) -> Column:
    """A number, null where it is none."""
    return F.lit(None).cast("double") if field is None else mapped(field).try_cast("double")


def mapped_attributes(attributes: Mapping[str, TextMapping]) -> Column:
    """Name to text; null where nothing is mapped."""
    pairs = [part for name, field in attributes.items() for part in (F.lit(name), mapped_text(field))]
    return F.create_map(*pairs) if pairs else F.lit(None).cast("map<string,string>")


def mapped_time(field: TimeMapping, is_typed: bool) -> Column:
    """A time in UTC, null where the text is none.

    Args:
        field: how to read it.
        is_typed: whether the source has columns of a time type: their text is a time whatever `format` or `unit` say.
    """
    text = mapped(field)
    instant = F.when(text.rlike(_AN_INSTANT), F.try_to_timestamp(text)) if is_typed else F.lit(None).cast("timestamp")
    if field.unit:
        number = text.try_cast("double") * MICROSECONDS[field.unit]
        inside = F.least(F.greatest(number, F.lit(-_FAR)), F.lit(_FAR))  # still out of range, but a timestamp
        time = F.when(number.isNotNull(), F.timestamp_micros(F.round(inside).cast("bigint")))
        return F.coalesce(time, instant)
    if field.format:
        time = F.try_to_timestamp(text, F.lit(field.format))
        return F.coalesce(_moved(time, field), instant)
    time = F.try_to_timestamp(text)
    return F.when(text.rlike(_NAMES_A_ZONE), time).otherwise(_moved(time, field))


def _moved(time: Column, field: TimeMapping) -> Column:
    return F.to_utc_timestamp(time, field.timezone) if field.timezone else time


def raised(flags: Mapping[str, str]) -> Column:
    """An array of what the flags that are on stand for."""
    return F.array_compact(F.array(*(F.when(_flag(name).isin(*_ON), F.lit(what)) for name, what in flags.items())))


def unreadable_flags(flags: Mapping[str, str]) -> Column:
    """Whether a flag is neither on nor off nor empty."""
    odd = (F.coalesce(~_flag(name).isin(*_ON, *_OFF, ""), F.lit(False)) for name in flags)
    return reduce(Column.__or__, odd, F.lit(False))


def _flag(name: str) -> Column:
    return F.lower(F.trim(quoted(name)))
