"""This machine's copies of folders in a store, such as an encoder's; fetched once for all of its processes."""

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from learn_spark.errors import ConfigError, TemporaryError
from learn_spark.storage import Entry, Location, cache_folder, name_of_copy

_FOLDERS = "_folders"
_THREADS = 4


def folder_copy(place: Location) -> Path:
    """A copy of what a store's folder holds now; once the folder's content changes, another copy is made.

    Raises:
        ConfigError: the folder holds no file, or one whose name leads out of it.
        TemporaryError: a file changed while it was fetched.
    """
    files = place.matching("**")
    if not files:
        raise ConfigError(f"{place} is no folder with files")
    if foreign := [name for name in files if ".." in PurePosixPath(name).parts]:
        raise ConfigError(f"{place / foreign[0]} leads out of {place}")
    copies = cache_folder() / _FOLDERS / name_of_copy(place)
    copies.mkdir(parents=True, exist_ok=True)
    folder = copies / _digest(files)
    with (copies / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            for leftover in copies.glob(".bringing-*"):
                shutil.rmtree(leftover)
            partial = Path(tempfile.mkdtemp(dir=copies, prefix=".bringing-"))
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(lambda name: _fetch(place / name, partial / name, files[name]), files))
            partial.rename(folder)
    return folder


def _digest(files: Mapping[str, Entry]) -> str:
    told = json.dumps({name: asdict(entry) for name, entry in sorted(files.items())}, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _fetch(place: Location, file: Path, entry: Entry) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    place.fetch(file)
    if file.stat().st_size != entry.size or place.entry() != entry:
        raise TemporaryError(f"{place} changed while it was brought here: try again")
