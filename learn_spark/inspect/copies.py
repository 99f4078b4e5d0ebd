"""Copies of files that lie in a store, so that they can be looked at without Spark."""

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
    """There is more than may be copied."""


@dataclass(frozen=True)
class Looked:
    """What is looked at, on this machine, and where it lies.

    Attributes:
        path: a file or a folder; of one in a store the copy.
        place: the same, or what was copied.
    """

    path: Path
    place: Place

    def named(self, text: str) -> str:
        """A text about the copy, or about the folder of a copied file, as one about the store."""
        if isinstance(self.place, Path):
            return text
        text = text.replace(str(self.path), str(self.place))
        return text.replace(str(self.path.parent), str(self.place.parent))


@contextmanager
def naming(looks: Iterable[Looked]) -> Iterator[None]:
    """What goes wrong with copies is said of what was copied."""
    try:
        yield
    except ConfigError as error:
        text = str(error)
        for each in looks:
            text = each.named(text)
        raise ConfigError(text) from None


def looked(place: Place) -> Looked:
    """A file or a folder; where it lies in a store, all that is in it is copied.

    Raises:
        ConfigError: there is nothing, or it is a table.
        TooLarge: there is more than LEARN_SPARK_INSPECT_GB.
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
    """The folder of this machine with these files of a store's folder, and no others; what it has is not copied again.

    Args:
        folder: in the store.
        wanted: names below it, and their states.

    Raises:
        TooLarge: they are more than LEARN_SPARK_INSPECT_GB.
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
