"""The MLflow model that `export_online` saves: history and candidates in; embeddings, mid_emb and cvr_score out.

MLflow copies this file into the model's folder and runs it there, on a machine that needs mlflow, numpy, pandas and
torch, but nothing of this project.

Shapes: H items of a history, N candidates, C content width, K embedding width, E width of mid_emb,
T other labels.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

if TYPE_CHECKING:
    import torch

PROGRAMS = ("user_tower", "item_tower", "cvr")
BLOCK_ROWS = 1 << 16  # rows of the content matrix under one digest


class OnlineModel(PythonModel):
    """Scores users against candidates.

    Input, one row per user: `history` and `candidates`, lists of item_idx, a history oldest first; or `history_content`
    and `candidates_content`, their content vectors as lists of lists, [H, C] and [N, C]; or both, if the towers have an
    id residual or an item bias. For ids without vectors, these come from the content matrix, whose folder is
    `content_matrix` of the model config. An item that the matrix lacks, or that the towers were not trained on, has
    zeros, as in batch scoring. If the towers read event types, also `history_types`: a type's name for each event of
    the history.

    Output, one row per user: `user_emb` [K], `item_emb` [N, K], `mid_emb` [N, E], `cvr_score` [N], all as nested lists;
    if the conversion model has other labels, also `other_scores`, a list [N] by the label's name. Of a history the last
    `history_length` items count, as in batch scoring.
    """

    def load_context(self, context: PythonModelContext) -> None:
        import torch

        about = json.loads(Path(context.artifacts["about"]).read_text(encoding="utf-8"))
        for name in PROGRAMS:
            _require_digest(Path(context.artifacts[name]), about["programs"][name]["sha256"])
        self._programs = {name: torch.export.load(context.artifacts[name]).module() for name in PROGRAMS}
        self._sizes = about["sizes"]
        self._types: list[str] = about.get("event_types", [])
        self._other_labels: list[str] = about.get("other_labels", [])
        settings = context.model_config or {}
        self._longest = int(settings.get("history_length") or self._sizes["max_history"])
        folder = settings.get("content_matrix")
        self._matrix = ServedMatrix(Path(folder), self._sizes["content_dim"]) if folder else None

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:  # noqa: ANN401
        import torch

        with torch.inference_mode():
            return pd.DataFrame([self._scored(row) for row in model_input.to_dict("records")])

    def _scored(self, row: dict[str, Any]) -> dict[str, list | dict[str, list]]:
        import torch

        hist_HC, hist_H = self._items(row, "history", self._longest)
        cand_NC, cand_N = self._items(row, "candidates")
        types_H, length_1 = self._history_types(row, len(hist_H)), torch.tensor([len(hist_H)])
        if not len(hist_H):  # programs take at least one item: padding, which the length leaves out
            hist_HC, hist_H = torch.zeros(1, self._sizes["content_dim"]), torch.zeros(1, dtype=torch.int64)
            types_H = [torch.zeros(1, dtype=torch.int64) for _ in types_H]
        user_1K = self._programs["user_tower"](hist_HC[None], hist_H[None], length_1, *(each[None] for each in types_H))
        if not len(cand_N):
            none = {"user_emb": user_1K[0].tolist(), "item_emb": [], "mid_emb": [], "cvr_score": []}
            return none | ({"other_scores": {name: [] for name in self._other_labels}} if self._other_labels else {})
        item_NK = self._programs["item_tower"](cand_NC, cand_N)
        mid_NE, score_N, *others = self._programs["cvr"](user_1K.expand(len(item_NK), -1), item_NK)
        found = {"user_emb": user_1K[0], "item_emb": item_NK, "mid_emb": mid_NE, "cvr_score": score_N}
        scored = {name: values.tolist() for name, values in found.items()}
        for score_NT in others:
            scored["other_scores"] = dict(zip(self._other_labels, score_NT.T.tolist(), strict=True))
        return scored

    def _history_types(self, row: dict[str, Any], length: int) -> list["torch.Tensor"]:
        """The user tower's further input if it reads event types, else none: codes of the last events' types, [H]."""
        import torch

        if not self._types:
            return []
        given, named = _given(row, "history_types"), ", ".join(self._types)
        if given is None:
            raise ValueError(f"a row needs history_types, a name of {named} for each event; it has {sorted(row)}")
        names = list(given)
        sides = (_given(row, side) for side in ("history", "history_content"))
        events = next(len(values) for values in sides if values is not None)
        if len(names) != events:
            raise ValueError(f"history_types has {len(names)} names, the history {events} events")
        if unknown := [name for name in names if name not in self._types]:
            raise ValueError(f"history_types names {unknown[0]!r}; the towers know {named}")
        codes = [1 + self._types.index(name) for name in names[len(names) - length :]]
        return [torch.tensor(codes, dtype=torch.int64)]

    def _items(self, row: dict[str, Any], side: str, last: int | None = None) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Content [n, C] and item_idx [n] of a row's history or candidates."""
        import torch

        ids, content = _given(row, side), _given(row, f"{side}_content")
        if ids is None and content is None:
            raise ValueError(f"a row needs {side} (item_idx) or {side}_content (vectors); it has {sorted(row)}")
        item_n = np.asarray(np.zeros(len(content)) if ids is None else ids, np.int64)
        if content is not None:
            content_nC = np.asarray([*content], np.float32).reshape(len(content), -1)
            if len(content) and content_nC.shape != (len(item_n), self._sizes["content_dim"]):
                raise ValueError(
                    f"{side}_content is {content_nC.shape}, wanted {(len(item_n), self._sizes['content_dim'])}"
                )
        elif self._matrix is None:
            raise ValueError(f"{side} without {side}_content needs model_config content_matrix: a matrix's folder")
        else:
            item_n = np.where((item_n > 0) & (item_n < len(self._matrix)), item_n, 0)
            content_nC = self._matrix[item_n].astype(np.float32)
        start = max(0, len(item_n) - last) if last else 0
        return torch.from_numpy(content_nC[start:]), torch.from_numpy(item_n[start:])


