"""Immutable Parquet snapshots: a folder with plain Parquet files and the manifest.json that lists them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from models.contract.failures import BadInput
from models.contract.strict import parse_settings
from models.contract.verified import inside, read_sealed, require_digest, sealed
from models.contract.whole_files import write_whole

MANIFEST = "manifest.json"
# Petastorm unpickles the content of these files.
FORBIDDEN = ("_common_metadata", "_metadata")
_FILE_NAME = r"part-[0-9]+\.parquet"


class SnapshotFile(BaseModel):
    """A Parquet file as the manifest lists it."""

    model_config = ConfigDict(frozen=True)

    path: str
    rows: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """`manifest.json`.

    Attributes:
        format_version: version of these keys; files of the first version do not name it.
        source_table, source_version: the table, and its pinned version, that the rows were made from.
        columns: name to type; called `schema` in the file.
        rows: number of rows of all files together.
        files: the Parquet files; readers read no other.
        event_types: names of the event types that codes stand for, beginning with code 1; None without such columns.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    source_table: str
    source_version: int
    columns: dict[str, str] = Field(alias="schema")
    rows: int
    files: tuple[SnapshotFile, ...]
    event_types: tuple[str, ...] | None = None
    format_version: Literal[1] = 1


@dataclass(frozen=True)
class Snapshot:
    """A verified snapshot.

    Attributes:
        path: its folder.
        files: the Parquet files that hold rows, in the manifest's order; readers read no other.
        file_rows: number of rows of each file.
        rows: number of rows of all files together.
        schema: column name to type, as the exporter wrote it.
        event_types: names of the event types that codes stand for, beginning with code 1; empty if there are none.
    """

    path: Path
    files: tuple[Path, ...]
    file_rows: tuple[int, ...]
    rows: int
    schema: dict[str, str]
    event_types: tuple[str, ...] = ()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a snapshot.

    Raises:
        BadInput: manifest.json is missing, is not that of a snapshot, or has changed.
    """
    file = folder / MANIFEST
    return parse_settings(Manifest, read_sealed(file, "snapshot"), f"snapshot {file}")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes manifest.json, which makes the folder a snapshot."""
    write_whole(
        folder / MANIFEST, json.dumps(sealed(manifest.model_dump(by_alias=True, exclude_none=True)), indent=1) + "\n"
    )


def open_snapshot(path: Path | str, verify_sha256: bool = True) -> Snapshot:
    """Read a snapshot's manifest and check every file that it lists: existence, size, rows, content hash.

    Args:
        path: the folder.
        verify_sha256: also compare the files' SHA-256 (reads every byte once per process).

    Raises:
        BadInput: names the file that is missing, changed or not allowed.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for name in FORBIDDEN:
        if (path / name).exists():
            raise BadInput(f"snapshot {path} holds {name}, which could run code when it is read; remove it")
    files = {_checked_file(path, entry, verify_sha256): entry.rows for entry in manifest.files}
    listed = sum(files.values())
    if listed != manifest.rows:
        raise BadInput(f"snapshot {path}: files hold {listed} rows, the manifest says {manifest.rows}")
    filled = {file: rows for file, rows in files.items() if rows}
    types = manifest.event_types or ()
    return Snapshot(path, tuple(filled), tuple(filled.values()), listed, manifest.columns, types)


def _checked_file(folder: Path, entry: SnapshotFile, verify_sha256: bool) -> Path:
    file = inside(folder, entry.path, _FILE_NAME, f"snapshot {folder}")
    if not file.is_file():
        raise BadInput(f"snapshot {folder}: {entry.path} is missing")
    size = file.stat().st_size
    if size != entry.bytes:
        raise BadInput(f"snapshot {folder}: {entry.path} has {size} bytes, listed {entry.bytes}")
    if verify_sha256:
        require_digest(file, entry.sha256, f"snapshot {folder}")
    try:
        rows = pq.read_metadata(file).num_rows
    except pa.ArrowInvalid as error:
        raise BadInput(f"snapshot {folder}: {entry.path} is no Parquet file: {error}") from None
    if rows != entry.rows:
        raise BadInput(f"snapshot {folder}: {entry.path} has {rows} rows, listed {entry.rows}")
    return file
