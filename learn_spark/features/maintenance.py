"""Keeps the lake small: expires old releases, compacts small files, deletes files that nobody reads."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from learn_spark.features.item_life import forget_states
from learn_spark.lake.schemas import TABLES
from learn_spark.releases.registry import EXPIRED, READABLE, Release, find_release, is_published, releases, set_status
from learn_spark.releases.release import FEATURE_TABLES
from learn_spark.runs.steps import Context

_LEAST_STATE_DAYS = 7


def maintain_tables(context: Context, names: Collection[str] = tuple(TABLES)) -> dict[str, Any]:
    """Expires old releases; compacts and vacuums all tables, or those that are named.

    The `releases.keep_releases` releases that were published last stay readable by id, with all days that they show.
    The others get the status `expired` before their rows are deleted. A file stays if a kept release names a table
    version that reads it, so that the release's inputs stay readable, too.

    Returns:
        `kept` and `expired`, the ids of releases; `tables`: by table, what was compacted, and the hours of versions
        that were kept.
    """
    tables, settings = context.tables, context.config.releases
    known = releases(tables)
    kept, gone = _split(known, settings.keep_releases)
    loaded = [find_release(tables, release.release_id) for release in kept]
    set_status(tables, [release for release in gone if release.status in READABLE], EXPIRED)
    _delete_rows(context, loaded)
    forget_states(context, max(context.config.ingest.late_days, _LEAST_STATE_DAYS))
    done = {}
    for name in names:
        files = tables.compact(name)
        hours = vacuum_hours(context, name, loaded)
        tables.vacuum(name, hours)
        done[name] = {**files, "kept_hours": round(hours, 1)}
    return {"kept": [release.release_id for release in kept], "expired": [r.release_id for r in gone], "tables": done}


def vacuum_hours(context: Context, name: str, kept: list[Release]) -> float:
    """The hours of versions to keep: `releases.vacuum_hours`, or more if a kept release names an older version."""
    named = [{**release.inputs, **release.tables}.get(name) for release in kept]
    times = [context.tables.committed_at(name, version) for version in named if version is not None]
    reach = [(datetime.now(UTC) - time).total_seconds() / 3600 + 1 for time in times if time is not None]
    return max([float(context.config.releases.vacuum_hours), *reach])


def _split(known: list[Release], keep: int) -> tuple[list[Release], list[Release]]:
    """The releases that stay readable, and the other readable ones, which are to expire."""
    kept = [release for release in known if is_published(release)][:keep]
    ids = {release.release_id for release in kept}
    return kept, [release for release in known if release.release_id not in ids and release.status in READABLE]


def _delete_rows(context: Context, kept: list[Release]) -> None:
    """Deletes the feature rows that no kept release shows; nothing if there is no published release."""
    shown = sorted({(part.release_id, day) for release in kept for day, part in release.parts.items()})
    if not shown:
        return
    days: dict[str, list[str]] = {}
    for release_id, day in shown:
        days.setdefault(release_id, []).append(f"DATE'{day}'")
    is_shown = " OR ".join(f"(release_id = '{name}' AND ds IN ({', '.join(its)}))" for name, its in days.items())
    for table in FEATURE_TABLES:
        if not context.tables.read(table).where(f"NOT ({is_shown})").isEmpty():
            context.tables.delete(table, f"NOT ({is_shown})")
