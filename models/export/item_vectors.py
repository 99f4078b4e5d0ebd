"""Item embeddings for retrieval outside the lake: an index and smaller copies, with the measured loss of each.

Shapes: I items, B users, K embedding width, k results per query.
"""

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from models.contract.export_specs import VectorsSpec
from models.contract.failures import BadInput
from models.contract.result import write_result
from models.contract.snapshot import Snapshot, open_snapshot
from models.contract.whole_files import require_folder
from models.data.stream import read_column

if TYPE_CHECKING:
    import faiss

ITEMS, INDEX = "items.parquet", "index.faiss"
NEEDED = "faiss"
LINKS, BUILD_REACH, SEARCH_REACH = 32, 200, 256  # hnsw: edges per node, candidates when building and when searching
CELLS_PER_ROOT, VISITED_SHARE, LEAST_VISITED = 4, 0.1, 8  # ivf: 4 sqrt(I) cells; a query visits a tenth, at least 8
SEARCHED = 16 << 20  # scores that exact search holds at once

Search = Callable[[np.ndarray], np.ndarray]


def run(spec: VectorsSpec) -> dict[str, object]:
    """Writes the spec's files.

    Returns:
        The content of result.json: items, width, queries, k, and for every copy and for the index its bytes and
        `recall`: the share of a user's exact k best items that are among its k best, averaged over users. Copies also
        have `max_error`, the largest difference of an element; the index has milliseconds per query.

    Raises:
        BadInput: a snapshot is empty or of another width, or faiss is not installed.
    """
    for key in ("items", "users"):
        require_folder(getattr(spec, key), key)
    if spec.index != "none" and importlib.util.find_spec(NEEDED) is None:
        raise BadInput(f"index: {spec.index} needs {NEEDED}: pip install 'learn-spark[ann]', or choose none")
    items, users = open_snapshot(spec.items), open_snapshot(spec.users)
    item_IK, user_BK = _ordered(items, "item_emb"), read_column(users, "user_emb").astype(np.float32)
    if item_IK.shape[1] != user_BK.shape[1]:
        raise BadInput(f"items have width {item_IK.shape[1]}, users {user_BK.shape[1]}: other models made them")
    spec.out_dir.mkdir(parents=True, exist_ok=True)
    _write_items(items, spec.out_dir)
    k = min(spec.k, len(item_IK))
    exact_Bk = exact_search(item_IK, k)(user_BK)
    about: dict[str, object] = {"items": len(item_IK), "width": item_IK.shape[1], "queries": len(user_BK), "k": k}
    about["copies"] = _write_copies(item_IK, user_BK, exact_Bk, spec.out_dir)
    if spec.index != "none":
        about["index"] = _write_index(item_IK, user_BK, exact_Bk, spec)
    write_result(spec.out_dir, about)
    return about


def quantised(vector_IK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 [I, K] and float32 scales [I]. scale x int8 approximates the vector to within scale / 2 per element."""
    scale_I = np.abs(vector_IK).max(1).astype(np.float32) / 127
    scale_I[scale_I == 0] = 1
    return np.rint(vector_IK / scale_I[:, None]).astype(np.int8), scale_I


def exact_search(item_IK: np.ndarray, k: int) -> Search:
    """A search that scores all items, in tiles. It gives rows of the k largest inner products, unordered: [B, k]."""

    def search(user_BK: np.ndarray) -> np.ndarray:
        step = max(1, SEARCHED // len(item_IK))
        parts = []
        for start in range(0, len(user_BK), step):
            score_bI = user_BK[start : start + step] @ item_IK.T
            parts.append(np.argpartition(-score_bI, k - 1, axis=1)[:, :k])
        return np.concatenate(parts)

    return search


def recall(found_Bk: np.ndarray, exact_Bk: np.ndarray) -> float:
    """The share of each row's exact results that were found, averaged over the rows."""
    hits = [len(np.intersect1d(found, exact)) for found, exact in zip(found_Bk, exact_Bk, strict=True)]
    return float(np.mean(hits) / exact_Bk.shape[1])


def build_index(item_IK: np.ndarray, kind: str) -> "faiss.Index":
    """A faiss index for the inner product, with row numbers as ids.

    Args:
        item_IK: float32, contiguous.
        kind: `flat`, `hnsw` or `ivf`.
    """
    import faiss

    count, width = item_IK.shape
    if kind == "flat":
        index = faiss.IndexFlatIP(width)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = BUILD_REACH, SEARCH_REACH
    else:
        cells = max(1, min(int(CELLS_PER_ROOT * count**0.5), count // 39))  # faiss asks for 39 rows per cell
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = min(cells, max(LEAST_VISITED, int(VISITED_SHARE * cells)))
        index.train(item_IK)
    index.add(item_IK)
    return index


def _write_index(
    item_IK: np.ndarray, user_BK: np.ndarray, exact_Bk: np.ndarray, spec: VectorsSpec
) -> dict[str, str | int | float]:
    """Builds and writes the index, and measures it after reading it back."""
    import faiss

    faiss.omp_set_num_threads(spec.threads)
    file = spec.out_dir / INDEX
    faiss.write_index(build_index(item_IK, spec.index), str(file))
    index = faiss.read_index(str(file))
    began = time.perf_counter()
    _, found_Bk = index.search(user_BK, exact_Bk.shape[1])
    milliseconds = 1000 * (time.perf_counter() - began) / len(user_BK)
    about = {"kind": spec.index, "file": INDEX, "bytes": file.stat().st_size}
    return {**about, "recall": recall(found_Bk, exact_Bk), "ms_a_query": milliseconds}


def _write_copies(
    item_IK: np.ndarray, user_BK: np.ndarray, exact_Bk: np.ndarray, folder: Path
) -> dict[str, dict[str, str | int | float]]:
    int_IK, scale_I = quantised(item_IK)
    stored = {
        "float32": {"vectors.f32": item_IK.astype("<f4")},
        "float16": {"vectors.f16": item_IK.astype("<f2")},
        "int8": {"vectors.i8": int_IK, "scales.f32": scale_I.astype("<f4")},
    }
    read = {
        "float32": item_IK,
        "float16": stored["float16"]["vectors.f16"].astype(np.float32),
        "int8": int_IK.astype(np.float32) * scale_I[:, None],
    }
    about = {}
    for name, files in stored.items():
        for file, values in files.items():
            values.tofile(folder / file)
        found_Bk = exact_search(read[name], exact_Bk.shape[1])(user_BK)
        about[name] = {
            "files": list(files),
            "bytes": sum(values.nbytes for values in files.values()),
            "recall": recall(found_Bk, exact_Bk),
            "max_error": float(np.abs(read[name] - item_IK).max()),
        }
    return about


def _ordered(items: Snapshot, column: str) -> np.ndarray:
    """A column of the items, sorted by item_idx."""
    values = read_column(items, column).astype(np.float32)
    return np.ascontiguousarray(values[np.argsort(read_column(items, "item_idx"), kind="stable")])


def _write_items(items: Snapshot, folder: Path) -> None:
    """Writes items.parquet, which says which item each row of vectors is."""
    table = pq.read_table(list(items.files), columns=["item_id", "item_idx"])
    pq.write_table(table.sort_by("item_idx"), folder / ITEMS)
