"""A store's artifacts and this machine's copies of them; other modules use them through `artifacts`.

In the store an artifact is an index and the blocks of its files, each block under its SHA-256. The index is written
last, in one request, so an artifact exists as a whole or not at all. If a file has grown, as the matrix does each
night, only its new blocks are sent. The blocks of the previous index stay for processes that are still reading it.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from learn_spark.errors import ConfigError, LearnError
from learn_spark.lake.lock import held_epoch
from learn_spark.storage import Location, Place, cache_folder, name_of_copy, remove
from models.contract.whole_files import write_whole

ARTIFACTS = "_artifacts"
CACHE_GB = "LEARN_SPARK_CACHE_GB"
BLOCK_BYTES = 32 << 20  # part of the format
_INDEX = "index.json"
_STATES = "_copies"
_LAST = ("manifest.json", "meta.json", "result.json")  # come last, as they say that the others are whole
_THREADS = 4


class Mirror:
    """The copies that this machine has of a store's artifacts."""

    def __init__(self, root: Location) -> None:
        self._root, self._store = root, root / ARTIFACTS
        name = name_of_copy(root)
        self.folder = cache_folder() / name / ARTIFACTS
        self._states = cache_folder() / name / _STATES
        self._used: dict[tuple[str, str], Any] = {}  # what this process has asked for, and the locks that keep it
        self._brought: dict[tuple[str, str], int | None] = {}  # the lake lock's epoch when it last asked
        self._damaged: set[tuple[str, str]] = set()

    def path(self, *parts: str) -> Path:
        for kind, name in [parts[:2]] if len(parts) > 1 else {*self._named(*parts), *self._copied(*parts)}:
            self._bring(kind, name)
        return self.folder.joinpath(*parts)

    def _named(self, kind: str = "*") -> list[tuple[str, str]]:
        """The artifacts, of a kind or of all, that the store has."""
        found = (index.split("/")[:2] for index in self._store.matching(f"{kind}/*/{_INDEX}"))
        return [(its_kind, name) for its_kind, name in found]

    def _copied(self, kind: str = "*") -> list[tuple[str, str]]:
        """The artifacts that this machine has a copy of, even if the store no longer has them."""
        return [(note.parent.name, note.stem) for note in self._states.glob(f"{kind}/*.json")]

    def discard(self, kind: str, name: str) -> None:
        """Deletes an artifact and its copy; the index goes first, since without it the rest does not count."""
        with self._locked(kind, name):
            place = self._store / kind / name
            (place / _INDEX).unlink(missing_ok=True)
            place.remove()
            remove(self.folder / kind / name)
            self._state_file(kind, name).unlink(missing_ok=True)

    def cut_history(self) -> None:
        """Deletes the blocks of former indexes, and what a killed publish has left."""
        for kind, name in self._named():
            place, index = self._store / kind / name, self._index(kind, name)
            if index is None:
                continue
            if index["former"]:
                _write_index(place, index["files"], [])
            for stale in place.matching("*").keys() - {_INDEX, *_blocks(index["files"])}:
                (place / stale).unlink(missing_ok=True)

    def damage(self, deep: bool) -> dict[Place, str]:
        found: dict[Place, str] = {}
        for kind, name in self._named():
            place = self._store / kind / name
            if why := _wrong_with(place, deep):
                self._damaged.add((kind, name))
                self._brought.pop((kind, name), None)
                found[place / _INDEX] = why
        return found

    def _index(self, kind: str, name: str) -> dict[str, Any] | None:
        """The store's index of an artifact; None if there is none, or the artifact is known to be damaged."""
        return None if (kind, name) in self._damaged else _read_index(self._store / kind / name)

    def publish(self) -> None:
        for kind, name in list(self._used):
            folder, state = self.folder / kind / name, self._state(kind, name)
            found = {file: _stat(folder / file) for file in _files(folder)}
            if found and found != {file: known["stat"] for file, known in state.items()}:
                with self._locked(kind, name):
                    self._publish(kind, name, found, state)

    def _publish(self, kind: str, name: str, found: Mapping[str, list[int]], state: Mapping[str, Any]) -> None:
        folder, place = self.folder / kind / name, self._store / kind / name
        files: dict[str, Any] = {}
        old = self._index(kind, name)
        there = set(_blocks(old["files"])) if old else set()
        for file, stat in found.items():
            known = state.get(file)
            blocks = known["blocks"] if known and known["stat"] == stat else _digests(folder / file)
            files[file] = {"bytes": stat[0], "blocks": blocks}
            with ThreadPoolExecutor(_THREADS) as pool:
                new = [(number, block) for number, block in enumerate(blocks) if block not in there]
                list(pool.map(lambda one, file=file: _send(folder / file, one[0], place / one[1]), new))
            there.update(blocks)
        former = sorted(set(_blocks(old["files"])) - set(_blocks(files))) if old else []
        _write_index(place, files, former)
        for block in set(old["former"] if old else ()) - set(former) - set(_blocks(files)):
            (place / block).unlink(missing_ok=True)
        self._note(kind, name, files)
        self._damaged.discard((kind, name))

    def _bring(self, kind: str, name: str) -> None:
        """Brings the copy up to what the store has; only files that the store has changed since, or that are missing,
        are fetched.

        Whatever else differs is unpublished work of this machine, of a run that goes on or was killed, and stays.
        """
        epoch = held_epoch(self._root)
        if epoch is not None and self._brought.get((kind, name)) == epoch:
            return  # nobody else has published since
        with self._locked(kind, name):
            folder, place, state = self.folder / kind / name, self._store / kind / name, self._state(kind, name)
            index = self._index(kind, name)
            if index is None and state:  # it was in the store, and is not any more
                shutil.rmtree(folder, ignore_errors=True)
                self._state_file(kind, name).unlink()
            files, fetched = index["files"] if index else {}, {}
            stale = state.keys() - files.keys() if files else set()
            for file in stale:  # the artifact no longer has it; if it is unchanged here, it is no unpublished work
                if _stat(folder / file) == state[file]["stat"]:
                    (folder / file).unlink()
            for file in sorted(files, key=lambda file: (Path(file).name in _LAST, file)):
                known = state.get(file)
                if not (known and known["blocks"] == files[file]["blocks"] and (folder / file).exists()):
                    _fetch(place, folder / file, files[file])
                    fetched[file] = files[file]
            if fetched or stale:
                kept = {file: told for file, told in state.items() if file in files and file not in fetched}
                self._note(kind, name, fetched, kept)
            elif files:
                os.utime(self._state_file(kind, name))
            self._brought[kind, name] = epoch
            self._make_room()

    @contextmanager
    def _locked(self, kind: str, name: str) -> Iterator[None]:
        """Lets one process at a time change a copy, which is kept for as long as a process that has used it lives."""
        file = self._states / kind / f"{name}.lock"
        file.parent.mkdir(parents=True, exist_ok=True)
        if (kind, name) not in self._used:
            used = file.open("a")
            fcntl.flock(used, fcntl.LOCK_SH)
            self._used[kind, name] = used
        with file.with_suffix(".bringing").open("a") as bringing:
            fcntl.flock(bringing, fcntl.LOCK_EX)
            yield

    def _make_room(self) -> None:
        """Deletes copies that no process uses, the least recently used first, until the rest is within the limit."""
        limit = float(os.environ.get(CACHE_GB, "inf")) * 1e9
        notes = sorted(self._states.glob("*/*.json"), key=lambda note: note.stat().st_mtime)
        sizes = {note: sum(f["bytes"] for f in json.loads(note.read_text()).values()) for note in notes}
        for note in notes:
            if sum(sizes.values()) <= limit:
                return
            with note.with_suffix(".lock").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                note.unlink()
                shutil.rmtree(self.folder / note.parent.name / note.stem, ignore_errors=True)
                sizes.pop(note)

    def _state(self, kind: str, name: str) -> dict[str, Any]:
        """The state of the copy when it last equalled the store's: blocks, size and time of each file."""
        try:
            return json.loads(self._state_file(kind, name).read_bytes())
        except FileNotFoundError:
            return {}

    def _note(self, kind: str, name: str, files: Mapping[str, Any], kept: Mapping[str, Any] | None = None) -> None:
        folder = self.folder / kind / name
        state = {**(kept or {}), **{file: {**told, "stat": _stat(folder / file)} for file, told in files.items()}}
        write_whole(self._state_file(kind, name), json.dumps(state))

    def _state_file(self, kind: str, name: str) -> Path:
        return self._states / kind / f"{name}.json"


