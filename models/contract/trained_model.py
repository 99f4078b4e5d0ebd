"""The files of a trained model: `model.safetensors` for the weights, `config.json` for the rest. Needs no torch."""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.contract.failures import BadInput
from models.contract.verified import file_digest, read_sealed, require_digest, sealed, warn_unverified
from models.contract.whole_files import write_whole

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT_VERSION = 1
EVENT_TYPES = "event_types"
OTHER_LABELS = "other_labels"
_DIGEST = "weights_sha256"


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes config.json with the digest of the weights, which must have been written before."""
    whole = {"format_version": FORMAT_VERSION, **about, _DIGEST: file_digest(folder / WEIGHTS)}
    write_whole(folder / CONFIG, json.dumps(sealed(whole), indent=2) + "\n")


def read_about(folder: Path) -> dict[str, Any]:
    """The values in a model's config.json.

    Raises:
        BadInput: it cannot be read, has changed, or is of another format.
    """
    about = read_sealed(folder / CONFIG, f"model {folder}")
    if about.get("format_version") != FORMAT_VERSION:
        raise BadInput(f"model {folder}: {CONFIG} is not of format version {FORMAT_VERSION}")
    return about


def event_types_of(folder: Path) -> tuple[str, ...]:
    """The names of the event types that a model reads, in the order of their codes; empty if it reads none.

    Raises:
        BadInput: as `read_about`, or config.json holds anything but distinct names there.
    """
    return _names_of(folder, EVENT_TYPES)


def other_labels_of(folder: Path) -> tuple[str, ...]:
    """The names of the labels that a conversion model scores beside the conversion, in the order of its outputs.

    Raises:
        BadInput: as of `event_types_of`.
    """
    return _names_of(folder, OTHER_LABELS)


def _names_of(folder: Path, key: str) -> tuple[str, ...]:
    names = read_about(folder).get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise BadInput(f"model {folder}: {CONFIG} has {reprlib.repr(names)} for {key}, which are no names")
    return tuple(names)


def require_weights(folder: Path, about: Mapping[str, Any]) -> Path:
    """The file of a model's weights, after a check of its digest; an unchanged file is read once per process.

    Args:
        folder: the model's folder.
        about: the result of `read_about`. Without a digest, as earlier versions wrote it, it only logs a warning, once.

    Raises:
        BadInput: the weights are missing or have changed.
    """
    digest = about.get(_DIGEST)
    if digest is None:
        warn_unverified(folder, "it is trained again")
    else:
        require_digest(folder / WEIGHTS, str(digest), f"model {folder}")
    return folder / WEIGHTS
