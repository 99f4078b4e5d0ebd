"""The artifacts of a lake: matrix, snapshots, models, results of evaluations. Each is a folder, `<kind>/<name>`.

Below a local root they are used where they are. For a lake in a store, this machine has copies below
`LEARN_SPARK_CACHE` or the user's cache folder, since the torch side, memory maps and Petastorm need local files. `path`
brings a copy up to date before it is read; `publish` sends to the store what this process has made, before the ledger
says that it is there.
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
    """An artifact as a task needs it: where it is, or how the task's machine gets a copy.

    Attributes:
        path: on the driver.
        root: of the lake, if that is in a store.
    """

    path: Path
    root: Location | None = None

    def here(self) -> Path:
        """The artifact's path on the machine that calls this."""
        if self.root is None:
            return self.path
        return _mirror_of(self.root).path(self.path.parent.name, self.path.name)


class Artifacts:
    """The artifacts of the lake under a root, on this machine."""

    def __init__(self, root: Place, require_lock: Callable[[], None] = lambda: None) -> None:
        """`require_lock` is called before artifacts are changed, and raises if this process may not change them."""
        self._root, self._mirror = root, None if isinstance(root, Path) else _mirror_of(root)
        self._folder = root / ARTIFACTS if isinstance(root, Path) else _mirror_of(root).folder
        self._require_lock = require_lock

    def path(self, *parts: str) -> Path:
        """The local path of a matrix, snapshot or model, or of all of a kind; brings copies of a store up to date."""
        return self._mirror.path(*parts) if self._mirror else self._folder.joinpath(*parts)

    def place_of(self, path: Path) -> Place:
        """The place in the lake, equal on all machines, of a path that `path` returned; other paths are unchanged."""
        if not path.is_relative_to(self._folder):
            return path
        return self._root.joinpath(ARTIFACTS, *path.relative_to(self._folder).parts)

    def publish(self) -> None:
        """Sends what has been made to the lake's store, if it has one; to be called before a row names it."""
        self._require_lock()
        if self._mirror:
            self._mirror.publish()

    def discard(self, path: Place) -> None:
        """Deletes a file or folder beside the lake's tables, or this machine's copy of one.

        A whole artifact is deleted from the lake's store at once, a file of one when the artifact is next published.
        """
        self._require_lock()
        if self._mirror and isinstance(path, Path) and path.parent.parent == self._folder:
            self._mirror.discard(path.parent.name, path.name)
        else:
            remove(path)

    def cut_history(self) -> None:
        """Deletes from the lake's store all blocks that only former states of artifacts were made of."""
        self._require_lock()
        if self._mirror:
            self._mirror.cut_history()

    def damage(self, deep: bool) -> dict[Place, str]:
        """The damaged artifacts of a lake in a store: their index, without which they count as not made, and why.

        From then on, this process treats them as not made. With `deep` every byte is read.
        """
        return self._mirror.damage(deep) if self._mirror else {}

    @contextmanager
    def locked(self, kind: str, busy: str) -> Iterator[Callable[[], None]]:
        """Locks the artifacts of a kind for hours of work, during which nightly runs can go on.

        Args:
            kind: such as "comparisons".
            busy: the error's text if another process has the lock.

        Yields:
            A function that does what `publish` does, but without the lake's lock.

        Raises:
            ConfigError, TemporaryError: as for `lock.folder_lock`.
        """
        with artifacts_lock(self._root / ARTIFACTS / kind, busy) as require_lock:
            yield Artifacts(self._root, require_lock).publish


def carried(path: Path) -> Copy:
    """An artifact of this process's lake in the form in which tasks on other machines can use it."""
    for root, mirror in _mirrors.items():
        if path.is_relative_to(mirror.folder):
            return Copy(path, root)
    return Copy(path)


_mirrors: dict[Location, Mirror] = {}


def _mirror_of(root: Location) -> Mirror:
    if root not in _mirrors:
        _mirrors[root] = Mirror(root)
    return _mirrors[root]
