"""Guesses the encoding of bytes from the text that they would spell. No Spark."""

import re
import unicodedata
from collections.abc import Callable

BOMS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
SURE = 0.7
_FALLBACK = "iso-8859-1"
_CJK = re.compile("[\u3400-\u9fff]")
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_TYPOGRAPHY = set("’‘“”„–—…€™©®°«»·•")
_CYRILLIC = {*map(chr, range(0x410, 0x450)), *"ЁёІіЇїЄєҐґ«»№–—"}


def encoding_of(sample: bytes) -> tuple[str, bool]:
    """The likeliest encoding of whole lines, and whether it is sure.

    utf-8 and utf-16 are recognised for certain. Each of the other encodings can decode nearly any bytes, so the one
    wins whose characters look most like written text: common characters of a script, lower case inside words.
    """
    for mark, name in BOMS:
        if sample.startswith(mark):
            return name, True
    if _decoded(sample, "utf-8") is not None:
        return "utf-8", True
    found = max(_CANDIDATES, key=lambda name: _score(sample, name))
    score = _score(sample, found)
    return (found if score > 0 else _FALLBACK), score >= SURE


def _decoded(sample: bytes, encoding: str) -> str | None:
    try:
        return sample.decode(encoding)
    except UnicodeDecodeError:
        return None


def _score(sample: bytes, encoding: str) -> float:
    """The share of the non-ASCII characters that fit a text in this encoding's languages."""
    text = _decoded(sample, encoding)
    if text is None:
        return 0.0
    others = [place for place, char in enumerate(text) if ord(char) > 127]
    fits = _CANDIDATES[encoding]
    return sum(fits(text, place) for place in others) / len(others) if others else 0.0


def _common_chinese(text: str, place: int) -> float:
    """1 for GB 2312's first level, the 3,755 characters of nearly all texts, 0.5 for its others, 0 for the rest."""
    char = text[place]
    if unicodedata.category(char)[0] == "P":
        return 1.0
    try:
        return 1.0 if 0xB0 <= char.encode("gb2312")[0] <= 0xD7 else 0.5
    except UnicodeEncodeError:
        return 0.0


def _common_taiwanese(text: str, place: int) -> float:
    """Whether the character is in Big5's first level."""
    try:
        return 0xA1 <= text[place].encode("big5")[0] <= 0xC6 and bool(_CJK.match(text[place]))
    except UnicodeEncodeError:
        return False


def _japanese(text: str, place: int) -> float:
    """Whether it is kana, or a Chinese character near kana: Chinese texts decoded as Japanese have no kana."""
    near = text[max(0, place - 12) : place + 13]
    return bool(_KANA.match(text[place]) or (_CJK.match(text[place]) and _KANA.search(near)))


def _korean(text: str, place: int) -> float:
    return bool(_HANGUL.match(text[place]))


def _cyrillic(text: str, place: int) -> float:
    """Whether it is a letter of the usual alphabets in a word of such letters, and lower case after lower case."""
    char, before = text[place], text[place - 1 : place]
    fits = char in _CYRILLIC and not (before.isascii() and before.isalpha()) and not _beside(text, place)
    return fits and (char.islower() or not before.islower())


def _latin(text: str, place: int) -> float:
    """Whether it is a letter in a word with ASCII letters, and lower case after lower case; or typography."""
    char, before = text[place], text[place - 1 : place]
    if char in _TYPOGRAPHY:
        return 1.0
    return char.isalpha() and _beside(text, place) and (char.islower() or not before.islower())


def _beside(text: str, place: int) -> bool:
    """Whether an ASCII letter is at most two places away from the character."""
    near = text[max(0, place - 2) : place + 3]
    return any(char.isascii() and char.isalpha() for char in near)


_CANDIDATES: dict[str, Callable[[str, int], float]] = {  # of equal scores the first wins
    "cp1252": _latin,
    "cp1250": lambda text, place: 0.9 * _latin(text, place),
    "cp1251": _cyrillic,
    "koi8-r": _cyrillic,
    "shift_jis": _japanese,
    "euc_jp": _japanese,
    "euc_kr": _korean,
    "gb18030": _common_chinese,
    "big5": _common_taiwanese,
}
