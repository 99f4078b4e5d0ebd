"""What is wrong with an artifact as it lies, by reading every byte of it: for whoever makes again what is damaged."""

from collections.abc import Callable
from pathlib import Path

from models.contract.content_matrix import open_matrix, require_blocks, vectors_file
from models.contract.failures import BadInput
from models.contract.snapshot import open_snapshot
from models.contract.trained_model import read_about, require_weights


def matrix_damage(folder: Path) -> str | None:
    """Of a content matrix, in a line; None where it is whole."""

    def read() -> None:
        _, meta = open_matrix(folder)
        require_blocks(vectors_file(folder, meta), meta)

    return _refusal(read)


def model_damage(folder: Path) -> str | None:
    """Of a trained model, likewise; whether its weights fit its config is not asked."""
    return _refusal(lambda: _require_file(require_weights(folder, read_about(folder))))


def snapshot_damage(folder: Path) -> str | None:
    """Of a snapshot, likewise."""
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