def _read_index(place: Location) -> dict[str, Any] | None:
    file = place / _INDEX
    try:
        index = json.loads(file.read_bytes())
        return {"files": index["files"], "former": index["former"]}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is damaged ({error}): bring it back from a backup, or remove it") from None


def _write_index(place: Location, files: Mapping[str, Any], former: list[str]) -> None:
    index = {"format_version": 1, "files": files, "former": former}
    (place / _INDEX).write_bytes(json.dumps(index, indent=1).encode())


def _wrong_with(place: Location, deep: bool) -> str | None:
    """What an artifact lacks of what its index names, in a sentence; None if it lacks nothing."""
    try:
        index = _read_index(place)
        wanted, there = set(_blocks(index["files"] if index else {})), place.matching("*")
        if gone := sorted(wanted - there.keys()):
            return f"{place} lacks {len(gone)} of {len(wanted)} blocks, as {gone[0]}"
        for block in sorted(wanted) if deep else ():
            _downloaded(place / block)
    except ConfigError as error:
        return str(error).partition(": bring")[0]
    return None


def _blocks(files: Mapping[str, Any]) -> Iterator[str]:
    for told in files.values():
        yield from told["blocks"]


def _files(folder: Path) -> list[str]:
    """All files except those that are being written."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(file) for file in found if not any(part.startswith(".") for part in file.parts))


def _stat(file: Path) -> list[int]:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return []
    return [stat.st_size, stat.st_mtime_ns]


def _digests(file: Path) -> list[str]:
    with file.open("rb") as stream:
        found = [hashlib.sha256(block).hexdigest() for block in iter(lambda: stream.read(BLOCK_BYTES), b"")]
    return found


def _block(file: Path, number: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(number * BLOCK_BYTES)
        return stream.read(BLOCK_BYTES)


def _send(file: Path, number: int, place: Location) -> None:
    content = _block(file, number)
    if hashlib.sha256(content).hexdigest() != place.name:
        raise LearnError(f"{file} changed while it was published")
    place.write_bytes(content)


def _fetch(place: Location, file: Path, wanted: Mapping[str, Any]) -> None:
    """Makes a file equal what the index says: a large file in place, as its own writer would, a small one at once."""
    blocks: list[str] = wanted["blocks"]
    if len(blocks) <= 1:
        write_whole(file, b"".join(_downloaded(place / block) for block in blocks))
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    mine = _digests(file) if file.exists() else []
    lacking = [(number, block) for number, block in enumerate(blocks) if mine[number : number + 1] != [block]]
    with file.open("r+b" if mine else "w+b") as stream, ThreadPoolExecutor(_THREADS) as pool:
        fetched = pool.map(lambda one: (one[0], _downloaded(place / one[1])), lacking)
        for number, content in fetched:
            os.pwrite(stream.fileno(), content, number * BLOCK_BYTES)
        os.ftruncate(stream.fileno(), wanted["bytes"])
        os.fsync(stream.fileno())


def _downloaded(block: Location) -> bytes:
    try:
        content = block.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{block} is gone, which the {_INDEX} beside it names: bring it back from a backup") from None
    if hashlib.sha256(content).hexdigest() != block.name:
        raise ConfigError(f"{block} has changed since it was written (SHA-256 differs): bring it back from a backup")
    return content
