"""Places of files: a path of a mounted file system, or a URI of a store.

A local place stays a `pathlib.Path`, whatever it is used for. A `Location` has those few methods of a `Path` that a
store can answer with a request or two. It lacks what would be slow or wrong in a store (rename, append, a lock), and
`open` does not take it for a path.

Credentials come from where each store's own library looks (the environment, a profile, the machine's role), or from
`lake.options`. Neither `str` nor `repr` of a location shows them.
"""

import fnmatch
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import PlainSerializer, PlainValidator

from learn_spark.errors import ConfigError
from learn_spark.stores import SPELLINGS, STORES, Entry, Store, short
from models.contract.whole_files import write_whole as write_local

CACHE = "LEARN_SPARK_CACHE"
SCHEME = re.compile(r"([A-Za-z][\w+.-]*):/")  # of a URI, whole or after a Path has removed one of its slashes
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Location:
    """A file or a folder of a store.

    Attributes:
        uri: as Spark reads it, without a slash at its end.
        options: what fsspec's class of the store takes.
    """

    uri: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        return self.uri

    def __fspath__(self) -> str:
        raise TypeError(f"{self.uri} lies in a store: it is no path of this machine")

    def __truediv__(self, name: str) -> "Location":
        return Location(f"{self.uri}/{name}" if name else self.uri, self.options)

    def joinpath(self, *names: str) -> "Location":
        return self / "/".join(names)

    def at(self, uri: str) -> "Location":
        """Another place that is reached in the same way."""
        return Location(uri, self.options)

    @property
    def scheme(self) -> str:
        return self.uri.partition("://")[0]

    @property
    def name(self) -> str:
        return self.uri.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> "Location":
        return self.at(self.uri.rpartition("/")[0])

    def exists(self) -> bool:
        with self._telling():
            return bool(self._files.exists(self._key))

    def is_file(self) -> bool:
        with self._telling():
            return bool(self._files.isfile(self._key))

    def is_dir(self) -> bool:
        with self._telling():
            return bool(self._files.isdir(self._key))

    def entry(self) -> Entry:
        """The file's size, tag and time; raises FileNotFoundError if there is no such file."""
        with self._telling():
            return self._store.entry(self._files.info(self._key))

    def glob(self, pattern: str) -> list["Location"]:
        """Files and folders directly in this folder whose names match, sorted; empty if there is no folder."""
        with self._telling():
            try:
                found = self._files.ls(self._key, detail=False)
            except FileNotFoundError:
                return []
        names = sorted(str(key).rstrip("/").rpartition("/")[2] for key in found)
        return [self / name for name in names if fnmatch.fnmatchcase(name, pattern)]

    def matching(self, pattern: str) -> dict[str, Entry]:
        """The files below this folder whose paths relative to it match a pattern of `glob`, by these paths."""
        with self._telling():
            found = self._files.glob(f"{self._key}/{pattern}", detail=True)
        read, start = self._store.entry, len(self._key) + 1
        return {key[start:]: read(info) for key, info in sorted(found.items()) if info["type"] == "file"}

    def open(self, mode: str = "rb") -> BinaryIO:
        assert mode == "rb", mode
        with self._telling():
            return self._files.open(self._key, "rb", block_size=_CHUNK_BYTES, cache_type="readahead")

    def read_bytes(self) -> bytes:
        with self._telling():
            return self._files.cat_file(self._key)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Writes the file, whole or not at all."""
        with self._telling(writes=True):
            self._store.write(self._files, self._key, content)

    def create(self, content: bytes) -> None:
        """Creates the file, if it does not exist; if several processes try at once, one succeeds.

        Raises:
            FileExistsError: it exists.
        """
        with self._telling(writes=True):
            self._store.create(self._files, self._key, content)

    def unlink(self, missing_ok: bool = False) -> None:
        with self._telling(writes=True):
            try:
                self._files.rm_file(self._key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def remove(self) -> None:
        """Deletes the folder with all that is in it; does nothing if there is none."""
        with self._telling(writes=True), suppress(FileNotFoundError):
            self._files.rm(self._key, recursive=True)

    def move(self, to: "Location") -> None:
        """Moves the folder with all that is in it to another place of the store."""
        with self._telling(writes=True):
            self._store.move(self._files, self._key, to._key)

    def send(self, file: Path) -> None:
        """Copies a file of this machine to this place."""
        with self._telling(writes=True):
            self._store.write(self._files, self._key, file)

    def fetch(self, file: Path) -> None:
        """Copies the file at this place to a file of this machine."""
        with self._telling():
            self._files.get_file(self._key, str(file))

    @property
    def _store(self) -> Store:
        return STORES[self.scheme]

    @property
    def _parts(self) -> tuple[str, str]:
        """Authority (a bucket, a NameNode) and path."""
        authority, _, path = self.uri.partition("://")[2].partition("/")
        return authority, path

    @property
    def _key(self) -> str:
        return self._store.key(*self._parts)

    @property
    def _files(self) -> Any:  # noqa: ANN401 - fsspec has no types
        return self._store.files(self._parts[0], self.options)

    @contextmanager
    def _telling(self, writes: bool = False) -> Iterator[None]:
        """Turns an error of the store, rather than of a file, into one line."""
        try:
            yield
        except FileNotFoundError as error:
            if writes or "bucket does not exist" in str(error):
                raise ConfigError(f"{self}: {short(error)}") from None
            raise
        except FileExistsError:
            raise
        except Exception as error:
            raise self._store.trouble(str(self), error) from error


def _parsed(value: object) -> Path | Location:
    if isinstance(value, Path | Location):
        return value
    if not isinstance(value, str):
        raise ValueError("must be a path")
    return place_of(value)


Place = Annotated[Path | Location, PlainValidator(_parsed), PlainSerializer(str, return_type=str)]


def place_of(text: str, options: Mapping[str, Any] | None = None) -> Path | Location:
    """The path, or the place in a store, that a text names.

    Raises:
        ValueError: it names a store that learn-spark does not know, no bucket, or a store whose package is missing.
    """
    if not (found := SCHEME.match(text)):
        return Path(text)
    store = STORES.get(SPELLINGS.get(found[1].lower(), ""))
    if store is None or "://" not in text:
        known = " and ".join(f"{each}://" for each in SPELLINGS)
        raise ValueError(f"{text!r} is no path, nor in a store that learn-spark knows ({known})")
    authority, _, key = text[found.end() + 1 :].partition("/")
    if (store.needs_authority and not authority) or "@" in authority or set(text) & set("?#\n\r"):
        raise ValueError(f"{text!r} names no bucket and key: write {store.scheme}://bucket/folder")
    if find_spec(store.package) is None:
        name = store.package.replace("_", "-")
        raise ValueError(f"{text!r} needs the package {name}: pip install 'learn-spark[{store.extra}]'")
    parts = [part for part in key.split("/") if part]
    return Location("/".join([f"{store.scheme}://{authority}", *parts]), options or {})


def reached_by(place: Path | Location, options: Mapping[str, Any]) -> Path | Location:
    """The place, with these options if it is in a store."""
    return Location(place.uri, options) if isinstance(place, Location) else place


def beside(place: Path | Location, text: str) -> Path | Location:
    """The place whose `str` is `text`, reached in the same way as `place`."""
    return place.at(text) if isinstance(place, Location) else Path(text)


def place_argument(text: str, name: str, options: Mapping[str, Any]) -> Path | Location:
    """The absolute path, or the place in a store, that an argument names.

    Raises:
        ConfigError: the argument is wrong, as for `place_of`.
    """
    try:
        place = place_of(text, options)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
    return place.absolute() if isinstance(place, Path) else place


def cache_folder() -> Path:
    """The folder of this machine's copies of what lies in stores."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(home) / "learn-spark").absolute()