def _given(row: dict[str, Any], name: str) -> Any:  # noqa: ANN401
    """A row's list, or None if it has none: pandas puts NaN where only other rows have a value."""
    value = row.get(name)
    return None if isinstance(value, float) else value


class ServedMatrix:
    """The vectors of a folder, row = item_idx; a block is read whole, and verified, when its first row is wanted."""

    def __init__(self, folder: Path, dim: int) -> None:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["dim"] != dim:
            raise ValueError(f"content_matrix {folder} has width {meta['dim']}, the towers take {dim}")
        vectors = folder / Path(str(meta.get("vectors", "vectors.f16"))).name
        self._mapped = np.memmap(vectors, dtype="<f2", mode="r", shape=(meta["rows"], dim))
        self._digests = meta.get("blocks")  # None if an earlier version wrote it
        self._is_verified = np.zeros(len(self._digests or ()), bool)

    def __len__(self) -> int:
        return len(self._mapped)

    def __getitem__(self, item_n: np.ndarray) -> np.ndarray:
        """[n, C] float16; raises ValueError if bytes of the rows' blocks have changed since they were written."""
        if self._digests is not None:
            blocks = np.unique(item_n // BLOCK_ROWS)
            for block in blocks[~self._is_verified[blocks]].tolist():
                rows_RC = self._mapped[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
                if hashlib.sha256(rows_RC.data).hexdigest() != self._digests[block]:
                    raise ValueError(f"{self._mapped.filename}: rows from {block * BLOCK_ROWS} on have changed")
                self._is_verified[block] = True
        return self._mapped[item_n]


def _require_digest(file: Path, digests: dict[str, str]) -> None:
    with file.open("rb") as program:
        if hashlib.file_digest(program, "sha256").hexdigest() != digests[file.name]:
            raise ValueError(f"{file} has changed since it was exported (SHA-256 differs): export it again")


set_model(OnlineModel())
