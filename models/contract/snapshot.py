"""Immutable Parquet snapshots: a folder with plain Parquet files and the manifest.json that lists them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from models.contract.strict import read_json

# Petastorm unpickles what it finds in these.
FORBIDDEN = ("_common_metadata", "_metadata")


@dataclass(frozen=True)
class Snapshot:
    """A verified snapshot.

    Attributes:
        path: its folder.
        files: the Parquet files that hold rows, in the manifest's order; nothing else is ever read.
        file_rows: rows of each of them.
        rows: rows of all files together.
        schema: column name to type, as the exporter wrote it.
    """

    path: Path
    files: tuple[Path, ...]
    file_rows: tuple[int, ...]
    rows: int
    schema: dict[str, str]


def open_snapshot(path: Path | str, verify_sha256: bool = True) -> Snapshot:
    """Read a snapshot's manifest and check every file that it lists: existence, size, rows, content hash.

    Args:
        path: the folder.
        verify_sha256: also compare the files' SHA-256 (reads every byte once).

    Raises:
        ValueError: names the file that is missing, changed or not allowed.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    for name in FORBIDDEN:
        if (path / name).exists():
            raise ValueError(f"snapshot {path} holds {name}, which could run code when it is read; remove it")
    files = {_checked_file(path, entry, verify_sha256): entry["rows"] for entry in manifest["files"]}
    listed = sum(files.values())
    if listed != manifest["rows"]:
        raise ValueError(f"snapshot {path}: files hold {listed} rows, the manifest says {manifest['rows']}")
    filled = {file: rows for file, rows in files.items() if rows}
    return Snapshot(path, tuple(filled), tuple(filled.values()), listed, dict(manifest["schema"]))


def _read_manifest(path: Path) -> dict:
    file = path / "manifest.json"
    manifest = read_json(file, "snapshot")
    missing = {"files", "rows", "schema"} - (manifest.keys() if isinstance(manifest, dict) else set())
    if missing:
        raise ValueError(f"snapshot: {file} lacks {', '.join(sorted(missing))}")
    return manifest


def _checked_file(folder: Path, entry: dict, verify_sha256: bool) -> Path:
    file = folder / entry["path"]
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"snapshot {folder}: {entry['path']} leads out of the folder")
    if not file.is_file():
        raise ValueError(f"snapshot {folder}: {entry['path']} is missing")
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise ValueError(f"snapshot {folder}: {entry['path']} has {size} bytes, listed {entry['bytes']}")
    if verify_sha256:
        with file.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        if digest != entry["sha256"]:
            raise ValueError(f"snapshot {folder}: {entry['path']} has changed (SHA-256 differs)")
    try:
        rows = pq.read_metadata(file).num_rows
    except pa.ArrowInvalid as error:
        raise ValueError(f"snapshot {folder}: {entry['path']} is no Parquet file: {error}") from None
    if rows != entry["rows"]:
        raise ValueError(f"snapshot {folder}: {entry['path']} has {rows} rows, listed {entry['rows']}")
    return file
