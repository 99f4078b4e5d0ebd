"""Exported towers and conversion model in ONNX Runtime, scored in batches as `Towers` and `CVRModel` are; no torch.

Shapes: B rows, H longest history, C content width, K embedding width, E width of mid_emb, L labels.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.contract.content_rows import ContentRows
from models.contract.event_types import checked_types
from models.contract.failures import BadInput
from models.contract.result import RESULT, read_result
from models.contract.trained_model import EVENT_TYPES, OTHER_LABELS
from models.contract.verified import require_digest

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_MOST_BYTES = 32 << 20  # of a batch's content vectors, which a program takes as a rectangle


class OnnxTowers:
    """The towers in a folder that `export-online` has filled.

    Args:
        folder: the folder.
        threads: of a batch.

    Attributes:
        event_types: names of the event types that the user tower reads.

    Raises:
        BadInput: the folder holds no such programs, or their bytes have changed; onnxruntime is not installed.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        about = _about(folder)
        self.event_types = tuple(about.get(EVENT_TYPES, ()))
        sizes = about["sizes"]
        self._content_dim, self._longest, self._dim = (
            int(sizes[name]) for name in ("content_dim", "max_history", "embedding_dim")
        )
        self._user, self._item = (_session(folder, about, name, threads) for name in ("user_tower", "item_tower"))

    def embed_users(
        self,
        hist_items_BH: np.ndarray,
        hist_len_B: np.ndarray,
        content: ContentRows,
        batch_size: int = 512,
        hist_types_BH: np.ndarray | None = None,
    ) -> np.ndarray:
        """User embeddings, float32 [B, K]; arguments, values and errors as of `Towers.embed_users`.

        Histories of about one length are scored together: a program computes every slot of its rectangle.
        """
        out_BK = np.zeros((len(hist_len_B), self._dim), np.float32)
        longest, width = int(hist_len_B.max(initial=0)), hist_items_BH.shape[1]
        if longest > min(width, self._longest):
            raise BadInput(f"history of {longest} items: rows hold {width}, max_len {self._longest}")
        types_BH = checked_types(self.event_types, hist_len_B, hist_types_BH, width) if self.event_types else None
        order = np.argsort(hist_len_B, kind="stable")
        order = order[hist_len_B[order] > 0]
        while len(order):
            rows, order = self._next(order, hist_len_B, batch_size)
            hist_BH = hist_items_BH[rows, : hist_len_B[rows].max()].astype(np.int64)
            hist_BH *= np.arange(hist_BH.shape[1]) < hist_len_B[rows, None]  # nothing stands behind a history's end
            inputs = [content.vectors(hist_BH), hist_BH, hist_len_B[rows].astype(np.int64)]
            if types_BH is not None:
                inputs.append(types_BH[rows, : hist_BH.shape[1]])
            (out_BK[rows],) = _run(self._user, inputs)
        return out_BK

    def embed_items(self, item_idx_N: np.ndarray, content: ContentRows, batch_size: int = 4096) -> np.ndarray:
        """Item embeddings, float32 [N, K], as of `Towers.embed_items`."""
        out_NK = np.zeros((len(item_idx_N), self._dim), np.float32)
        step = min(batch_size, max(1, _MOST_BYTES // (4 * self._content_dim)))
        for start in range(0, len(item_idx_N), step):
            item_n = np.asarray(item_idx_N[start : start + step], np.int64)
            (out_NK[start : start + step],) = _run(self._item, [content.vectors(item_n), item_n])
        return out_NK

    def _next(self, order: np.ndarray, hist_len_B: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the next batch, from the longest history down, and the rest."""
        slots = _MOST_BYTES // (4 * self._content_dim)
        count = min(batch_size, max(1, slots // int(hist_len_B[order[-1]])))
        return order[-count:], order[:-count]


class OnnxCVR:
    """The conversion model in a folder that `export-online` has filled; arguments and errors as of `OnnxTowers`.

    Attributes:
        user_dim, item_dim: widths of the embeddings.
        other_labels: names of the labels beside the conversion.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        about = _about(folder)
        self.other_labels = tuple(about.get(OTHER_LABELS, ()))
        self.user_dim = self.item_dim = int(about["sizes"]["embedding_dim"])
        self._mid_dim = int(about["sizes"]["mid_dim"])
        self._program = _session(folder, about, "cvr", threads)

    def score_labels(
        self, user_emb_BK: np.ndarray, item_emb_BK: np.ndarray, batch_size: int = 65536
    ) -> tuple[np.ndarray, np.ndarray]:
        """mid_emb, float32 [B, E], and the probability of each label [B, L], as of `CVRModel.score_labels`."""
        mid_BE = np.empty((len(user_emb_BK), self._mid_dim), np.float32)
        probability_BL = np.empty((len(user_emb_BK), 1 + len(self.other_labels)), np.float32)
        for start in range(0, len(user_emb_BK), batch_size):
            rows = slice(start, start + batch_size)
            mid_BE[rows], score_B, *others = _run(self._program, [user_emb_BK[rows], item_emb_BK[rows]])
            probability_BL[rows] = np.hstack([score_B[:, None], *others])
        return mid_BE, probability_BL


def _about(folder: Path) -> dict[str, Any]:
    about = read_result(folder)
    if not isinstance(about.get("programs"), dict) or not isinstance(about.get("sizes"), dict):
        raise BadInput(f"{folder}: {RESULT} tells of no exported programs")
    return about


def _session(folder: Path, about: dict[str, Any], name: str, threads: int) -> "InferenceSession":
    """A verified program, ready to run."""
    try:
        import onnxruntime
    except ImportError:
        raise BadInput("scoring in ONNX Runtime needs the package onnxruntime where tasks run") from None
    program = about["programs"].get(name, {})
    for file, digest in program.get("sha256", {}).items():
        require_digest(folder / Path(file).name, digest, f"program {folder}")
    file = program.get("files", {}).get("onnx")
    if not file:
        raise BadInput(f"{folder}: {RESULT} names no ONNX file of {name}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(folder / Path(file).name, options, providers=["CPUExecutionProvider"])


def _run(session: "InferenceSession", inputs: list[np.ndarray]) -> list[np.ndarray]:
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, dict(zip(names, inputs, strict=True)))
    return [np.asarray(each) for each in found]
