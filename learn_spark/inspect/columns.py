"""What the values of a column look like: ids, times, numbers, texts, kinds of event. No Spark."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from learn_spark.inspect.spellings import Spelling, spelling

NULL_MARKERS = ("NA", "N/A", "n/a", "\\N", "NULL", "null", "nan", "NaN", "None", "(null)", "#N/A", "<NA>", "NaT")
KINDS = {
    *(
        "pv",
        "cart",
        "fav",
        "buy",
        "view",
        "click",
        "purchase",
        "order",
        "like",
        "impression",
        "exposure",
        "show",
        "play",
    ),
    *(
        "transaction",
        "addtocart",
        "add_to_cart",
        "remove_from_cart",
        "favorite",
        "favourite",
        "wishlist",
        "share",
        "pay",
    ),
    *("comment", "follow", "forward", "download", "install", "listen", "dislike", "unlike", "skip", "rate", "rating"),
    *(
        "review",
        "search",
        "checkout",
        "refund",
        "cancel",
        "return",
        "conversion",
        "bookmark",
        "read",
        "watch",
        "complete",
    ),
    *(
        "collect",
        "hate",
        "detail",
        "login",
        "logout",
        "signup",
        "session_start",
        "page_view",
        "pageview",
        "screen_view",
    ),
}
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval", "holdout", "prior"}
MOST_KINDS = 30
OWN_ID_SHARE, OWN_ID_ROWS = 0.98, 20
_WHOLE = re.compile(r"-?\d+(\.0+)?")
_FLOAT_ID = re.compile(r"\d+\.0")
_COMMA = re.compile(r"-?\d{1,3}(?:\.?\d{3})*,\d+|-?\d+")


@dataclass(frozen=True)
class SeenColumn:
    """A column's values, as text.

    Attributes:
        name: of the column.
        values: one per row, "" if the row has none.
    """

    name: str
    values: Sequence[str]

    @cached_property
    def nulls(self) -> Counter[str]:
        """Texts that mean null, with their counts; a text that could be a name counts only if it is frequent."""
        found = Counter(value.strip() for value in self.values if value.strip() in NULL_MARKERS)
        return Counter({text: n for text, n in found.items() if text == "\\N" or n >= 0.005 * len(self.values)})

    @property
    def empty(self) -> set[str]:
        """Texts that mean null, the empty one included."""
        return {"", *self.nulls}

    @cached_property
    def given(self) -> list[str]:
        """The values that are not null."""
        return [value for value in self.values if value.strip() and value.strip() not in self.nulls]

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each value occurs."""
        return Counter(self.given)

    @property
    def is_own_id(self) -> bool:
        """Whether nearly every row has a different value: then it is the row's id, not a user's or an item's."""
        return len(self.given) >= OWN_ID_ROWS and len(self.counts) >= OWN_ID_SHARE * len(self.given)

    @property
    def is_constant(self) -> bool:
        """Whether all rows have the same value, or none."""
        return len(self.counts) <= 1

    @cached_property
    def is_numeric(self) -> bool:
        """Whether all values are numbers."""
        return bool(self.given) and all(_is_number(value) for value in self.given[:2000])

    @cached_property
    def has_decimal_commas(self) -> bool:
        """Whether the values are numbers as in 1.234,5."""
        given = self.given[:2000]
        return not self.is_numeric and bool(given) and all(_COMMA.fullmatch(value.strip()) for value in given)

    @cached_property
    def is_whole(self) -> bool:
        """Whether all values are whole numbers."""
        return bool(self.given) and all(_WHOLE.fullmatch(value.strip()) for value in self.given[:2000])

    @cached_property
    def is_flag(self) -> bool:
        """Whether the values are 0 and 1."""
        return set(self.values) <= {"0", "1", "true", "false", "0.0", "1.0", ""}

    @cached_property
    def is_nested(self) -> bool:
        """Whether the values are JSON arrays or objects."""
        return bool(self.given) and all(value[0] in "[{" for value in self.given[:200])

    @cached_property
    def is_prose(self) -> bool:
        """Whether the values are words rather than codes."""
        sample = self.given[:500]
        worded = sum(
            bool(re.search(r"[^\W\d]{3}", value)) and (" " in value.strip() or _is_wide(value)) for value in sample
        )
        return bool(sample) and worded >= 0.5 * len(sample)

    @cached_property
    def spelling(self) -> Spelling | None:
        """How the values are written as times; None if they are not times."""
        return spelling(self.given)

    @cached_property
    def is_split(self) -> bool:
        """Whether the values name train and test rows."""
        values = {value.strip().lower() for value in self.counts}
        return 1 <= len(values) <= 5 and values <= SPLITS

    @cached_property
    def kinds_share(self) -> float:
        """The share of the distinct values that are usual names of events."""
        if not self.counts or len(self.counts) > MOST_KINDS:
            return 0.0
        return sum(is_kind(value) for value in self.counts) / len(self.counts)

    @property
    def float_ids(self) -> bool:
        """Whether whole numbers went through floats, as 17850.0."""
        return bool(self.given) and all(_FLOAT_ID.fullmatch(value) for value in self.given)

    @cached_property
    def steadiness(self) -> float:
        """The share of neighbouring values in the same order, up or down: a log is mostly written in order of time."""
        numbers = [float(value) for value in self.given] if self.is_numeric else self.given
        pairs = [(a, b) for a, b in zip(numbers, numbers[1:], strict=False) if a != b]  # pyright: ignore - of one type
        ups = sum(a < b for a, b in pairs)  # pyright: ignore
        return max(ups, len(pairs) - ups) / len(pairs) if pairs else 0.0


def is_kind(value: str) -> bool:
    """Whether a text is, or has as one of its words, a usual name of an event."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", value.strip()).lower().replace("-", "_")
    words = [word for word in re.split(r"[\s_.:/]+", text) if word]
    forms = {text, text.rstrip("s"), *(word.rstrip("s") for word in words), *words}
    stems = {re.sub(r"(ed|d|ing)$", "", form) for form in forms}
    return bool((forms | stems) & KINDS)


def columns_of(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, SeenColumn]:
    """The columns by name."""
    return {name: SeenColumn(name, [row.get(name, "") for row in rows]) for name in names}


def determines(key: SeenColumn, other: SeenColumn) -> float:
    """Of the rows whose key repeats, the share with the most frequent other value of their key."""
    by_key: dict[str, Counter[str]] = {}
    for a, b in zip(key.values, other.values, strict=True):
        if a.strip() and b.strip():
            by_key.setdefault(a, Counter())[b] += 1
    repeated = [counts for counts in by_key.values() if counts.total() > 1]
    total = sum(counts.total() for counts in repeated)
    return sum(counts.most_common(1)[0][1] for counts in repeated) / total if total else 0.0


def overlap(values: Iterable[str], others: Iterable[str]) -> float:
    """The share of the distinct values that are among the others, too."""
    own, other = set(values), set(others)
    return len(own & other) / len(own) if own else 0.0


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _is_wide(text: str) -> bool:
    return any(ord(char) > 0x2E7F for char in text)
