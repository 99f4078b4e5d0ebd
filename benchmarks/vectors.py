"""Vectors in one flat file of float32, made once per size; every contender maps the same bytes."""

from pathlib import Path

import numpy as np

from benchmarks.sequences import checksum

SEED = 7
CHUNK = 100_000


def ensure_vectors(folder: Path, rows: int, width: int) -> Path:
    """The path `folder/vectors/<rows>x<width>.npy` of standard normal vectors; made if it is missing."""
    path = folder / "vectors" / f"{rows}x{width}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half")
        values = np.lib.format.open_memmap(half, mode="w+", dtype=np.float32, shape=(rows, width))
        rng = np.random.default_rng(SEED)
        for start in range(0, rows, CHUNK):
            values[start : start + CHUNK] = rng.standard_normal((min(CHUNK, rows - start), width), np.float32)
        values.flush()
        half.rename(path)
    return path


def vectors_checksum(folder: Path, *columns: str) -> str:
    """The number of rows and the sum of their hashes over ids and `float[]` columns."""
    return checksum(folder, ", ".join(columns))
