"""Checks whether artifacts on disk are damaged, by reading every byte, so that a repair knows what to make again."""

from collections.abc import Callable
from pathlib import Path

from models.contract.content_matrix import open_matrix, require_blocks, vectors_file
from models.contract.failures import BadInput
from models.contract.snapshot import open_snapshot
from models.contract.trained_model import read_about, require_weights


def matrix_damage(folder: Path) -> str | None:
    """What is wrong with a content matrix, in one line; None if it is intact."""

    def read() -> None:
        _, meta = open_matrix(folder)
        require_blocks(vectors_file(folder, meta), meta)

    return _refusal(read)


def model_damage(folder: Path) -> str | None:
    """As `matrix_damage`, of a trained model. Does not check whether the weights fit the config."""
    return _refusal(lambda: _require_file(require_weights(folder, read_about(folder))))


def snapshot_damage(folder: Path) -> str | None:
    """As `matrix_damage`, of a snapshot."""
    return _refusal(lambda: open_snapshot(folder))


def _refusal(read: Callable[[], object]) -> str | None:
    try:
        read()
    except BadInput as error:
        return str(error)
    return None


def _require_file(file: Path) -> None:
    if not file.is_file():
        raise BadInput(f"{file} is missing")
