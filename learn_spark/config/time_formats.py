"""Datetime patterns: what Spark's parser takes, told before any job starts; names of weekdays are dropped."""

import re
from collections.abc import Iterator

# Of each letter how often it may stand in a row, as Spark 4 and java.time have it.
_MOST = {"G": 4, "y": 6, "M": 4, "L": 4, "d": 2, "D": 3, "a": 1, "H": 2, "k": 2, "K": 2, "h": 2, "m": 2, "s": 2}
_MOST |= {"S": 9, "V": 2, "z": 4, "O": 4, "X": 5, "x": 5, "Z": 5}
_WHY_NOT = {
    "F": "week of a month: Spark writes it and does not read it",
    "q": "quarter: Spark writes it and does not read it",
    "Q": "quarter: Spark writes it and does not read it",
    **dict.fromkeys("YWwu", "week-based years, weeks and weekdays: write the year as yyyy"),
    "j": "no letter of datetime patterns",
}
ZONE_LETTERS = set("VzOXxZ")
_TOKENS = re.compile(r"'(?:[^']|'')*'|([A-Za-z])\1*|[^A-Za-z]", re.DOTALL)
# In a text, with what parts it from the rest: English, as Spark reads months.
WEEKDAY_IN_TEXT = r"(?i)\b(mon|tue|wed|thu|fri|sat|sun)(s|nes|rs|ur)?(day)?\b[\s,]*"


def letters(pattern: str) -> Iterator[str]:
    """Runs of pattern letters outside of quotes, as yyyy, MM, dd."""
    return (found[0] for found in _TOKENS.finditer(pattern) if found[1])


def names_weekday(pattern: str) -> bool:
    """Whether the pattern holds the name of a weekday, which no parser needs."""
    return any(run[0] == "E" for run in letters(pattern))


def without_weekday(pattern: str) -> str:
    """The pattern without the weekday, and without the blanks and commas after it."""
    kept, skips = [], False
    for found in _TOKENS.finditer(pattern):
        if found[1] == "E":
            skips = True
        elif not (skips and found[0] in " ,"):
            kept.append(found[0])
            skips = False
    return "".join(kept).rstrip(" ,") if names_weekday(pattern) else pattern


def problem_of(pattern: str) -> str:
    """Why Spark cannot read times by this pattern; empty where it can."""
    if pattern.count("'") % 2:
        return "a ' is never closed"
    bare = re.sub(r"'(?:[^']|'')*'", "", pattern)
    for run in letters(without_weekday(pattern)):
        letter, times = run[0], len(run)
        if letter not in _MOST:
            return f"{letter} is {_WHY_NOT.get(letter, 'no letter that Spark reads')}"
        if times > _MOST[letter] or (letter == "V" and times != 2) or (letter == "O" and times not in (1, 4)):
            return f"{run} is longer or shorter than Spark reads"
    if set(bare) & set("{}#") or not _balanced(bare):
        return "{, } and # mean nothing, and every [ needs its ]"
    return "" if re.search("[A-Za-z]", bare) else "it holds no letter"


def _balanced(bare: str) -> bool:
    depth = 0
    for character in bare:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0
