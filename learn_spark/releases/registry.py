"""The registry of releases: which one is current, what a release shows, how it is withdrawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from learn_spark.errors import ConfigError
from learn_spark.lake.frames import only_row
from learn_spark.lake.schemas import RELEASES
from learn_spark.lake.tables import Tables

CURRENT = "current"
PUBLISHED, ROLLED_BACK, FAILED, EXPIRED = "published", "rolled_back", "failed", "expired"
READABLE = (PUBLISHED, ROLLED_BACK)
_NAMED = 10  # most releases that an error lists


@dataclass(frozen=True)
class Part:
    """A feature day of a release: under which release_id its rows lie, and how many they are."""

    release_id: str
    users: int = 0
    items: int = 0
    pairs: int = 0


@dataclass(frozen=True)
class Release:
    """A release: it has rows of its own for `days`, and takes over other days unchanged; `parts` are all its days.

    Attributes:
        models: fingerprints of `towers` and `cvr`, their `space` if they were mapped into an earlier one, the name of
            the item `codes` and the digest of their `codebook` if there are some, and MLflow's registered versions.
        inputs: Delta versions that its rows were made from.
        tables: Delta versions of the feature tables when it was published.
        gates: (name, value, lower, upper, passed) of every gate.
    """

    release_id: str
    days: tuple[date, ...]
    models: dict[str, str]
    inputs: dict[str, int]
    parts: dict[date, Part]
    status: str = ""
    published_at: datetime | None = None
    tables: dict[str, int] = field(default_factory=dict)
    encoder_id: str = ""
    widths: dict[str, int] = field(default_factory=dict)
    gates: tuple[tuple[Any, ...], ...] = ()

    @property
    def space(self) -> tuple[str, str]:
        """The spaces of the towers' vectors and of mid_emb: the fingerprints of the models that began them.

        A consumer of one release's vectors can read those of any release of the same space.
        """
        if "space" not in self.models:
            return self.models["towers"], self.models["cvr"]
        towers, cvr = self.models["space"].split("-")
        return towers, cvr

    def gate(self, name: str) -> float | None:
        """The figure of a gate; None if the release had no gate of this name."""
        return next((value for gate, value, *_ in self.gates if gate == name), None)


def releases(tables: Tables) -> list[Release]:
    """All releases, the newest first, without their parts, which grow with a release's days."""
    _require_lake(tables)
    rows = tables.read(RELEASES.name).withColumn("parts", F.array()).orderBy(F.desc("published_at")).collect()
    return [_from_row(row) for row in rows]


def find_release(tables: Tables, name: str = CURRENT, readable: bool = True) -> Release:
    """A release by its id, or `current`: the one that was published last and not rolled back.

    Args:
        tables: the lake.
        name: an id, or `current`.
        readable: refuse a release whose rows cannot be read.

    Raises:
        ConfigError: there is no such release (the message lists the existing ones), or it cannot be read.
    """
    known = releases(tables)
    found = next((each for each in known if name in (each.release_id, CURRENT if is_published(each) else None)), None)
    if found is None:
        there_are = ", ".join(f"{each.release_id} ({each.status})" for each in known[:_NAMED]) or "none"
        asked = "no release is published" if name == CURRENT else f"unknown release {name!r}"
        raise ConfigError(f"{asked} in {tables.root}; there are {there_are}")
    if readable and found.status not in READABLE:
        raise ConfigError(f"release {found.release_id} is {found.status}, it has no rows to read; take `{CURRENT}`")
    return _loaded(tables, found.release_id)


def newest_release(
    tables: Tables, models: Mapping[str, str], other_than: str = "", without: Mapping[str, str] | None = None
) -> Release | None:
    """The release by these models, or by any if none are named, that was published last; None if there is none.

    Args:
        tables: the lake.
        models: names and fingerprints.
        other_than: the id of a release that does not count.
        without: names and fingerprints of models whose releases do not count.
    """
    is_asked = (F.col("status") == PUBLISHED) & (F.col("release_id") != other_than)
    for name, fingerprint in models.items():
        is_asked &= F.col("model_versions")[name] == fingerprint
    for name, fingerprint in (without or {}).items():
        is_asked &= F.col("model_versions")[name] != fingerprint
    newest = tables.read(RELEASES.name).where(is_asked).orderBy(F.desc("published_at")).first()
    return _from_row(newest) if newest else None


def rows_of(tables: Tables, release: Release, table: str) -> DataFrame:
    """The rows of a feature table that a release shows: each of its days under that day's release_id."""
    ids = sorted({part.release_id for part in release.parts.values()})
    pairs = [f"{day} {part.release_id}" for day, part in release.parts.items()]
    in_reach = F.col("ds").between(min(release.parts), max(release.parts)) & F.col("release_id").isin(ids)
    return tables.read(table).where(in_reach & F.concat_ws(" ", F.col("ds").cast("string"), "release_id").isin(pairs))


def to_withdraw(tables: Tables, to: str | None = None) -> list[Release]:
    """What a rollback withdraws: the current release, or all that were published after `to`, which then is current.

    Returns:
        The releases, newest first. Their status stays; the caller changes it.

    Raises:
        ConfigError: `to` is unknown or not published, or no published release would be left.
    """
    published = [release for release in releases(tables) if is_published(release)]
    kept = find_release(tables, to, readable=False).release_id if to else None
    ids = [release.release_id for release in published]
    if kept is not None and kept not in ids:
        raise ConfigError(f"release {kept} is not published; published are {', '.join(ids) or 'none'}")
    withdrawn = published[: ids.index(kept)] if kept else published[:1]
    if len(withdrawn) == len(published):
        raise ConfigError(f"nothing to go back to: published are {', '.join(ids) or 'none'}")
    return withdrawn


def set_status(tables: Tables, changed: Sequence[Release], status: str) -> None:
    """Sets the status of releases, in one commit."""
    if changed:
        named = ", ".join(f"'{release.release_id}'" for release in changed)
        tables.update(RELEASES.name, f"release_id IN ({named})", {"status": f"'{status}'"})


def is_published(release: Release) -> bool:
    """Whether a release is neither failed nor withdrawn nor expired."""
    return release.status == PUBLISHED


def _require_lake(tables: Tables) -> None:
    if not tables.exists(RELEASES.name):
        tables.require_own({})
        raise ConfigError(f"there is no lake with releases at {tables.root}; run write_features first")


def _loaded(tables: Tables, release_id: str) -> Release:
    return _from_row(only_row(tables.read(RELEASES.name).where(F.col("release_id") == release_id)))


def _from_row(row: Row) -> Release:
    return Release(
        release_id=row.release_id,
        days=tuple(row.days),
        models=row.model_versions,
        inputs=row.input_versions,
        parts={part.ds: Part(part.release_id, part.users, part.items, part["pairs"]) for part in row.parts},
        status=row.status,
        published_at=row.published_at,
        tables=row.table_versions,
        encoder_id=row.encoder_id,
        widths=row.widths,
        gates=tuple(tuple(gate) for gate in row.gates),
    )
