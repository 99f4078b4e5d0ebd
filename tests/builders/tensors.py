"""Small snapshots and content matrices for tests of the torch side, written by pyarrow without Spark."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_snapshot(
    folder: Path, table: pa.Table, *, files: int = 2, row_group_size: int = 7, event_types: Sequence[str] = ()
) -> Path:
    """Writes a snapshot folder with its manifest and the rows spread evenly over `files` Parquet files."""
    folder.mkdir(parents=True)
    entries = []
    bounds = np.linspace(0, table.num_rows, files + 1).astype(int)
    for number, (start, stop) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        path = folder / f"part-{number:05d}.parquet"
        pq.write_table(table.slice(start, stop - start), path, row_group_size=row_group_size)
        entries.append(
            {
                "path": path.name,
                "rows": int(stop - start),
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        )
    manifest = {
        "source_table": "test",
        "source_version": 3,
        "schema": {field.name: str(field.type) for field in table.schema},
        "rows": table.num_rows,
        "files": entries,
        **({"event_types": list(event_types)} if event_types else {}),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def flip(file: Path, place: int) -> None:
    """Flips one bit of the byte at `place`; the file's size and inode stay the same."""
    with file.open("r+b") as handle:
        handle.seek(place)
        byte = handle.read(1)[0]
        handle.seek(place)
        handle.write(bytes([byte ^ 1]))


def sequences_table(num_rows: int, num_items: int, *, hist: int = 6, tar: int = 4, seed: int = 0) -> pa.Table:
    """Rows of the table `sequences` in which users buy items with numbers near those they bought before."""
    rng = np.random.default_rng(seed)
    hist_len = rng.integers(1, hist + 1, num_rows)
    tar_len = rng.integers(1, tar + 1, num_rows)
    taste = rng.integers(0, num_items, num_rows)[:, None]
    items = (taste + rng.integers(0, max(2, num_items // 10), (num_rows, hist + tar))) % num_items + 1
    hist_items = np.where(np.arange(hist) < hist_len[:, None], items[:, :hist], 0)
    tar_items = np.where(np.arange(tar) < tar_len[:, None], items[:, hist:], 0)
    hist_ts = np.where(hist_items > 0, 1_300_000_000 + 3600 * np.arange(hist), 0)
    return pa.table(
        {
            "user_id": [f"u{row % max(1, num_rows // 2)}" for row in range(num_rows)],
            "as_of": pa.array([15_000] * num_rows, pa.date32()),
            "hist_items": pa.array(list(hist_items.astype(np.int32)), pa.list_(pa.int32())),
            "hist_ts": pa.array(list(hist_ts), pa.list_(pa.int64())),
            "hist_len": pa.array(hist_len, pa.int32()),
            "tar_items": pa.array(list(tar_items.astype(np.int32)), pa.list_(pa.int32())),
            "tar_len": pa.array(tar_len, pa.int32()),
        }
    )


def with_types(table: pa.Table, num_types: int, seed: int = 0) -> pa.Table:
    """Adds hist_types and tar_types, a random type for every event."""
    rng = np.random.default_rng(seed)
    for items, types in (("hist_items", "hist_types"), ("tar_items", "tar_types")):
        item_BL = np.stack(table[items].to_numpy())
        drawn_BL = np.where(item_BL > 0, rng.integers(1, 1 + num_types, item_BL.shape), 0).astype(np.int8)
        table = table.append_column(types, pa.array(list(drawn_BL), pa.list_(pa.int8())))
    return table


def pairs_table(num_rows: int, *, width: int = 8, seed: int = 0) -> pa.Table:
    """Rows of the CVR snapshot in which the label depends on the inner product of the two embeddings, with noise."""
    rng = np.random.default_rng(seed)
    user, item = rng.normal(size=(2, num_rows, width)).astype(np.float32)
    label = ((user * item).sum(1) + rng.normal(size=num_rows) > 0).astype(np.int32)
    return pa.table(
        {
            "user_id": [f"u{row // 8}" for row in range(num_rows)],
            "event_ts": pa.array([1_300_000_000_000_000] * num_rows, pa.timestamp("us", "UTC")),
            "user_emb": pa.array(list(user), pa.list_(pa.float32())),
            "item_emb": pa.array(list(item), pa.list_(pa.float32())),
            "label": label,
            "weight": pa.array(np.where(label == 1, 1.0, 4.0), pa.float64()),
        }
    )


def write_matrix(folder: Path, vectors: np.ndarray) -> Path:
    """Writes a content matrix folder from float [rows, dim]; row 0 should be zeros."""
    folder.mkdir(parents=True)
    vectors.astype("<f2").tofile(folder / "vectors.f16")
    meta = {"rows": len(vectors), "dim": vectors.shape[1], "dtype": "float16", "encoder_id": "test-encoder"}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def random_vectors(num_items: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    """Random content vectors, unrelated to which items co-occur: [num_items + 1, dim], row 0 zeros."""
    vectors = np.random.default_rng(seed).normal(size=(num_items + 1, dim))
    vectors[0] = 0
    return vectors