def name_of_copy(place: Location) -> str:
    """The name of a place's copy on this machine; different places have different names."""
    return f"{place.name}-{hashlib.sha256(place.uri.encode()).hexdigest()[:16]}"


def lake_of(root: Path | Location | str) -> Path | Location:
    """The place of the root that a program names.

    Raises:
        ConfigError: the root is wrong, as for `place_of`.
    """
    try:
        return place_of(root) if isinstance(root, str) else root
    except ValueError as error:
        raise ConfigError(str(error)) from None


def require_mounted(root: Path | Location, command: str) -> Path:
    """The root of a lake, for a command that needs the lake on a file system.

    Raises:
        ConfigError: the lake lies in a store.
    """
    if isinstance(root, Path):
        return root
    raise ConfigError(f"{command} does not work with lake.root in a store yet, and it is {root}")


def write_whole(place: Path | Location, content: str | bytes) -> None:
    """Replaces a file as a whole."""
    if isinstance(place, Path):
        write_local(place, content)
    else:
        place.write_bytes(content.encode() if isinstance(content, str) else content)


def move(folder: Place, to: Place) -> None:
    """Moves a folder to a place that does not exist yet, in the same file system or store."""
    if isinstance(folder, Path):
        assert isinstance(to, Path)
        to.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(to)
    else:
        assert isinstance(to, Location)
        folder.move(to)


def remove(place: Place) -> None:
    """Deletes a file, or a folder with all that is in it; does nothing if there is none."""
    if isinstance(place, Location):
        place.remove()
    elif place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def size_of(place: Path | Location) -> int:
    """The size of a file in bytes; raises FileNotFoundError if there is none."""
    return place.stat().st_size if isinstance(place, Path) else place.entry().size


def for_arrow(place: Path | Location) -> Path | BinaryIO:
    """What to give pyarrow, so that it opens the file."""
    return place if isinstance(place, Path) else place.open()


def in_memory(place: Path | Location) -> Path | BinaryIO:
    """As `for_arrow`, for a small file that is read whole."""
    return place if isinstance(place, Path) else io.BytesIO(place.read_bytes())


def hadoop_settings(options: Mapping[str, Any]) -> dict[str, str]:
    """The settings by which Spark's own clients reach stores, from `options` and the environment."""
    return {key: value for store in STORES.values() for key, value in store.hadoop_settings(options).items()}
