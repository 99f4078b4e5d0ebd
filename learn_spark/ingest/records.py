"""Reads the records of a text file in Python: any encoding, any packing, values over several lines."""

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from learn_spark.config.formats import FilesSettings
from learn_spark.ingest.unpacking import open_file
from learn_spark.storage import beside

MOST_RECORD_CHARACTERS = 1 << 20  # of a record with an open quote; beyond, the quote is a fault
_BAD = "\ufdd0"  # a noncharacter, in place of bytes that are not in the encoding
REPLACEMENT = "\ufffd"
_BOM = "\ufeff"

codecs.register_error("mark", lambda error: (_BAD, error.end))  # pyright: ignore[reportAttributeAccessIssue]


def records(path: str, settings: FilesSettings) -> Iterator[tuple[str, bool]]:
    """Each record's text, and whether its bytes are all in `encoding`; without blank lines, comments, skipped lines.

    Bytes that are not in `encoding` become U+FFFD. A record is a line, or with `multiline` the lines that a quoted
    value spans. The header line of a csv is the first record.
    """
    for text in _joined(_lines(path, settings), settings):
        yield text.replace(_BAD, REPLACEMENT), _BAD not in text


def _lines(path: str, settings: FilesSettings) -> Iterator[str]:
    with open_file(beside(settings.path, path)) as stream:
        text = io.TextIOWrapper(stream, settings.encoding, errors="mark", newline=None)
        for number, line in enumerate(text):
            if number >= settings.skip_lines:
                yield (line.lstrip(_BOM) if number == settings.skip_lines else line).removesuffix("\n")


def _joined(lines: Iterable[str], settings: FilesSettings) -> Iterator[str]:
    """Joins lines to records; leaves out lines without text."""
    waiting: list[str] = []  # lines of a record whose last value is open
    length, inside = 0, ""
    for line in lines:
        if not waiting and not has_text(line, settings):
            continue
        waiting.append(line)
        length += len(line)
        inside = _open_value(line, inside, settings) if settings.multiline else ""
        if not inside:
            yield "\n".join(waiting)
        elif length > MOST_RECORD_CHARACTERS:
            yield from waiting
        else:
            continue
        waiting, length, inside = [], 0, ""
    yield from waiting  # nothing closed the value: each line stands for itself


def has_text(line: str, settings: FilesSettings) -> bool:
    """Whether a line is neither a comment nor blank, in the sense of Java's `trim`."""
    is_comment = settings.comment is not None and line.startswith(settings.comment)
    return not is_comment and any(character > " " for character in line)


def _open_value(line: str, inside: str, settings: FilesSettings) -> str:
    """The kind of value that continues after the line's end, `quoted` or `bare`; empty if none does.

    Args:
        line: without its line break.
        inside: the kind of value that the line begins in.
        settings: say what quotes and escapes are.
    """
    escapes_its_end = settings.escape == "\\" and (len(line) - len(line.rstrip("\\"))) % 2 == 1
    if settings.quote is not None:
        body = line[:-1] if escapes_its_end else line
        fields, closed, rest, bare = _patterns(settings.delimiter, settings.quote, settings.escape)
        begun = {"quoted": rest, "bare": bare}.get(inside)
        found = begun.match(body) if begun else None
        if found is None and inside == "quoted":
            return "quoted"
        found = fields.match(body, found.end() if found else 0)
        at = found.end() if found else 0
        if body.startswith(settings.quote, at) and closed.match(body, at) is None:
            return "quoted"
    return "bare" if escapes_its_end else ""


@lru_cache(maxsize=16)
def _patterns(delimiter: str, quote: str, escape: str) -> tuple[re.Pattern[str], ...]:
    """Patterns: whole fields with delimiters; a quoted value; an open quoted, and an open bare, value up to its end."""
    d, q = re.escape(delimiter), re.escape(quote)
    inside = rf"[^{q}]*+(?:{q}{q}[^{q}]*+)*+"
    if escape == "\\":
        inside = rf"[^{q}\\]*+(?:(?:\\.|{q}{q})[^{q}\\]*+)*+"
    bare = rf"(?:(?!{d}).)*+"
    patterns = (rf"(?:(?:{q}{inside}{q} *+|(?!{q}){bare}){d})*+", rf"{q}{inside}{q}")
    patterns += (rf"{inside}{q}{bare}(?:{d}|\Z)", rf"{bare}(?:{d}|\Z)")
    return tuple(re.compile(pattern, re.DOTALL) for pattern in patterns)
