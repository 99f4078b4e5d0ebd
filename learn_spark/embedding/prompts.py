"""From an item's fields to the prompt that the encoder reads: versioned templates of column functions."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F

from learn_spark.core.errors import ConfigError

# Invisible and without meaning: soft hyphen, zero-width space, direction marks, byte order mark.
# The zero-width joiners U+200C and U+200D stay: emoji, Persian and Indic scripts need them.
_INVISIBLE = "[\\u00AD\\u200B\\u200E\\u200F\\u202A-\\u202E\\u2060-\\u2064\\u2066-\\u2069\\uFEFF]+"
_BLANK = "[\\p{Cc}\\p{Cs}\\p{Z}]+"
_FOLDED_BLOCKS = ((0x00AA, 0x00BA), (0x2070, 0x209C), (0x2460, 0x2468), (0x3000, 0x3000), (0xFF01, 0xFFEE))


@dataclass(frozen=True)
class Template:
    """A prompt by its version; a change of wording is a new version, as texts are keyed by it.

    Attributes:
        version: goes into every text's hash.
        render: makes the prompt from the columns of `items`; never null or empty.
    """

    version: str
    render: Callable[[], Column]


def template(name: str) -> Template:
    """A template by the name that `embedding.template` gives.

    Raises:
        ConfigError: if there is none, naming those that there are.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"embedding.template: unknown template {name!r}; there are {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]


def text_hash(version: str, prompt: Column) -> Column:
    """The key of a text: sha256 of the template's version and the prompt, in hex."""
    return F.sha2(F.concat(F.lit(f"{version}\n"), prompt), 256)


def normalised(text: Column) -> Column:
    """Clean text, or null where nothing is left.

    Compatibility forms of one character are folded as NFKC does (full-width letters, half-width kana, circled
    digits, superscripts); Spark has no further normal form. What cannot be seen goes, control characters and
    runs of white space become one space.
    """
    folded = F.translate(F.make_valid_utf8(text), *_FOLD)
    visible = F.regexp_replace(folded, _INVISIBLE, "")
    return F.nullif(F.trim(F.regexp_replace(visible, _BLANK, " ")), F.lit(""))


def _fold_table() -> tuple[str, str]:
    """Characters of the folded blocks whose NFKC form is one other character, and those forms."""
    pairs = [
        (chr(code), unicodedata.normalize("NFKC", chr(code)))
        for first, last in _FOLDED_BLOCKS
        for code in range(first, last + 1)
        if unicodedata.category(chr(code)) != "Cn"
    ]
    kept = [(raw, form) for raw, form in pairs if len(form) == 1 and form != raw]
    return "".join(raw for raw, _ in kept), "".join(form for _, form in kept)


def _title() -> Column:
    return F.concat(F.lower(_or_empty(F.col("title"))), F.lit("."))


def _industrial() -> Column:
    """The paper's six fields of an industrial item (LEARN, section 3.2), a line each, empty ones left out."""
    price = F.col("price")
    fields = {
        "title": _or_empty(F.col("title")),
        "category": normalised(F.col("category")),
        "brand": normalised(F.col("brand")),
        "price": F.when(price.isNotNull() & ~F.isnan(price), F.format_string("%.2f", price)),
        "keywords": normalised(F.col("keywords")),
        "attributes": _attributes(),
    }
    return F.concat_ws("\n", *(F.concat(F.lit(f"{name}: "), value) for name, value in fields.items()))


def _attributes() -> Column:
    """`name: value; …`, sorted so that a map's order changes no hash; empty values are left out."""
    pairs = F.transform(
        F.array_sort(F.map_entries(F.col("attributes"))),
        lambda entry: F.concat(normalised(entry["key"]), F.lit(": "), normalised(entry["value"])),
    )
    return F.nullif(F.array_join(pairs, "; "), F.lit(""))


def _or_empty(text: Column) -> Column:
    return F.coalesce(normalised(text), F.lit(""))


_FOLD = _fold_table()

TEMPLATES = {
    "title": Template("title-1", _title),
    "industrial": Template("industrial-1", _industrial),
}
