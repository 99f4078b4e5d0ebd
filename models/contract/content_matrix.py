"""The files of a content matrix, for readers with and without torch: row = item_idx, row 0 = padding (zeros)."""

from pathlib import Path

import numpy as np

from models.contract.strict import read_json

META_KEYS = {"rows", "dim", "dtype", "encoder_id"}


def open_matrix(path: Path) -> tuple[np.memmap, dict[str, object]]:
    """The vectors, float16 [rows, dim], mapped and not read, and what `meta.json` says of them.

    Args:
        path: a folder with `meta.json` and the file of vectors that it names, `vectors.f16` if it names none.

    Raises:
        ValueError: the folder, its meta.json or the vectors' size is not what it should be.
    """
    meta = _read_meta(path / "meta.json")
    rows, dim = int(meta["rows"]), int(meta["dim"])
    vectors = path / Path(str(meta.get("vectors", "vectors.f16"))).name
    if not vectors.is_file():
        raise ValueError(f"content matrix {path}: {vectors.name} is missing")
    want, have = rows * dim * 2, vectors.stat().st_size
    if have < want:  # longer: a run is extending it, or was killed while it did
        raise ValueError(f"{vectors}: {have} bytes, but {rows} x {dim} fp16 need {want}")
    return np.memmap(vectors, dtype="<f2", mode="r", shape=(rows, dim)), meta


def _read_meta(path: Path) -> dict:
    meta = read_json(path, "content matrix")
    if not isinstance(meta, dict) or not meta.keys() >= META_KEYS:
        raise ValueError(f"content matrix: {path} must hold {', '.join(sorted(META_KEYS))}")
    if meta["dtype"] != "float16":
        raise ValueError(f"content matrix: {path}: dtype {meta['dtype']!r}; only float16 is read")
    return meta
