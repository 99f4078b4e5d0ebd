"""Batch scoring on the executors: Arrow batches in and out, the model loaded once a worker process.

Shapes: B rows of a batch, H longest history of it, K embedding width, E width of mid_emb, N list entries, T labels of
the conversion model beside the conversion.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.types import ArrayType, FloatType, StructField, StructType

from learn_spark.bridge.workers import keep_loaded
from learn_spark.errors import ConfigError
from learn_spark.lake.arrow_checks import list_lengths
from learn_spark.lake.arrow_rows import ArrowRows, Batches
from learn_spark.lake.artifacts import Copy, carried
from models.contract.codebook import Codebook
from models.contract.content_matrix import META
from models.contract.content_rows import ContentRows
from models.contract.event_types import codes_for
from models.contract.failures import BadInput
from models.contract.trained_model import event_types_of

if TYPE_CHECKING:
    from models.export.onnx_models import OnnxCVR
    from models.towers.cvr import CVRModel

TYPES = "event_types"  # the column of the histories' codes
OTHERS = "other_scores"
_VECTOR = ArrayType(FloatType(), containsNull=False)


def score_users(
    df: DataFrame, towers: Path, matrix: Path, batch_rows: int, event_types: Sequence[str] = ()
) -> ArrowRows:
    """User tower over histories.

    Args:
        df: `item_idx` array<int>, oldest first, and any other columns; with `event_types`, a column of that name, too.
        towers: the model's folder, or that of its programs for ONNX Runtime (`bridge.programs`).
        matrix: the content matrix's folder.
        batch_rows: rows that the model sees at once.
        event_types: what the codes of the events' types stand for, the first one's 1; empty where events have none.

    Returns:
        `df` without `item_idx` and `event_types`, with `user_emb` and `content_coverage`, the share of the history's
        items that have a content vector. An empty or null history gives zeros.

    Raises:
        ConfigError: the towers read event types, and the histories have none, or one that the towers do not know.
    """

    model, content = carried(towers), carried(matrix)
    inputs, codes = ["item_idx", *([TYPES] if event_types else [])], _codes_read(towers, event_types)

    def score(batches: Batches) -> Iterator[pa.RecordBatch]:
        scorer = _scorer_of(model, content)
        for batch in batches:
            hist_BH, hist_len_B = padded(batch.column("item_idx"))
            hist_BH = scorer.content.known(hist_BH)
            types_BH = None if codes is None else types_of(batch.column(TYPES), codes)
            user_emb_BK = scorer.towers.embed_users(
                hist_BH, hist_len_B, scorer.content, batch_size=batch_rows, hist_types_BH=types_BH
            )
            covered_B = scorer.has_content(hist_BH).sum(1) / np.maximum(hist_len_B, 1)
            yield _extended(batch, inputs, user_emb=vectors(user_emb_BK), content_coverage=_floats(covered_B))

    return _mapped(df, score, inputs, {"user_emb": _VECTOR, "content_coverage": FloatType()})


def score_items(df: DataFrame, towers: Path, matrix: Path, batch_rows: int) -> ArrowRows:
    """Item tower, each item alone.

    Args:
        df: `item_idx` int and any other columns; an item that the matrix lacks is scored without content.
        towers, matrix, batch_rows: as of `score_users`.

    Returns:
        `df` without `item_idx`, with `item_emb` and `content_coverage` (1 if the item has a content vector).
    """

    model, content = carried(towers), carried(matrix)

    def score(batches: Batches) -> Iterator[pa.RecordBatch]:
        scorer = _scorer_of(model, content)
        for batch in batches:
            item_B = scorer.content.known(batch.column("item_idx").fill_null(0).to_numpy(zero_copy_only=False))
            item_emb_BK = scorer.towers.embed_items(item_B, scorer.content, batch_size=batch_rows)
            covered_B = scorer.has_content(item_B)
            yield _extended(batch, ["item_idx"], item_emb=vectors(item_emb_BK), content_coverage=_floats(covered_B))

    return _mapped(df, score, ["item_idx"], {"item_emb": _VECTOR, "content_coverage": FloatType()})


def score_pairs(df: DataFrame, cvr: Path, batch_rows: int) -> ArrowRows:
    """The conversion model over pairs of embeddings.

    Args:
        df: `user_emb`, `item_emb` and any other columns; null (nothing known yet) is scored as zeros.
        cvr: the model's folder, or that of its program for ONNX Runtime.
        batch_rows: rows that the model sees at once.

    Returns:
        `df` without the two embeddings, with `mid_emb`, the conversion probability `cvr_score`, and `other_scores`, the
        probabilities of the model's other labels in their order; null where it has none.
    """
    inputs, trained = ["user_emb", "item_emb"], carried(cvr)

    def score(batches: Batches) -> Iterator[pa.RecordBatch]:
        model = _cvr(str(trained.here()))
        for batch in batches:
            user_emb_BK = dense(batch.column("user_emb"), model.user_dim)
            item_emb_BK = dense(batch.column("item_emb"), model.item_dim)
            mid_emb_BE, score_BL = model.score_labels(user_emb_BK, item_emb_BK, batch_size=batch_rows)
            others = _lists(score_BL[:, 1:], np.full(len(batch), bool(model.other_labels)))
            yield _extended(
                batch, inputs, mid_emb=vectors(mid_emb_BE), cvr_score=_floats(score_BL[:, 0]), other_scores=others
            )

    return _mapped(df, score, inputs, {"mid_emb": _VECTOR, "cvr_score": FloatType(), OTHERS: _VECTOR})


def without_nan_scores(pairs: pa.RecordBatch) -> pa.RecordBatch:
    """Moves a NaN from a score to mid_emb, where a gate counts it and names the column.

    Left in the score, it would break the table's constraint and end the job before any gate runs.

    Args:
        pairs: a batch of `score_pairs`.
    """
    score_B, others = pairs.column("cvr_score").to_numpy(zero_copy_only=False), pairs.column(OTHERS)
    other_N = others.flatten().to_numpy(zero_copy_only=False)
    other_BT = other_N.reshape(len(score_B), len(other_N) // max(len(score_B), 1))
    is_nan_B = np.isnan(score_B) | np.isnan(other_BT).any(1)
    if not is_nan_B.any():
        return pairs
    mid_emb_BE = pairs.column("mid_emb").flatten().to_numpy(zero_copy_only=False).reshape(len(score_B), -1)
    mid_emb_BE = np.where(is_nan_B[:, None], np.float32("nan"), mid_emb_BE)
    columns = {"mid_emb": vectors(mid_emb_BE), "cvr_score": _floats(np.where(is_nan_B, 0, score_B))}
    if other_BT.size:
        columns[OTHERS] = vectors(np.where(is_nan_B[:, None], 0, other_BT))
    return _extended(pairs, list(columns), **columns)


def with_codes(codebook: Codebook) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    """What gives items their codes: in batches of `score_items` with `item_codes`, where that is null.

    Items that have codes keep them; those without content get none.
    """
    levels, width = len(codebook.levels), codebook.levels[0].shape[1]

    def coded(items: pa.RecordBatch) -> pa.RecordBatch:
        known = items.column("item_codes")
        is_known_B = known.is_valid().to_numpy(zero_copy_only=False)
        is_due_B = ~is_known_B & (items.column("content_coverage").to_numpy() > 0)
        codes_BL = np.zeros((len(items), levels), np.int32)
        codes_BL[is_known_B] = known.flatten().to_numpy(zero_copy_only=False).reshape(-1, levels)
        codes_BL[is_due_B] = codebook.encode(dense(items.column("item_emb").filter(pa.array(is_due_B)), width))
        given = _lists(codes_BL, is_known_B | is_due_B)
        return items.set_column(items.schema.get_field_index("item_codes"), "item_codes", given)

    return coded


def padded(lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Lists as one array: values [B, H], zero-padded on the right, and lengths [B]; null is empty."""
    length_B = list_lengths(lists).astype(np.int64)
    values_N = lists.flatten().to_numpy(zero_copy_only=False)
    padded_BH = np.zeros((len(length_B), max(1, length_B.max(initial=0))), values_N.dtype)
    padded_BH[np.arange(padded_BH.shape[1]) < length_B[:, None]] = values_N
    return padded_BH, length_B


