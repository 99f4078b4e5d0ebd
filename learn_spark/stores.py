"""The kinds of stores and their differences: their clients, how a file is written as a whole, what their errors mean.

Only this module and `storage` know about stores; everything else uses `storage`.
"""

import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from learn_spark.errors import ConfigError, LearnError, TemporaryError

_CHUNK_BYTES = 8 << 20  # read ahead


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


class Store(ABC):
    """A kind of store.

    Attributes:
        scheme: of its URIs, as Spark writes it.
        package, extra: the Python package that it needs, and the extra that installs it.
        needs_authority: whether a URI must name a bucket.
        credentials: where they come from, in words.
    """

    scheme: str
    package: str
    extra: str
    needs_authority: bool
    credentials: str

    @abstractmethod
    def files(self, authority: str, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - fsspec has no types
        """fsspec's file system for a URI's authority."""

    @abstractmethod
    def key(self, authority: str, path: str) -> str:
        """The key by which `files` knows a path."""

    @abstractmethod
    def entry(self, info: Mapping[str, Any]) -> Entry:
        """The entry of a file, from what `files` says about it."""

    @abstractmethod
    def write(self, files: Any, key: str, content: bytes | Path) -> None:  # noqa: ANN401
        """Writes a file, whole or not at all, from bytes or from a file of this machine."""

    @abstractmethod
    def create(self, files: Any, key: str, content: bytes) -> None:  # noqa: ANN401
        """Creates a file; raises FileExistsError if it exists."""

    @abstractmethod
    def move(self, files: Any, key: str, to: str) -> None:  # noqa: ANN401
        """Moves a folder with all that is in it to a place that does not exist yet."""

    @abstractmethod
    def trouble(self, place: str, error: Exception) -> LearnError:
        """Turns an error of `files` into one line."""

    @abstractmethod
    def hadoop_settings(self, options: Mapping[str, Any]) -> dict[str, str]:
        """The settings by which Spark's own client reaches the store, from `options` and the environment."""


class _S3(Store):
    scheme, package, extra, needs_authority = "s3a", "s3fs", "s3", True
    credentials = "credentials come from the environment (AWS_ACCESS_KEY_ID …), the machine's role, or lake.options"
    _BUSY = (
        "SlowDown",
        "reduce your request rate",
        "ServiceUnavailable",
        "Service Unavailable",
        "InternalError",
        "Timeout",
    )
    _AWAY = ("Could not connect", "Connection", "Name or service not known", "EndpointConnectionError")

    def files(self, authority: str, options: Mapping[str, Any]) -> Any:  # noqa: ANN401
        import fsspec

        # A cached listing would hide what other processes have written.
        return fsspec.filesystem("s3", use_listings_cache=False, **_without_dots(options))

    def key(self, authority: str, path: str) -> str:
        return f"{authority}/{path}" if path else authority

    def entry(self, info: Mapping[str, Any]) -> Entry:
        modified = info.get("LastModified") or datetime.fromtimestamp(0, UTC)
        return Entry(int(info.get("size") or 0), str(info.get("ETag", "")).strip('"'), modified)

    def write(self, files: Any, key: str, content: bytes | Path) -> None:  # noqa: ANN401
        if isinstance(content, Path):
            files.put_file(str(content), key)
        else:
            files.pipe_file(key, content)

    def create(self, files: Any, key: str, content: bytes) -> None:  # noqa: ANN401
        try:
            files.pipe_file(key, content, mode="create")
        except OSError as error:
            if "PreconditionFailed" in repr(error) or "pre-conditions" in str(error):
                raise FileExistsError(key) from None
            raise

    def move(self, files: Any, key: str, to: str) -> None:  # noqa: ANN401
        for file in files.find(key):
            files.cp_file(file, f"{to}{file.removeprefix(key)}")
        files.rm(key, recursive=True)

    def trouble(self, place: str, error: Exception) -> LearnError:
        text = f"{type(error).__name__}: {short(error)}"
        if isinstance(error, PermissionError):
            return ConfigError(f"{place}: the store refuses access: {short(error)}; {self.credentials}")
        if "Credentials" in type(error).__name__ or "credentials" in text:
            return ConfigError(f"{place}: no credentials: {short(error)}; {self.credentials}")
        if isinstance(error, TypeError) and "unexpected keyword" in text:
            return ConfigError(f"lake.options: {short(error)}")
        if any(sign in text for sign in (*self._BUSY, *self._AWAY)):
            return _busy(place, text)
        return LearnError(f"{place}: {text}")

    def hadoop_settings(self, options: Mapping[str, Any]) -> dict[str, str]:
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


class _Hdfs(Store):
    scheme, package, extra, needs_authority = "hdfs", "hdfs_native", "hdfs", False
    credentials = "the user is that of Kerberos' ticket cache, else HADOOP_USER_NAME, else that of the process"
    _UNKNOWN = ("No NameNode hosts found", "No fs.defaultFS setting found", "InvalidPath", "InvalidArgument")
    _BUSY = ("Connection", "timed out", "SafeModeException", "StandbyException", "RetriableException", "NoNodes")

    def files(self, authority: str, options: Mapping[str, Any]) -> Any:  # noqa: ANN401
        told = _properties(options)
        key = (os.getpid(), authority, *sorted(told.items()))
        if key not in _hdfs_clients:
            host, _, port = authority.partition(":")
            _hdfs_clients[key] = _hdfs_files()(host or None, int(port) if port else None, **told)
        return _hdfs_clients[key]

    def key(self, authority: str, path: str) -> str:
        return f"/{path}" if path else ""

    def entry(self, info: Mapping[str, Any]) -> Entry:
        modified = int(info["modification_time"])
        return Entry(int(info["size"]), str(modified), datetime.fromtimestamp(modified / 1000, UTC))

    def write(self, files: Any, key: str, content: bytes | Path) -> None:  # noqa: ANN401
        folder, _, name = key.rpartition("/")
        partial = f"{folder}/.{name}.{uuid.uuid4().hex}"
        try:
            if isinstance(content, Path):
                files.put_file(str(content), partial)
            else:
                self._create(files, partial, content)
            files.mv(partial, key, overwrite=True)
        except BaseException:
            with suppress(Exception):  # its failure must not hide the reason
                files.rm(partial)
            raise

    def create(self, files: Any, key: str, content: bytes) -> None:  # noqa: ANN401
        try:
            self._create(files, key, content)
        except FileExistsError:
            raise FileExistsError(key) from None

    def move(self, files: Any, key: str, to: str) -> None:  # noqa: ANN401
        files.makedirs(to.rpartition("/")[0], exist_ok=True)
        files.mv(key, to)

    def _create(self, files: Any, key: str, content: bytes) -> None:  # noqa: ANN401
        with files.open(key, "wb", overwrite=False) as file:
            file.write(content)

    def trouble(self, place: str, error: Exception) -> LearnError:
        text = short(error)
        if isinstance(error, PermissionError) or "AccessControlException" in text:
            return ConfigError(f"{place}: HDFS refuses access: {_said_by_hadoop(text)}; {self.credentials}")
        if any(sign in text for sign in self._UNKNOWN):
            return ConfigError(
                f"{place}: {text}: name the NameNode and its port, or set HADOOP_CONF_DIR to the folder of"
                " core-site.xml and hdfs-site.xml"
            )
        if any(sign in text for sign in self._BUSY):
            return _busy(place, _said_by_hadoop(text))
        return LearnError(f"{place}: {type(error).__name__}: {_said_by_hadoop(text)}")

    def hadoop_settings(self, options: Mapping[str, Any]) -> dict[str, str]:
        return {f"spark.hadoop.{key}": value for key, value in _properties(options).items()}


# A client that a forked process inherits must stay untouched: closing it would wait for threads that only the parent
# has. So fsspec, which empties its cache in a forked process, must cache none. A forked process may start another
# program, but must not use HDFS.
_hdfs_clients: dict[tuple[Any, ...], Any] = {}


@cache
def _hdfs_files() -> Any:  # noqa: ANN401
    from fsspec.spec import AbstractBufferedFile
    from hdfs_native.fsspec import HdfsFileSystem

    class RangeReader(AbstractBufferedFile):
        """Reads ranges with a buffer: the client's own reader can be neither buffered nor asked for its position."""

        def _fetch_range(self, start: int, end: int) -> bytes:
            return self.fs.client.read(self.path).read_range(start, end - start)

    class Files(HdfsFileSystem):
        """Takes paths as they are; the base class takes `;` and `#` in a name for its end."""

        cachable = False

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.rstrip("/") or "/"

        def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:  # noqa: ANN401
            if mode == "rb":
                size: Any = block_size or _CHUNK_BYTES
                return RangeReader(self, path, mode, size, cache_type="readahead")
            return super()._open(path, mode, block_size=block_size, **options)

    return Files


STORES: dict[str, Store] = {store.scheme: store for store in (_S3(), _Hdfs())}
SPELLINGS = {"s3": "s3a", **{scheme: scheme for scheme in STORES}}  # as people write it: as Spark does


def short(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:300]


def _busy(place: str, text: str) -> TemporaryError:
    return TemporaryError(f"{place}: the store does not answer as it should; try again later: {text}")


def _said_by_hadoop(text: str) -> str:
    """The text without the server's stack, which comes after the first line."""
    return text.partition("\\n\\tat ")[0].partition(" at org.apache.hadoop.")[0]


def _properties(options: Mapping[str, Any]) -> dict[str, str]:
    """The options that are Hadoop's properties: their names have dots, those of other stores' options have none."""
    told = {key: value for key, value in options.items() if "." in key}
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in told.items()}


def _without_dots(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if "." not in key}
