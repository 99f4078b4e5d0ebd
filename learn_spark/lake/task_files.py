"""Files that tasks make and the driver gathers in a folder, even if the tasks' machines do not see the folder.

A task that sees the folder writes into it. One that does not leaves its files in the lake's store, and the driver
fetches them from there.
"""

import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from learn_spark.errors import ConfigError
from learn_spark.lake.artifacts import ARTIFACTS, carried
from learn_spark.lake.lock import held_epoch
from learn_spark.storage import Location
from models.contract.verified import file_digest

_INCOMING = "_incoming"
_THREADS = 4


@dataclass(frozen=True)
class TaskFiles:
    """Where the tasks of a job leave their files; is sent to the tasks.

    Attributes:
        folder: of the driver, with a name that no other machine's folder has.
        store: for tasks that do not see the folder; None if the lake is on a file system.
    """

    folder: Path
    store: Location | None

    @contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """In a task: yields a path to write a file to; at the end of the block the whole file gets its name.

        A task that is tried again, or runs twice, writes the same bytes; the last file stays.

        Raises:
            FileNotFoundError: this machine does not see the folder, and the lake is not in a store.
        """
        if self.folder.is_dir():
            partial = self.folder / f".{name}.{uuid.uuid4().hex}"
            yield partial
            partial.rename(self.folder / name)
        elif self.store is not None:
            with tempfile.TemporaryDirectory(prefix="learn-spark-") as scratch:
                file = Path(scratch, name)
                yield file
                (self.store / name).send(file)
        else:
            raise FileNotFoundError(
                f"{socket.gethostname()} does not see {self.folder}: lake.root must lie on a file system that every"
                " executor mounts, or in a store (docs/cluster.md)"
            )

    def gather(self, digests: Mapping[str, str]) -> None:
        """On the driver: brings the tasks' files into the folder.

        Args:
            digests: SHA-256 of each file by its name.

        Raises:
            ConfigError: a fetched file is not what the task sent.
        """
        absent = [name for name in digests if not (self.folder / name).is_file()]
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda name: self._fetch(name, digests[name]), absent))

    def _fetch(self, name: str, digest: str) -> None:
        assert self.store is not None, f"no task has left {name}"
        file = self.folder / name
        (self.store / name).fetch(file)
        if file_digest(file) != digest:
            raise ConfigError(f"{self.store / name} has changed on its way (SHA-256 differs): run this again")


@contextmanager
def task_files(folder: Path) -> Iterator[TaskFiles]:
    """Makes a folder for the files of tasks and, if the lake is in a store, a place there, which is removed at the end.

    Args:
        folder: must not exist yet; the caller renames or removes it.
    """
    folder.mkdir(parents=True)
    root = carried(folder).root
    if root is None:
        yield TaskFiles(folder, None)
        return
    incoming, run = root / ARTIFACTS / _INCOMING, str(held_epoch(root))
    for earlier in incoming.glob("*"):
        if earlier.name != run:  # of a run that was killed
            earlier.remove()
    store = incoming / run / folder.name.lstrip(".")
    try:
        yield TaskFiles(folder, store)
    finally:
        store.remove()
