"""Folders that go to a store and come from one."""

from pathlib import Path

from learn_spark.storage import Location


def upload(folder: Path, place: Location) -> Location:
    """Makes a place the copy of a folder."""
    for file in folder.rglob("*"):
        if file.is_file():
            (place / str(file.relative_to(folder))).send(file)
    return place


def download(place: Location, folder: Path) -> Path:
    """Makes a folder the copy of a place."""
    for name in place.matching("**"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).fetch(folder / name)
    return folder
