"""Where files lie: a path of a mounted file system, or a URI of an object store. Nothing else imports fsspec.

A local place stays a `pathlib.Path`, whatever it is used for. A `Location` has the few methods of one that a store can
answer, each a request or two; what would be slow or wrong there (rename, append, a lock) it does not have, and it is no
path that `open` takes.

Credentials come from where each store's own library looks (the environment, a profile, the machine's role), or from
`lake.options`. No text holds them: not `str`, not `repr`.
"""

import fnmatch
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import PlainSerializer, PlainValidator

from learn_spark.errors import ConfigError, LearnError, TemporaryError
from models.contract.whole_files import write_whole as write_local

SCHEME = re.compile(r"([A-Za-z][\w+.-]*):/")  # of a URI, whole or after a Path has taken one of its slashes
_STORES = {"s3a": "s3a", "s3": "s3a"}  # as people write it: as Spark does
_PROTOCOLS = {"s3a": ("s3", "s3fs", "pip install 'learn-spark[s3]'")}  # fsspec's, its package, how to get it
_BUSY = (
    "SlowDown",
    "reduce your request rate",
    "ServiceUnavailable",
    "Service Unavailable",
    "InternalError",
    "Timeout",
)
_AWAY = ("Could not connect", "Connection", "Name or service not known", "EndpointConnectionError")
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Entry:
    """A file of a store.

    Attributes:
        size: in bytes.
        tag: changes with the content.
        modified: by the store's clock.
    """

    size: int
    tag: str
    modified: datetime


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
        """Raises FileNotFoundError where there is no such file."""
        with self._telling():
            return _entry(self._files.info(self._key))

    def glob(self, pattern: str) -> list["Location"]:
        """What lies directly in this folder and has such a name, sorted; nothing where there is no folder."""
        with self._telling():
            try:
                found = self._files.ls(self._key, detail=False)
            except FileNotFoundError:
                return []
        names = sorted(str(key).rstrip("/").rpartition("/")[2] for key in found)
        return [self / name for name in names if fnmatch.fnmatchcase(name, pattern)]

    def matching(self, pattern: str) -> dict[str, Entry]:
        """The files below this folder whose names below it fit a pattern of `glob`, by those names."""
        with self._telling():
            found = self._files.glob(f"{self._key}/{pattern}", detail=True)
        return {
            key[len(self._key) + 1 :]: _entry(info) for key, info in sorted(found.items()) if info["type"] == "file"
        }

    def open(self, mode: str = "rb") -> BinaryIO:
        assert mode == "rb", mode
        with self._telling():
            return self._files.open(self._key, "rb", cache_type="readahead", block_size=_CHUNK_BYTES)

    def read_bytes(self) -> bytes:
        with self._telling():
            return self._files.cat_file(self._key)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """The file as a whole, or not at all."""
        with self._telling(writes=True):
            self._files.pipe_file(self._key, content)

    def create(self, content: bytes) -> None:
        """A file that is not there yet; of several that try at once, one succeeds.

        Raises:
            FileExistsError: it is there.
        """
        with self._telling(writes=True):
            try:
                self._files.pipe_file(self._key, content, mode="create")
            except OSError as error:
                if "PreconditionFailed" in repr(error) or "pre-conditions" in str(error):
                    raise FileExistsError(str(self)) from None
                raise

    def unlink(self, missing_ok: bool = False) -> None:
        with self._telling(writes=True):
            try:
                self._files.rm_file(self._key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def send(self, file: Path) -> None:
        """Makes this the copy of a file of this machine."""
        with self._telling(writes=True):
            self._files.put_file(str(file), self._key)

    def fetch(self, file: Path) -> None:
        """Copies this to a file of this machine."""
        with self._telling():
            self._files.get_file(self._key, str(file))

    @property
    def _key(self) -> str:
        return self.uri.partition("://")[2]

    @property
    def _files(self) -> Any:  # noqa: ANN401 - fsspec has no types
        import fsspec

        protocol, *_ = _PROTOCOLS[self.uri.partition("://")[0]]
        # Others write, too: a listing that was remembered would hide what they wrote.
        return fsspec.filesystem(protocol, use_listings_cache=False, **self.options)

    @contextmanager
    def _telling(self, writes: bool = False) -> Iterator[None]:
        """Says in one line what is wrong with a store rather than with a file."""
        try:
            yield
        except FileNotFoundError as error:
            if writes or "bucket does not exist" in str(error):
                raise ConfigError(f"{self}: {_short(error)}") from None
            raise
        except PermissionError as error:
            raise ConfigError(f"{self}: the store refuses access: {_short(error)}; {_CREDENTIALS}") from None
        except FileExistsError:
            raise
        except Exception as error:
            raise _store_trouble(self, error) from error


_CREDENTIALS = "credentials come from the environment (AWS_ACCESS_KEY_ID …), the machine's role, or lake.options"


def _store_trouble(place: Location, error: Exception) -> LearnError:
    text = f"{type(error).__name__}: {_short(error)}"
    if "Credentials" in type(error).__name__ or "credentials" in text:
        return ConfigError(f"{place}: no credentials: {_short(error)}; {_CREDENTIALS}")
    if isinstance(error, TypeError) and "unexpected keyword" in text:
        return ConfigError(f"lake.options: {_short(error)}")
    if any(sign in text for sign in (*_BUSY, *_AWAY)):
        return TemporaryError(f"{place}: the store does not answer as it should; try again later: {text}")
    return LearnError(f"{place}: {text}")


def _entry(info: Mapping[str, Any]) -> Entry:
    modified = info.get("LastModified") or datetime.fromtimestamp(0, UTC)
    return Entry(int(info.get("size") or 0), str(info.get("ETag", "")).strip('"'), modified)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


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
        ValueError: it names a store that learn-spark does not know, or no bucket, or one whose package is missing.
    """
    if not (found := SCHEME.match(text)):
        return Path(text)
    scheme = _STORES.get(found[1].lower())
    bucket, _, key = text[found.end() :].lstrip("/").partition("/")
    if scheme is None or "://" not in text:
        known = " and ".join(f"{each}://" for each in _STORES)
        raise ValueError(f"{text!r} is no path, nor in a store that learn-spark knows ({known})")
    if not bucket or "@" in bucket or set(text) & set("?#\n\r"):
        raise ValueError(f"{text!r} names no bucket and key: write {scheme}://bucket/folder")
    _, package, way = _PROTOCOLS[scheme]
    if find_spec(package) is None:
        raise ValueError(f"{text!r} needs the package {package}: {way}")
    parts = [part for part in key.split("/") if part]
    return Location("/".join([f"{scheme}://{bucket}", *parts]), options or {})


def reached_by(place: Path | Location, options: Mapping[str, Any]) -> Path | Location:
    """The place, with the options of its store."""
    return Location(place.uri, options) if isinstance(place, Location) else place


def beside(place: Path | Location, text: str) -> Path | Location:
    """What a text, once `str` of a place, names; reached as `place` is."""
    return place.at(text) if isinstance(place, Location) else Path(text)


def lake_of(root: Path | Location | str) -> Path | Location:
    """The root that somebody names in a program.

    Raises:
        ConfigError: as `place_of` says.
    """
    try:
        return place_of(root) if isinstance(root, str) else root
    except ValueError as error:
        raise ConfigError(str(error)) from None


def require_local(text: str, name: str) -> Path:
    """The absolute path that an argument names.

    Raises:
        ConfigError: it names a store, where only a mounted file system serves.
    """
    if SCHEME.match(text):
        raise ConfigError(f"{name} {text}: only a path of a mounted file system serves here yet")
    return Path(text).absolute()


def require_mounted(root: Path | Location, command: str) -> Path:
    """The root of a lake that a command needs on a file system.

    Raises:
        ConfigError: it lies in a store.
    """
    if isinstance(root, Path):
        return root
    raise ConfigError(f"{command} does not work on a lake in a store yet, and lake.root is {root}")


def write_whole(place: Path | Location, content: str | bytes) -> None:
    """Replaces a file as a whole."""
    if isinstance(place, Path):
        write_local(place, content)
    else:
        place.write_bytes(content.encode() if isinstance(content, str) else content)


def size_of(place: Path | Location) -> int:
    """Of a file, in bytes; raises FileNotFoundError where there is none."""
    return place.stat().st_size if isinstance(place, Path) else place.entry().size


def for_arrow(place: Path | Location) -> Path | BinaryIO:
    """What pyarrow opens a file by."""
    return place if isinstance(place, Path) else place.open()


def in_memory(place: Path | Location) -> Path | BinaryIO:
    """The same for a small file that is read whole."""
    return place if isinstance(place, Path) else io.BytesIO(place.read_bytes())


def hadoop_settings(options: Mapping[str, Any]) -> dict[str, str]:
    """What Spark's own client of the store needs to reach it as `options` and the environment say."""
    client = {key: options[key] for key in ("key", "secret", "token", "endpoint_url") if options.get(key)}
    client.setdefault("endpoint_url", os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
    region = (options.get("client_kwargs") or {}).get("region_name")
    region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    said = {
        "fs.s3a.access.key": client.get("key"),
        "fs.s3a.secret.key": client.get("secret"),
        "fs.s3a.session.token": client.get("token"),
        "fs.s3a.endpoint": client["endpoint_url"],
        "fs.s3a.path.style.access": "true" if client["endpoint_url"] else None,
        "fs.s3a.endpoint.region": region or ("us-east-1" if client["endpoint_url"] else None),
    }
    return {f"spark.hadoop.{key}": str(value) for key, value in said.items() if value}
