"""Item codes for generative rankers: each item's tokens, and the trie of all existing token sequences.

A token is a code plus the number of codes of all earlier levels, so that no two levels share a token. Items with equal
codes share a leaf. Shapes: I items, L levels, N nodes.
"""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.contract.codebook import CODEBOOK, read_codebook
from models.contract.export_specs import CodesSpec
from models.contract.failures import BadInput
from models.contract.result import write_result
from models.contract.snapshot import open_snapshot
from models.contract.whole_files import require_folder

ITEMS, TRIE = "items.parquet", "trie.parquet"


def run(spec: CodesSpec) -> dict[str, object]:
    """Writes the spec's files.

    Returns:
        The content of result.json: items, levels, sizes (codes per level), offsets (first token per level), vocabulary
        (tokens in all), nodes, paths (leaves), and collisions: the share of items that share their leaf with others.

    Raises:
        BadInput: the snapshot or the codebook cannot be read, or they do not fit together.
    """
    items = open_snapshot(require_folder(spec.items, "items"))
    codebook = read_codebook(spec.codebook)
    table = pq.read_table(list(items.files), columns=["item_id", "item_idx", "item_codes"]).combine_chunks()
    offset_L = np.cumsum([0, *codebook.sizes[:-1]])
    token_IL = _codes(table, codebook.sizes, spec.codebook) + offset_L
    order_I = np.lexsort([table["item_idx"].to_numpy(), *token_IL.T[::-1]])
    token_IL, table = token_IL[order_I].astype(np.int32), table.take(order_I)
    spec.out_dir.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.append_column("tokens", pa.array(list(token_IL), pa.list_(pa.int32()))), spec.out_dir / ITEMS)
    nodes = trie(token_IL)
    pq.write_table(pa.table(nodes), spec.out_dir / TRIE)
    shutil.copyfile(spec.codebook, spec.out_dir / CODEBOOK)
    leaf_items = nodes["num_items"][nodes["depth"] == len(offset_L)]
    about: dict[str, object] = {
        "items": len(table),
        "levels": len(offset_L),
        "sizes": codebook.sizes,
        "offsets": offset_L.tolist(),
        "vocabulary": sum(codebook.sizes),
        "nodes": len(nodes["token"]),
        "paths": len(leaf_items),
        "collisions": float(leaf_items[leaf_items > 1].sum() / len(table)),
    }
    write_result(spec.out_dir, about)
    return about


def trie(token_IL: np.ndarray) -> dict[str, np.ndarray]:
    """The trie of sorted rows of tokens. Nodes are ordered by depth, then by their tokens; node 0 is the root.

    Returns:
        Arrays [N] by name: depth; token (the root's is -1); first_child and num_children, as the children of a node are
        consecutive; first_item and num_items, as the rows of `token_IL` below a node are consecutive, too.
    """
    count, levels = token_IL.shape
    is_new_IL = np.ones(token_IL.shape, bool)  # whether the row's prefix of this length differs from the row before
    is_new_IL[1:] = np.logical_or.accumulate(token_IL[1:] != token_IL[:-1], axis=1)
    starts = [np.zeros(1, np.int64), *(np.flatnonzero(is_new_IL[:, level]) for level in range(levels))]
    begins = np.cumsum([0, *map(len, starts)])  # the first node of each depth
    found: dict[str, list[np.ndarray]] = {}
    for depth, start_N in enumerate(starts):
        if depth < levels:
            child_N = np.searchsorted(starts[depth + 1], start_N)
            children_N = np.diff([*child_N, len(starts[depth + 1])])
        else:
            child_N = children_N = np.zeros(len(start_N), np.int64)
        columns = {
            "depth": np.full(len(start_N), depth),
            "token": token_IL[start_N, depth - 1] if depth else np.array([-1]),
            "first_child": child_N + begins[depth + 1] if depth < levels else child_N,
            "num_children": children_N,
            "first_item": start_N,
            "num_items": np.diff([*start_N, count]),
        }
        for name, values in columns.items():
            found.setdefault(name, []).append(values.astype(np.int32))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _codes(table: pa.Table, sizes: list[int], codebook: Path) -> np.ndarray:
    """The items' codes, [I, L], after a check against the levels' sizes."""
    lists = table["item_codes"].combine_chunks()
    length_I = np.diff(lists.offsets.to_numpy())
    if lists.null_count or (length_I != len(sizes)).any():
        raise BadInput(f"items must have {len(sizes)} codes each, as the codebook {codebook} has levels")
    codes_IL = lists.flatten().to_numpy().reshape(-1, len(sizes)).astype(np.int64)
    if (codes_IL < 0).any() or (codes_IL >= sizes).any():
        raise BadInput(f"items have codes that the codebook {codebook} has not: it is another one's")
    return codes_IL
