"""The artifacts of a lake: matrix, snapshots, models, results of evaluations. Each is a folder, `<kind>/<name>`.

Below a local root they are what they are. Of a lake in a store this machine has copies, below `LEARN_SPARK_CACHE` or
the user's cache folder, since the torch side, memory maps and Petastorm need files. `path` brings a copy up to date
before it is read; `publish` takes to the store what this process has made, before the ledger says that it is there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from learn_spark.lake.artifact_copies import ARTIFACTS, Mirror
from learn_spark.lake.lock import artifacts_lock
from learn_spark.storage import Location, Place, remove


@dataclass(frozen=True)
class Copy:
    """An artifact as a task needs it: where it lies, or how this machine gets its copy.

    Attributes:
        path: on the driver.
        root: of the lake, if that is in a store.
    """

    path: Path
    root: Location | None = None

    def here(self) -> Path:
        """The artifact on the machine that asks."""
        if self.root is None:
            return self.path
        return _mirror_of(self.root).path(self.path.parent.name, self.path.name)


class Artifacts:
    """The artifacts of the lake under a root, on this machine."""

    def __init__(self, root: Place, require_lock: Callable[[], None] = lambda: None) -> None:
        """`require_lock` is asked before the store's are changed, and raises where this process may not."""
        self._root, self._mirror = root, None if isinstance(root, Path) else _mirror_of(root)
        self._folder = root / ARTIFACTS if isinstance(root, Path) else _mirror_of(root).folder
        self._require_lock = require_lock

    def path(self, *parts: str) -> Path:
        """Where a matrix, snapshot or model, or all of a kind, lie; what the store has of them is here then."""
        return self._mirror.path(*parts) if self._mirror else self._folder.joinpath(*parts)

    def place_of(self, path: Path) -> Place:
        """Where the lake itself has what `path` has given, whatever the machine; any other path is what it is."""
        if not path.is_relative_to(self._folder):
            return path
        return self._root.joinpath(ARTIFACTS, *path.relative_to(self._folder).parts)

    def publish(self) -> None:
        """Takes what has been made to the lake's store, if it lies in one: before a row says so."""
        self._require_lock()
        if self._mirror:
            self._mirror.publish()

    def discard(self, path: Place) -> None:
        """Takes a file or a folder away that lies beside the lake's tables, or is this machine's copy of such.

        Of a whole artifact the lake's store loses its own at once, of a file of one when it is published next.
        """
        self._require_lock()
        if self._mirror and isinstance(path, Path) and path.parent.parent == self._folder:
            self._mirror.discard(path.parent.name, path.name)
        else:
            remove(path)

    def cut_history(self) -> None:
        """Leaves in the lake's store what the artifacts are now: no block that they were made of before."""
        self._require_lock()
        if self._mirror:
            self._mirror.cut_history()

    def damage(self, deep: bool) -> dict[Place, str]:
        """Of a lake in a store the artifacts that lack blocks, by their index: without it they count as not made.

        From then on they do so in this process. With `deep` every byte is read.
        """
        return self._mirror.damage(deep) if self._mirror else {}

    @contextmanager
    def locked(self, kind: str, busy: str) -> Iterator[Callable[[], None]]:
        """Keeps other processes from artifacts of a kind, for work of hours beside which nights may go on.

        Args:
            kind: as "comparisons".
            busy: the error's text where another process is there.

        Yields:
            What does as `publish` without the lake's lock.

        Raises:
            ConfigError, TemporaryError: as of `lock.folder_lock`.
        """
        with artifacts_lock(self._root / ARTIFACTS / kind, busy) as require_lock:
            yield Artifacts(self._root, require_lock).publish


def carried(path: Path) -> Copy:
    """An artifact of this process's lake as tasks on other machines can have it."""
    for root, mirror in _mirrors.items():
        if path.is_relative_to(mirror.folder):
            return Copy(path, root)
    return Copy(path)


_mirrors: dict[Location, Mirror] = {}


def _mirror_of(root: Location) -> Mirror:
    if root not in _mirrors:
        _mirrors[root] = Mirror(root)
    return _mirrors[root]
