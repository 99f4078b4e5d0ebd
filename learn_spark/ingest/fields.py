"""A mapped field as a column: text, number, time, flags. Pure column functions."""

import math
import re
from collections.abc import Mapping
from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F

from learn_spark.config.mapping import FieldMapping, NumberMapping, TextMapping, TimeMapping
from learn_spark.config.time_formats import WEEKDAY_IN_TEXT, names_weekday, without_weekday

LIST_SEPARATOR = ", "
MICROSECONDS = {
    "microseconds": 1.0,
    "milliseconds": 1e3,
    "seconds": 1e6,
    "minutes": 6e7,
    "hours": 3.6e9,
    "days": 8.64e10,
    "weeks": 6.048e11,
}
_BLANKS = " \t\n\x0b\f\r"  # what \s matches in Java
_FAR = 6e16  # microseconds: some 1,900 years
_ON, _OFF = ("1", "1.0", "true"), ("0", "0.0", "false")
# Every pattern takes time that is linear in the text's length, whatever the text.
_ZONE = r"(?i)(z|utc|gmt|[+-]\d{1,2}(:?\d{2})?)$"
_CLOCK = r"\d:\d{2}"
_A_TIME = r"^\d{4}-\d{2}-\d{2}( \d{2}:\d{2}:\d{2}(\.\d+)?Z?)?$"  # the text of a column of a time type


def quoted(name: str) -> Column:
    """The column of exactly this name, dots and backticks included."""
    return F.col(f"`{name.replace('`', '``')}`")


def mapped(field: FieldMapping) -> Column:
    """The field's text: trimmed and cut as the mapping says; null if it is empty."""
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
    """The field's text; lists and flags are joined, as "a, b"."""
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
    return F.regexp_replace(text, separator_pattern(field.list), LIST_SEPARATOR)


def separator_pattern(separator: str) -> str:
    r"""A pattern that matches what `\s*separator\s*` does, in time that is linear in the text's length.

    `\s*separator\s*` would read a long run of blanks again from each of its blanks. This pattern begins only at a run's
    first blank, and never backtracks (`*+`).
    """
    core = separator.lstrip(_BLANKS)
    blanks, core = re.escape(separator[: len(separator) - len(core)]), re.escape(core)
    if not core:
        return rf"(?<!\s)(?:(?!{blanks})\s)*+{blanks}\s*+"
    before = rf"(?<!\s)\s*+(?<={blanks})" if blanks else r"(?:(?<!\s)\s*+)?"
    return rf"{before}{core}\s*+"


def mapped_number(field: NumberMapping | None) -> Column:
    """The field's number; null if the text is not a number, or not a finite one: NaN, Infinity, 1e400."""
    number = F.lit(None) if field is None else _with_point(mapped(field), field).try_cast("double")
    return F.when(F.abs(number) < F.lit(math.inf), number).cast("double")  # Spark takes NaN for the largest number


def _with_point(text: Column, field: NumberMapping) -> Column:
    """A number's text as the parser wants it: 1.234,5 and 1 234,5 become 1234.5."""
    if field.decimal == ".":
        return text
    return F.translate(F.translate(text, ". \u00a0\u202f'", ""), ",", ".")


def mapped_attributes(attributes: Mapping[str, TextMapping]) -> Column:
    """A map from name to text; null if nothing is mapped."""
    pairs = [part for name, field in attributes.items() for part in (F.lit(name), mapped_text(field))]
    return F.create_map(*pairs) if pairs else F.lit(None).cast("map<string,string>")


def mapped_time(field: TimeMapping, is_typed: bool) -> Column:
    """The field's time in UTC; null if the text is not a time.

    Args:
        field: how to read it.
        is_typed: whether the source has columns of a time type: their text is a time whatever `format` or `unit` say.
    """
    text = mapped(field)
    instant = _typed_time(text, field) if is_typed else F.lit(None).cast("timestamp")
    if field.unit:
        return F.coalesce(_later(_origin(field), text, field.unit), instant)
    if field.clock and not field.clock_unit:
        text = F.concat_ws(" ", _day_of(text), F.trim(quoted(field.clock)))
    time = _time_of(text, field)
    if field.format:
        time = F.coalesce(time, instant)
    return _later(time, F.trim(quoted(field.clock)), field.clock_unit) if field.clock and field.clock_unit else time


def _typed_time(text: Column, field: TimeMapping) -> Column:
    time = F.when(text.rlike(_A_TIME), F.try_to_timestamp(text))
    return F.when(text.endswith("Z"), time).otherwise(_moved(time, field))


def _time_of(text: Column, field: TimeMapping) -> Column:
    """The time that the text says, in UTC."""
    if field.format:
        text = F.trim(F.regexp_replace(text, WEEKDAY_IN_TEXT, "")) if names_weekday(field.format) else text
        form = without_weekday(field.format)
        if field.year:
            text, form = F.concat(F.lit(f"{field.year} "), text), f"yyyy {form}"
        return _moved(F.try_to_timestamp(text, F.lit(form)), field)
    time = F.try_to_timestamp(text)
    names_a_zone = text.rlike(_ZONE) & F.regexp_replace(text, _ZONE, "").rlike(_CLOCK)  # 2024-02-01 has no zone
    return F.when(names_a_zone, time).otherwise(_moved(time, field))


def _day_of(text: Column) -> Column:
    """The text without the midnight that a date gets in a column of a time type."""
    return F.regexp_replace(text, r"[ T]00:00:00(\.0+)?Z?$", "")


def _origin(field: TimeMapping) -> Column:
    return F.lit(str(field.origin)).cast("timestamp") if field.origin else F.timestamp_micros(F.lit(0))


def _later(time: Column, text: Column, unit: str) -> Column:
    """The time that lies a number of units after `time`; null if the text is not a number."""
    if unit == "nanoseconds":  # a double has too few digits for them
        number = F.floor(text.try_cast("decimal(38,6)") / 1000).cast("double")
    else:
        number = text.try_cast("double") * MICROSECONDS[unit]
    inside = F.least(F.greatest(number, F.lit(-_FAR)), F.lit(_FAR))  # still out of range, but a valid timestamp
    after = F.timestamp_micros(F.unix_micros(time) + F.round(inside).cast("bigint"))
    return F.when(number.isNotNull(), after)


def _moved(time: Column, field: TimeMapping) -> Column:
    return F.to_utc_timestamp(time, field.timezone) if field.timezone else time


def raised(flags: Mapping[str, str]) -> Column:
    """An array of the values that the flags which are on stand for."""
    return F.array_compact(F.array(*(F.when(_flag(name).isin(*_ON), F.lit(what)) for name, what in flags.items())))


def unreadable_flags(flags: Mapping[str, str]) -> Column:
    """Whether a flag is neither on nor off nor empty."""
    odd = (F.coalesce(~_flag(name).isin(*_ON, *_OFF, ""), F.lit(False)) for name in flags)
    return reduce(Column.__or__, odd, F.lit(False))


def _flag(name: str) -> Column:
    return F.lower(F.trim(quoted(name)))