def types_of(lists: pa.ListArray, codes: np.ndarray) -> np.ndarray:
    """Event types [B, H] as a model knows them, zeros behind a history's end; -1 for what is no type of the histories.

    Args:
        lists: codes as the histories have them.
        codes: of the model, by those.
    """
    types_BH = np.nan_to_num(padded(lists)[0], nan=-1).astype(np.int64)  # null is NaN among numbers
    is_known_BH = (types_BH >= 0) & (types_BH < len(codes))
    return np.where(is_known_BH, codes[np.where(is_known_BH, types_BH, 0)], -1)


def _codes_read(towers: Path, event_types: Sequence[str]) -> np.ndarray | None:
    """The towers' codes of event types by those of histories; None where they read none."""
    try:
        known = event_types_of(towers)
        return codes_for(known, event_types, f"{towers.name}") if known else None
    except BadInput as error:
        raise ConfigError(str(error)) from None


def dense(lists: pa.ListArray, width: int) -> np.ndarray:
    """Vectors of one width as float32 [B, width]; null gives zeros.

    Raises:
        ValueError: where a vector has another width.
    """
    length_B = list_lengths(lists)
    is_there_B = length_B > 0
    if (length_B[is_there_B] != width).any():
        found = sorted(set(length_B[is_there_B].tolist()))
        raise ValueError(f"vectors of widths {found}, but the model takes {width}: another model made them")
    dense_BK = np.zeros((len(length_B), width), np.float32)
    dense_BK[is_there_B] = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return dense_BK


