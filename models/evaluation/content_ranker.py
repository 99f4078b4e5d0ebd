"""How much raw content vectors, without any alignment, help a ranker: the same trees with and without them.

Shapes: N rows, B rows of histories, I items, F features.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import torch
from threadpoolctl import threadpool_limits

from models.baselines.mean_content import item_vectors, user_means
from models.contract.evaluation_specs import RankerSpec
from models.contract.snapshot import Snapshot, open_snapshot
from models.data.content import ContentMatrix
from models.data.stream import read_column
from models.evaluation.evaluate_ranker import KEYS, RankerTask, raw_embeddings
from models.evaluation.gains import gain


class ContentRanker:
    """The ranker's rows, and trees trained on them without content.

    Args:
        spec: rows without embeddings, base features, trees.
        histories: snapshot with user_id and hist_items, one row per user.
        width: number of main axes of the content that become features.

    Raises:
        BadInput: a window has one label only, or columns hold nulls.
    """

    def __init__(self, spec: RankerSpec, histories: Snapshot, width: int) -> None:
        self._spec, self._width = spec, width
        self._histories = {name: read_column(histories, name) for name in ("user_id", "hist_items")}
        snapshot = open_snapshot(spec.rows)
        files = [str(file) for file in snapshot.files]
        rows = pyarrow.dataset.dataset(files, format="parquet").to_table(columns=[*KEYS, *spec.base])
        with threadpool_limits(spec.threads):
            self._task = RankerTask(spec, rows)
            self._base_NF = np.stack([rows[name].to_numpy().astype(np.float32) for name in spec.base], axis=1)
            self._without = self._task.fit("without content", [self._base_NF], self._task.seeds)
        self._item_N = rows["item_idx"].to_numpy()
        self._row_N = self._history_rows(read_column(snapshot, "user_id"))

    def gain(self, name: str, matrix: Path) -> dict[str, Any]:
        """AUC with and without a variant's content, the gain and its 90% interval, with the keys of `gains.gain`.

        The trees get the item's content vector on its main axes, and its cosine with the mean of the user's history.
        """
        with threadpool_limits(self._spec.threads):
            content = ContentMatrix(matrix)
            width = min(self._width, content.dim)
            spec = self._spec.model_copy(update={"content_matrix": matrix})
            axes_NK = raw_embeddings(self._item_N, spec, width)["item_content"]
            parts = [self._base_NF, axes_NK, self._cosines(content)[:, None]]
            found = gain(self._task.fit(name, parts, self._task.seeds), self._without)
        return {"rows": len(self._task.test)} | {key: found[key] for key in found if key.startswith("auc")}

    def _cosines(self, content: ContentMatrix) -> np.ndarray:
        """Cosine of each row's item with the mean of the user's history; 0 if the user has no history."""
        user_BD = user_means(torch.from_numpy(self._histories["hist_items"]).long(), content).numpy()
        item_ID = item_vectors(torch.arange(content.rows), content).numpy()
        cosine_N = np.zeros(len(self._item_N), np.float32)
        known = np.flatnonzero(self._row_N >= 0)
        for part in np.array_split(known, max(1, len(known) // 65_536)):
            cosine_N[part] = np.einsum("nd,nd->n", user_BD[self._row_N[part]], item_ID[self._item_N[part]])
        return cosine_N

    def _history_rows(self, user_N: np.ndarray) -> np.ndarray:
        """The row number of each sample's user in the histories; -1 if the user is not there."""
        users_B = self._histories["user_id"]
        order_B = np.argsort(users_B)
        place_N = np.searchsorted(users_B, user_N, sorter=order_B).clip(max=len(users_B) - 1)
        row_N = order_B[place_N]
        return np.where(users_B[row_N] == user_N, row_N, -1)
