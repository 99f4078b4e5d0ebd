"""Turns an item's fields into the prompt that the encoder reads: versioned templates of column functions."""

import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from html.entities import name2codepoint

from pyspark.sql import Column
from pyspark.sql import functions as F

from learn_spark.errors import ConfigError

# Invisible and without meaning: soft hyphen, zero-width space, direction marks, byte order mark.
# The zero-width joiners U+200C and U+200D stay: emoji, Persian and Indic scripts need them.
_INVISIBLE = "[\\u00AD\\u200B\\u200E\\u200F\\u202A-\\u202E\\u2060-\\u2064\\u2066-\\u2069\\uFEFF]+"
_BLANK = "[\\p{Cc}\\p{Cs}\\p{Z}]+"
# Tags are known by the names of HTML's elements, so that "<3", "a < b" and a size "<XL>" stay. Every pattern ends at
# the next angle bracket, so that its time is linear in the text's length, whatever the text.
_ELEMENTS = (
    "a|abbr|article|aside|audio|b|big|blockquote|body|br|button|caption|center|cite|code|col|colgroup|dd|del|div|dl|dt|em"
    "|embed|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li|link|main|meta"
    "|nav|noscript|object|ol|option|p|param|picture|pre|q|s|script|section|select|small|source|span|strike|strong|style"
    "|sub|sup|svg|table|tbody|td|textarea|tfoot|th|thead|title|tr|tt|u|ul|video|wbr"
)
_UNSEEN_ELEMENTS = r"(?i)<(script|style)\b[^<>]*>[^<]*</\1\s*>"
_TAGS = rf"(?i)</?(?:{_ELEMENTS})(?:\s[^<>]*|/)?>|<!--[^<>]*-->"
_AROUND_ENTITIES = "(?=&)|(?<=;)"
_NUMBER = "^&#(?:[0-9]{1,7}|[xX][0-9a-fA-F]{1,6});$"
_FOLDED_BLOCKS = ((0x00AA, 0x00BA), (0x2070, 0x209C), (0x2460, 0x2468), (0x3000, 0x3000), (0xFF01, 0xFFEE))


@dataclass(frozen=True)
class Template:
    """A prompt template; any change of its wording needs a new version, since texts are keyed by the version.

    Attributes:
        version: goes into every text's hash.
        render: makes the prompt from the columns of `items`; never null, empty if an item has none of the fields.
    """

    version: str
    render: Callable[[], Column]


def template(name: str) -> Template:
    """The template that `embedding.template` names.

    Raises:
        ConfigError: there is no such template; the message names the known ones.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"embedding.template: unknown template {name!r}; there are {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]


def text_hash(version: str, prompt: Column) -> Column:
    """The key of a text: sha256 of the template's version and the prompt, in hex."""
    return F.sha2(F.concat(F.lit(f"{version}\n"), prompt), 256)


def normalised(text: Column) -> Column:
    """Cleans a text; null if nothing is left.

    HTML's entities become characters, its tags are removed. Compatibility forms of one character are folded as NFKC
    does (full-width letters, half-width kana, circled digits, superscripts); Spark has no full normalisation. Invisible
    characters are removed; runs of control characters and white space become one space. Nothing is truncated here: the
    encoder does that by tokens.
    """
    plain = _without_tags(_with_entities_decoded(F.make_valid_utf8(text)))
    visible = F.regexp_replace(F.translate(plain, *_FOLD), _INVISIBLE, "")
    return F.nullif(F.trim(F.regexp_replace(visible, _BLANK, " ")), F.lit(""))


def _without_tags(text: Column) -> Column:
    return F.regexp_replace(F.regexp_replace(text, _UNSEEN_ELEMENTS, " "), _TAGS, " ")


def _with_entities_decoded(text: Column) -> Column:
    """Decodes `&amp;`, `&eacute;`, `&#39;` and `&#x4e2d;` to characters; what is not an HTML entity stays."""
    pieces = F.transform(F.split(text, _AROUND_ENTITIES), _decoded)
    return F.when(F.contains(text, F.lit("&")), F.array_join(pieces, "")).otherwise(text)


def _decoded(piece: Column) -> Column:
    digits = F.regexp_replace(piece, "[&#xX;]", "")
    is_hex = F.lower(piece).startswith("&#x")
    code = F.when(is_hex, F.conv(digits, 16, 10)).otherwise(F.conv(digits, 10, 10)).cast("int")
    is_character = code.between(1, 0xD7FF) | code.between(0xE000, 0x10FFFF)
    character = F.decode(F.unhex(F.lpad(F.hex(code), 8, "0")), "UTF-32")
    named = F.element_at(F.from_json(F.lit(_ENTITIES), "map<string, string>"), piece)
    return (
        F.when(piece.rlike(_NUMBER), F.when(is_character, character).otherwise("\ufffd"))
        .when(piece.startswith("&"), F.coalesce(named, piece))
        .otherwise(piece)
    )


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
    return F.coalesce(F.concat(F.lower(normalised(F.col("title"))), F.lit(".")), F.lit(""))


def _lines(labels: Mapping[str, str]) -> Column:
    """A line for each field that an item has: `label: value`."""
    return F.concat_ws("\n", *(F.concat(F.lit(label), _FIELDS[field]()) for field, label in labels.items()))


def _price() -> Column:
    price = F.col("price")
    return F.when(price.isNotNull() & ~F.isnan(price), F.format_string("%.2f", price))


def _attributes() -> Column:
    """`name: value; …`, sorted so that the map's order does not change the hash; empty values are left out."""
    pairs = F.transform(
        F.array_sort(F.map_entries(F.col("attributes"))),
        lambda entry: F.concat(normalised(entry["key"]), F.lit(": "), normalised(entry["value"])),
    )
    return F.nullif(F.array_join(pairs, "; "), F.lit(""))


_FOLD = _fold_table()
_ENTITIES = json.dumps({f"&{name};": chr(code) for name, code in {**name2codepoint, "apos": 39}.items()})

_FIELDS = {
    "title": lambda: normalised(F.col("title")),
    "category": lambda: normalised(F.col("category")),
    "brand": lambda: normalised(F.col("brand")),
    "price": _price,
    "keywords": lambda: normalised(F.col("keywords")),
    "attributes": _attributes,
}
# The six fields of an industrial item (LEARN, section 3.2), and the first three of them.
_SIX = {field: f"{field}: " for field in _FIELDS}
_SIX_ZH = dict(zip(_FIELDS, ("标题：", "类目：", "品牌：", "价格：", "关键词：", "属性："), strict=True))
_THREE = ("title", "category", "brand")

TEMPLATES = {
    "title": Template("title-2", _title),
    "brief": Template("brief-1", partial(_lines, {field: _SIX[field] for field in _THREE})),
    "brief_zh": Template("brief_zh-1", partial(_lines, {field: _SIX_ZH[field] for field in _THREE})),
    "industrial": Template("industrial-2", partial(_lines, _SIX)),
    "industrial_zh": Template("industrial_zh-1", partial(_lines, _SIX_ZH)),
}