def vectors(values_BK: np.ndarray) -> pa.ListArray:
    """float32 rows as an Arrow list column, without a Python object a row."""
    rows, width = values_BK.shape
    flat = pa.array(np.ascontiguousarray(values_BK, dtype=np.float32).ravel())
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * width), flat)


def _lists(values_BL: np.ndarray, is_there_B: np.ndarray) -> pa.ListArray:
    """Rows of numbers as an Arrow list column; null where there is none."""
    ends = np.concatenate([[0], np.cumsum(is_there_B)]) * values_BL.shape[1]
    flat = pa.array(values_BL[is_there_B].ravel())
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), flat, mask=pa.array(~is_there_B))


class _Scorer:
    """Towers, content and what is known about which items have a vector; lives as long as the worker."""

    def __init__(self, towers: Any, content: ContentRows) -> None:  # noqa: ANN401 - Towers or OnnxTowers
        self.towers, self.content = towers, content
        self._looked_up = np.zeros(content.rows, bool)
        self._has_content = np.zeros(content.rows, bool)

    def has_content(self, item_idx: np.ndarray, chunk: int = 4096) -> np.ndarray:
        """Whether each item's row in the matrix is not zero; every row is read once a worker."""
        new_U = np.unique(item_idx[~self._looked_up[item_idx]])
        for start in range(0, len(new_U), chunk):
            part_U = new_U[start : start + chunk]
            self._has_content[part_U] = self.content.vectors(part_U).any(1)
        self._looked_up[new_U] = True
        return self._has_content[item_idx]


def _scorer_of(towers: Copy, matrix: Copy) -> _Scorer:
    """This worker's scorer. Workers outlive a step: it is another one once the matrix is extended or replaced."""
    folder = matrix.here()
    return _scorer(str(towers.here()), str(folder), (folder / META).stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _scorer(towers: str, matrix: str, stamp: int) -> _Scorer:
    if _is_exported(towers):
        from models.export.onnx_models import OnnxTowers

        scorer = _Scorer(OnnxTowers(Path(towers)), ContentRows(matrix))
    else:
        import torch

        from models.data.content import ContentMatrix
        from models.saved import load_towers

        torch.set_num_threads(1)  # Spark's tasks are the parallelism
        scorer = _Scorer(load_towers(towers), ContentMatrix(matrix))
    keep_loaded()
    return scorer


@lru_cache(maxsize=2)
def _cvr(path: str) -> "CVRModel | OnnxCVR":
    if _is_exported(path):
        from models.export.onnx_models import OnnxCVR

        model = OnnxCVR(Path(path))
    else:
        import torch

        from models.saved import load_cvr

        torch.set_num_threads(1)
        model = load_cvr(path)
    keep_loaded()
    return model


def _is_exported(folder: str) -> bool:
    """Whether a folder holds programs instead of weights."""
    return any(Path(folder).glob("*.onnx"))


def _mapped(
    df: DataFrame, score: Callable, inputs: Sequence[str], outputs: dict[str, ArrayType | FloatType]
) -> ArrowRows:
    kept = [field for field in df.schema.fields if field.name not in inputs]
    added = [StructField(name, kind, nullable=name == OTHERS) for name, kind in outputs.items()]
    return ArrowRows(df, score, StructType([*kept, *added]))


def _extended(batch: pa.RecordBatch, without: Sequence[str], **columns: pa.Array) -> pa.RecordBatch:
    kept = [name for name in batch.schema.names if name not in without]
    arrays = [batch.column(name) for name in kept]
    return pa.RecordBatch.from_arrays([*arrays, *columns.values()], names=[*kept, *columns])


def _floats(values_B: np.ndarray) -> pa.Array:
    return pa.array(values_B.astype(np.float32))
