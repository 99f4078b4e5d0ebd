"""Local copies of files that lie in a store, so that they can be inspected without Spark."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from learn_spark.errors import ConfigError
from learn_spark.storage import Location, Place, cache_folder, name_of_copy
from models.contract.whole_files import write_whole

MOST_GB, USUAL_GB = "LEARN_SPARK_INSPECT_GB", 4.0
_STATES = "states.json"
State = tuple[int | str, ...]  # of a file: size and tag


class TooLarge(ConfigError):
    """The files are larger than what may be copied."""


@dataclass(frozen=True)
class Looked:
    """A file or folder to inspect.

    Attributes:
        path: the file or folder itself, or its copy on this machine if it lies in a store.
        place: the original.
    """

    path: Path
    place: Place

    def named(self, text: str) -> str:
        """The text with paths of the copy, or of the copied file's folder, replaced by their places in the store."""
        if isinstance(self.place, Path):
            return text
        text = text.replace(str(self.path), str(self.place))
        return text.replace(str(self.path.parent), str(self.place.parent))


@contextmanager
def naming(looks: Iterable[Looked]) -> Iterator[None]:
    """Makes the errors of the block name the originals instead of the copies."""
    try:
        yield
    except ConfigError as error:
        text = str(error)
        for each in looks:
            text = each.named(text)
        raise ConfigError(text) from None


def looked(place: Place) -> Looked:
    """A file or folder for inspection; if it lies in a store, all its files are copied to this machine.

    Raises:
        ConfigError: the store's folder holds no files, or is a Delta table.
        TooLarge: the files are larger than LEARN_SPARK_INSPECT_GB.
    """
    if isinstance(place, Path):
        return Looked(place, place)
    if place.is_file():
        entry, folder = place.entry(), place.parent
        return Looked(copy_of(folder, {place.name: (entry.size, entry.tag)}) / place.name, place)
    if (place / "_delta_log").is_dir():
        raise ConfigError(f"{place} is a Delta table: write format: delta, files: null, and map its columns")
    wanted = {name: (entry.size, entry.tag) for name, entry in place.matching("**").items()}
    if not wanted:
        raise ConfigError(f"{place} holds no files")
    return Looked(copy_of(place, wanted), place)


def copy_of(folder: Location, wanted: Mapping[str, State]) -> Path:
    """A folder on this machine with exactly these files of a store's folder; unchanged ones are not copied again.

    Args:
        folder: in the store.
        wanted: names below it, and their states.

    Raises:
        TooLarge: the files are larger than LEARN_SPARK_INSPECT_GB.
    """
    size, most = sum(int(state[0]) for state in wanted.values()), float(os.environ.get(MOST_GB, USUAL_GB))
    if size > most * 1e9:
        raise TooLarge(
            f"{folder}: {len(wanted)} files of {size / 1e9:.1f} GB would be copied to look at them, and {MOST_GB} is"
            f" {most:g}: name a folder or a file with a part of them, or raise it"
        )
    root = cache_folder() / "_looked_at" / name_of_copy(folder)
    copy = root.joinpath(*folder.uri.partition("://")[2].split("/"))
    known: dict[str, list[int | str]] = {}
    with suppress(FileNotFoundError, ValueError):
        known = json.loads((root / _STATES).read_bytes())
    here = {str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file()}
    for name in here - wanted.keys():
        (copy / name).unlink()
    try:
        for name, state in wanted.items():
            if known.get(name) != list(state) or name not in here:
                write_whole(copy / name, (folder / name).fetch)
                known[name] = list(state)
    finally:
        write_whole(root / _STATES, json.dumps(known))
    return copy
