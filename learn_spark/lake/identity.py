"""A lake's identity: `_lake.json` holds its id, and for every table the id that Delta gave it when it was made.

The file is written when all tables are there, and again only when a table is added or made anew. So a table that is
gone, came from another lake or was restored from an old copy can be told from one that never existed, and is refused.
Lakes of earlier versions have no such file: they are accepted as they are, as far as their ledger agrees.
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from learn_spark.errors import ConfigError
from learn_spark.storage import Place, in_memory, write_whole
from models.contract.failures import BadInput
from models.contract.whole_files import read_json

FILE = "_lake.json"
LOG = "_delta_log"
OLDER = "is older than the ledger"
_FIRST = f"{0:020d}.json"
_TAIL = 64 << 10


@dataclass(frozen=True)
class Known:
    """A table as the lake knows it.

    Attributes:
        id: Delta's id of the table.
        made_at: when it was made anew, in seconds since 1970; 0 if it is the lake's first table of its name. What the
            ledger recorded before that time says nothing about its versions.
    """

    id: str
    made_at: float = 0.0


@dataclass(frozen=True)
class Identity:
    """A lake and its tables, as in `_lake.json`."""

    lake: str = field(default_factory=lambda: uuid.uuid4().hex)
    tables: Mapping[str, Known] = field(default_factory=dict)


def read_identity(root: Place) -> Identity | None:
    """The identity that a lake's file holds; None if there is no file.

    Raises:
        ConfigError: the file is damaged.
    """
    file = root / FILE
    if not file.exists():
        return None
    try:
        values = read_json(file, "lake") if isinstance(file, Path) else json.loads(file.read_bytes())
        return Identity(str(values["lake"]), {name: Known(**known) for name, known in values["tables"].items()})
    except (BadInput, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file} is damaged ({error}): bring it back from a backup, or remove it, if all tables of the lake are"
            f" there; the next command that writes then takes over what it finds"
        ) from None


def write_identity(root: Place, identity: Identity) -> None:
    """Replaces the file as a whole."""
    tables = {name: vars(known) for name, known in sorted(identity.tables.items())}
    write_whole(root / FILE, json.dumps({"format_version": 1, "lake": identity.lake, "tables": tables}, indent=1))


def is_there(root: Place, name: str) -> bool:
    """Whether a table has a log."""
    return any((root / name / LOG).glob("*.json"))


def newest_version(root: Place, name: str) -> int:
    """The Delta version of a table's last commit; -1 without any."""
    commits = (root / name / LOG).glob("*.json")
    return max((int(commit.stem) for commit in commits if commit.stem.isdecimal()), default=-1)


def table_id(root: Place, name: str) -> str | None:
    """Delta's id of a table, which stays the same for as long as the table lives; None if the log has none."""
    log = root / name / LOG
    checkpoints = sorted(log.glob("*.checkpoint*.parquet"), key=str, reverse=True)  # Delta deletes older commits
    try:
        first = _of_commit(log / _FIRST)
        return first or next(filter(None, map(_of_checkpoint, checkpoints)), None)
    except (OSError, ValueError, pa.ArrowException):
        return None


def wrong_with(root: Place, name: str, identity: Identity | None, seen: int = -1) -> str | None:
    """What is wrong with a table: it is gone, not the lake's own, too old or damaged; None if nothing is.

    Args:
        root: the lake.
        name: of the table.
        identity: of the lake.
        seen: the newest version that the ledger has recorded.
    """
    known = identity.tables.get(name) if identity else None
    if not is_there(root, name):
        return "is gone" if known or seen >= 0 else None
    if known and table_id(root, name) != known.id:
        return "is not the one that this lake was made with: it came from another lake, or its log is damaged"
    version = newest_version(root, name)
    if version < seen:
        return f"{OLDER}: its version is {version}, and {seen} was recorded"
    if isinstance(root, Path) and (commit := _cut_commit(root / name / LOG)):  # a store has no cut objects
        return f"has a damaged log: {commit} is cut"
    return None


def wrong_tables(root: Place, names: Iterable[str], ledger: str, seen: Mapping[str, int]) -> dict[str, str]:
    """Which tables are not the lake's own, and why.

    Args:
        root: the lake.
        names: all tables that a lake has.
        ledger: the name of the ledger's table.
        seen: the newest versions that the ledger has recorded.
    """
    names, identity = list(names), read_identity(root)
    wrong = {name: why for name in names if (why := wrong_with(root, name, identity, seen.get(name, -1)))}
    if identity is None and not is_there(root, ledger) and any(newest_version(root, name) > 0 for name in names):
        wrong |= {name: "is gone" for name in names if not is_there(root, name)}
    return wrong


def refusal(root: Place, wrong: Mapping[str, str]) -> ConfigError:
    """The error that names the tables and the way back."""
    told = "; ".join(f"table {name} {why}" for name, why in wrong.items())
    return ConfigError(
        f"{root}: {told}; bring it back from a backup, or let `learn-spark repair` with this config make again what"
        f" was in it"
    )


def _cut_commit(log: Path) -> Path | None:
    """A commit since the last checkpoint that does not end in JSON; Delta's readers miss it if there is a checksum."""
    checkpoints = (file.name.partition(".")[0] for file in log.glob("*.checkpoint*.parquet"))
    since = max(map(int, filter(str.isdecimal, checkpoints)), default=-1)
    commits = (file for file in log.glob("*.json") if file.stem.isdecimal() and int(file.stem) > since)
    return next((commit for commit in sorted(commits) if not _ends_in_json(commit)), None)


def _ends_in_json(commit: Path) -> bool:
    """Whether a commit's last line is whole; also true if Delta has deleted it since, or it cannot be opened."""
    try:
        with commit.open("rb") as content:
            content.seek(max(0, commit.stat().st_size - _TAIL))
            last = content.read().rstrip(b"\n").rpartition(b"\n")
            if not last[1]:  # the line is longer than the tail, or the only one
                content.seek(0)
                last = content.read().rstrip(b"\n").rpartition(b"\n")
        json.loads(last[2])
    except OSError:
        return True
    except ValueError:
        return False
    return True


def _of_commit(commit: Place) -> str | None:
    if not commit.is_file():
        return None
    with commit.open("rb") as lines:
        actions: Iterable[dict[str, Any]] = map(json.loads, lines)
        return next((action["metaData"]["id"] for action in actions if "metaData" in action), None)


def _of_checkpoint(file: Place) -> str | None:
    column = pq.read_table(in_memory(file), columns=["metaData"]).column("metaData").to_pylist()
    return next((row["id"] for row in column if row), None)
