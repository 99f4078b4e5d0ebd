"""Parses csv lines by their dialect; a line whose quotes do not match is malformed, its values are never guessed."""

import re

from pyspark.sql import Column
from pyspark.sql import functions as F

from learn_spark.config.formats import FilesSettings

CORRUPT = "_corrupt_record"
MOST_COLUMNS = 1 << 20  # the parser holds 8 bytes for each
_PAIR, _DELIMITER = "\ufdd1", "\ufdd2"  # noncharacters: they replace others while a line is parsed
_ESCAPED = {"\\": "\ufdd3", "n": "\ufdd4", "r": "\ufdd5", "t": "\ufdd6", "\n": "\ufdd7", "quote": "\ufdd8"}
_MEANT = {"n": "\n", "r": "\r", "t": "\t"}


def with_fields(text: Column, settings: FilesSettings, number: int) -> Column:
    """A struct of `_0`, `_1` and so on, and `_corrupt_record`, which holds a malformed line's text."""
    schema = ", ".join([*(f"_{place} string" for place in range(number)), f"{CORRUPT} string"])
    options = {
        "sep": settings.delimiter,
        "quote": settings.quote or "",
        "escape": settings.quote or '"',
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": CORRUPT,
        "maxColumns": str(MOST_COLUMNS),  # a line with more stops the job; a broken file may exceed the default, 20,480
    }
    return F.from_csv(_hidden(text, settings), schema, options)


def value_of(field: Column, settings: FilesSettings) -> Column:
    """A field of the struct, with its escaped characters restored."""
    if settings.escape != "\\":
        return field
    shown = F.translate(field, "".join(_ESCAPED.values()), _meant(settings))
    shown = F.replace(shown, F.lit(_DELIMITER), F.lit(settings.delimiter))
    return F.when(field.rlike("[\ufdd2-\ufdd8]"), shown).otherwise(field)


def _meant(settings: FilesSettings) -> str:
    return "".join(_MEANT.get(each, each) if each != "quote" else settings.quote or '"' for each in _ESCAPED)


def _hidden(text: Column, settings: FilesSettings) -> Column:
    """The line with a noncharacter in place of each escaped character, so that the parser does not interpret it."""
    if settings.escape != "\\":
        return text
    hidden = F.replace(text, F.lit("\\\\"), F.lit(_ESCAPED["\\"]))  # escaped escapes come first, from the left
    hidden = F.replace(hidden, F.lit(f"\\{settings.delimiter}"), F.lit(_DELIMITER))
    for each, stands in _ESCAPED.items():
        if each != "\\":
            meant = settings.quote or '"' if each == "quote" else each
            hidden = F.replace(hidden, F.lit(f"\\{meant}"), F.lit(stands))
    return F.when(F.contains(text, F.lit("\\")), hidden).otherwise(text)


def is_well_formed(text: Column, settings: FilesSettings) -> Column:
    """Whether each field is bare, or quoted from its first character to its last.

    The patterns repeat no group, since Java's regex engine recurses once per repetition. Each pair of quotes is first
    replaced by one character, so that the length of a run of quotes at a field's beginning decides what it means.
    """
    quote = settings.quote
    if quote is None:
        return F.lit(True)
    delimiter = settings.delimiter
    line = F.replace(_hidden(text, settings), F.lit(quote * 2), F.lit(_PAIR))
    if len(delimiter) > 1:
        line, delimiter = F.replace(line, F.lit(delimiter), F.lit(_DELIMITER)), _DELIMITER
    q, d = re.escape(quote), re.escape(delimiter)
    blanks = "" if delimiter == " " else " *+"
    quoted = rf"{_PAIR}*+{q}[^{q}]*+{q}{blanks}|{_PAIR}++{blanks}"
    fields = rf"\G(?:{quoted}|(?![{q}{_PAIR}])[^{d}]*+)(?:{d}|\z)"
    return ~F.contains(text, F.lit(quote)) | (F.regexp_replace(line, fields, "") == "")
