"""Copies folders to a store and from a store."""

from pathlib import Path

from learn_spark.storage import Location


def upload(folder: Path, place: Location) -> Location:
    """Copies a folder to a location."""
    for file in folder.rglob("*"):
        if file.is_file():
            (place / str(file.relative_to(folder))).send(file)
    return place


def download(place: Location, folder: Path) -> Path:
    """Copies a location to a folder."""
    for name in place.matching("**"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).fetch(folder / name)
    return folder
