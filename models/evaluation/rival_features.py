"""Other systems' vectors and scores for the ranker's rows, as columns to add to its base features.

Shapes: N rows, B histories, H history length, I items (including padding, item 0), K width, U distinct items.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from models.baselines.history import Cooccurrence
from models.baselines.popularity import trained_items
from models.contract.evaluation_specs import HISTORY_DAY, RECENCY_DECAY, RankerSpec, RivalConfig
from models.contract.failures import BadInput
from models.contract.snapshot import Snapshot, open_snapshot
from models.data.content import ContentMatrix
from models.data.stream import hashed, read_column
from models.evaluation.retrieval_rows import TRAIN_COLUMNS
from models.saved import load_retriever
from models.towers.typed_events import model_types


def rival_blocks(spec: RankerSpec, rows: pa.Table) -> Iterator[tuple[str, np.ndarray]]:
    """Each rival's name and columns: its score, [N, 1], or user vector, item vector and inner product, [N, 2 K + 1].

    Columns are float32. User vectors are made from the newest history, as the embeddings are. Without one, user vector,
    product and score are zero. Items that are in no training row have zeros if the rival has `trained_items_only`.

    Raises:
        BadInput: a row's history is missing, or a model or snapshot cannot be read.
    """
    assert spec.histories and spec.train_snapshot, "RankerSpec asks for them"
    histories, train = open_snapshot(spec.histories), open_snapshot(spec.train_snapshot)
    item_N, place_N = rows["item_idx"].to_numpy().astype(np.int64), history_places(rows, histories)
    columns = ("hist_items", "hist_len", "hist_ts", *(["hist_types"] if histories.event_types else []))
    told = {name: read_column(histories, name) for name in columns}
    num_items = ContentMatrix(spec.content_matrix).rows
    trained_I = np.empty(0, np.int64)
    if any(rival.trained_items_only for rival in spec.rivals):
        trained_I = trained_items(train, num_items)
    for rival in spec.rivals:
        if rival.kind == "cooccurrence":
            yield rival.name, _scores(train, num_items, told, place_N, item_N)
        else:
            yield rival.name, _vectors(rival, trained_I, told, histories.event_types, place_N, item_N)


def history_places(rows: pa.Table, histories: Snapshot) -> np.ndarray:
    """The row number of each row's history, that of its user and HISTORY_DAY: int64 [N], -1 for none.

    Raises:
        BadInput: the histories lack one that a row names.
    """
    user_N, day_N = hashed(rows["user_id"].to_numpy()), rows[HISTORY_DAY].to_numpy().astype(np.int64)
    user_B, day_B = read_column(histories, "user_id"), read_column(histories, "day").astype(np.int64)
    number = np.unique(np.concatenate([user_N, user_B]), return_inverse=True)[1].astype(np.int64)
    days = int(max(day_N.max(initial=0), day_B.max(initial=0))) + 1
    key_N, key_B = number[: len(user_N)] * days + day_N, number[len(user_N) :] * days + day_B
    order = np.argsort(key_B)
    place_N = order[np.searchsorted(key_B, key_N, sorter=order).clip(max=len(key_B) - 1)]
    has_N = day_N >= 0
    if (key_B[place_N] != key_N)[has_N].any():
        raise BadInput(f"snapshot {histories.path} lacks histories that rows name")
    return np.where(has_N, place_N, -1)


def _vectors(
    rival: RivalConfig,
    trained_I: np.ndarray,
    told: dict[str, np.ndarray],
    types: Sequence[str],
    place_N: np.ndarray,
    item_N: np.ndarray,
) -> np.ndarray:
    assert rival.folder and rival.content_matrix, "RivalConfig asks for them"
    model, content = load_retriever(rival.folder), ContentMatrix(rival.content_matrix)
    types_BH = model_types(model, types, told.get("hist_types"), f"rival {rival.name}")
    user_BK = model.embed_users(
        told["hist_items"], told["hist_len"], content, hist_ts_BH=told["hist_ts"], hist_types_BH=types_BH
    )
    user_NK = np.concatenate([user_BK, np.zeros_like(user_BK[:1])])[place_N]
    item_U, number_N = np.unique(item_N, return_inverse=True)
    item_UK = model.embed_items(item_U, content)
    is_known_U = item_U > 0
    if rival.trained_items_only:
        is_known_U &= np.isin(item_U, trained_I)
    item_NK = (item_UK * is_known_U[:, None])[number_N]
    return np.concatenate([user_NK, item_NK, np.einsum("nk,nk->n", user_NK, item_NK)[:, None]], axis=1)


def _scores(
    train: Snapshot, num_items: int, told: dict[str, np.ndarray], place_N: np.ndarray, item_N: np.ndarray
) -> np.ndarray:
    columns = (read_column(train, name) for name in TRAIN_COLUMNS)
    counts = Cooccurrence(*columns, num_items=num_items, decay=RECENCY_DECAY)
    score_N1, has_N = np.zeros((len(item_N), 1), np.float32), place_N >= 0
    score_N1[has_N, 0] = counts.of_pairs(told["hist_items"], told["hist_len"], place_N[has_N], item_N[has_N])
    return score_N1
