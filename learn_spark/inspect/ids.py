"""Finds the columns of user and item by name, by what joins a catalogue, and by how values repeat. No Spark."""

from collections.abc import Iterable, Mapping

from learn_spark.inspect.columns import SeenColumn, determines, overlap
from learn_spark.inspect.names import named, ranked

GOOD_OVERLAP = 0.3
DETERMINED = 0.95


def joining(columns: Mapping[str, SeenColumn], keys: Iterable[SeenColumn]) -> dict[str, float]:
    """Scores of the columns that join a catalogue's key: the share of values that the key has, more for equal names."""
    scores: dict[str, float] = {}
    for key in keys:
        if named("user_id", [key.name]) and not named("item_id", [key.name]):
            continue  # a table of people
        for name, column in columns.items():
            share = overlap(column.counts, key.counts)
            if share >= GOOD_OVERLAP and not column.is_flag:
                bonus = (name == key.name) + 0.5 * (named("item_id", [name]) is not None)
                bonus -= 2 * (named("user_id", [name]) is not None)
                scores[name] = max(scores.get(name, 0.0), share + bonus)
    return scores


def user_and_item(columns: Mapping[str, SeenColumn], joined: Mapping[str, float]) -> tuple[str, str, str] | None:
    """User, item, and why: by what joins a catalogue, by name, else by the values; None if they are not found."""
    usable = {name: column for name, column in columns.items() if _may_be_id(column)}
    shared = max((name for name in usable if name in joined), key=lambda name: joined[name], default=None)
    by_name = [name for name in ranked("item_id", usable) if name not in ranked("user_id", usable)[:1]]
    item = shared if shared and joined[shared] >= 0.5 else next(iter(by_name), None)
    why = ", whose values a catalogue has" if item is not None and item == shared else ""
    user = next((name for name in ranked("user_id", usable) if name != item), None)
    if item is None:
        item = _by_content(usable, user)
    if user is None:
        rest = [
            name
            for name in usable
            if name != item and (item is None or determines(usable[item], usable[name]) < DETERMINED)
        ]
        user = next((name for name in rest if not usable[name].is_prose), None) or next(iter(rest), None)
    if item is None:
        item = next((name for name in usable if name != user), None)
    return (user, item, why) if user and item and user != item else None


def _may_be_id(column: SeenColumn) -> bool:
    """Whether a column may hold ids: it is no row's own id, not constant, not nested, and has no fractions."""
    if column.is_own_id or column.is_nested or column.is_split:
        return False
    if column.is_constant and len(column.given) > 50:
        return False
    return not (column.is_numeric and not column.is_whole)


def _by_content(columns: Mapping[str, SeenColumn], user: str | None) -> str | None:
    """Of the codes that determine another column, as an item's id does its title, the one with most values."""
    codes = {name: c for name, c in columns.items() if name != user and not c.is_prose and len(c.counts) > 2}
    scores = {
        name: sum(
            determines(code, other) >= DETERMINED
            for other in columns.values()
            if other.name not in (name, user) and 2 < len(other.counts) <= len(code.counts)
        )
        for name, code in codes.items()
    }
    telling = [name for name, score in scores.items() if score]
    return max(telling, key=lambda name: len(codes[name].counts), default=None)


def id_options(column: SeenColumn) -> dict[str, object]:
    """The mapping's options for ids that went through floats, as 17850.0."""
    return {"strip_suffix": ".0"} if column.float_ids else {}
