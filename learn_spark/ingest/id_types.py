"""The types of the columns that hold ids. A changed type is reported, since something upstream has changed."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from learn_spark.ingest.reading import SourceLines

_log = logging.getLogger(__name__)
_WHOLE = {"tinyint", "smallint", "int", "bigint", "decimal(20,0)"}


def id_types(sources: Iterable[SourceLines]) -> dict[str, dict[str, str]]:
    """By column, the types that it has in these files, and the first file with each; empty for untyped formats."""
    found: dict[str, dict[str, str]] = {}
    for settings, file in ((each.settings, file) for each in sources for file in each.good):
        kinds = dict(zip(file.columns, file.types, strict=False))
        for name in settings.id_columns():
            if name in kinds:
                kind = "whole number" if kinds[name] in _WHOLE else kinds[name]
                found.setdefault(name, {}).setdefault(kind, file.path)
    return found


def say_changed_types(found: Mapping[str, Mapping[str, str]], earlier: Iterable[Mapping[str, Sequence[str]]]) -> None:
    """Warns of each column that has a new type and more than one type, in these files or since earlier runs."""
    before: dict[str, set[str]] = {}
    for types in earlier:
        for name, kinds in types.items():
            before.setdefault(name, set()).update(kinds)
    for name, kinds in found.items():
        known = before.get(name, set())
        new = [kind for kind in kinds if kind not in known]
        if new and len({*known, *kinds}) > 1:
            said = "; ".join(f"{kind} in {path}" for kind, path in kinds.items())
            was = f", before this run {' and '.join(sorted(known))}" if known else ""
            _log.warning(
                "ingest_events: warning: the type of %s changes: %s%s; a whole number is the same id in each",
                *(name, said, was),
            )
