"""The contracts' CHECK constraints as rules over Arrow batches, for rows that tasks write themselves.

tests/spark/test_arrow_rows.py gives the same broken rows to Delta and to these rules.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from learn_spark.lake.schemas import TableSpec


def are_known(spec: TableSpec) -> bool:
    """Whether all checks of a table exist here as rules."""
    return set(spec.checks.values()) <= set(_CHECKS)


def require_contract(batch: pa.RecordBatch, spec: TableSpec) -> None:
    """Checks a batch of a table's rows.

    Raises:
        ValueError: a row breaks the contract; the message names table, rule and row.
    """
    for column in spec.columns:
        if not column.nullable and batch.column(column.name).null_count:
            raise ValueError(f"{spec.name}.{column.name} is null in a row, and may not be")
    for name, check in spec.checks.items():
        holds_B = _CHECKS[check](batch)
        if not holds_B.all():
            (row,) = batch.slice(int(holds_B.argmin()), 1).select(list(spec.key)).to_pylist()
            raise ValueError(f"{spec.name}: {name}, CHECK ({check}), does not hold for {row}")


def list_lengths(lists: pa.ListArray) -> np.ndarray:
    """The numbers of entries [B]; 0 for null."""
    return pc.fill_null(pc.call_function("list_value_length", [lists]), 0).to_numpy(zero_copy_only=False)


def _numbers(rows: pa.RecordBatch, column: str) -> np.ndarray:
    return rows.column(column).to_numpy(zero_copy_only=False)


def _sizes(rows: pa.RecordBatch, column: str) -> np.ndarray:
    return list_lengths(rows.column(column))


def _is_in(rows: pa.RecordBatch, column: str, *values: str) -> np.ndarray:
    options = pc.SetLookupOptions(value_set=pa.array(values))
    return pc.call_function("is_in", [rows.column(column)], options).to_numpy(zero_copy_only=False)


# The rules by their SQL, for rows without nulls.
_CHECKS: Mapping[str, Callable[[pa.RecordBatch], np.ndarray]] = {
    "size(item_idx) = size(event_ts) AND size(item_idx) > 0": lambda rows: (
        (_sizes(rows, "item_idx") == _sizes(rows, "event_ts")) & (_sizes(rows, "item_idx") > 0)
    ),
    "split IN ('train', 'val', 'test')": lambda rows: _is_in(rows, "split", "train", "val", "test"),
    "hist_len > 0 AND tar_len > 0": lambda rows: (_numbers(rows, "hist_len") > 0) & (_numbers(rows, "tar_len") > 0),
    "size(user_emb) > 0": lambda rows: _sizes(rows, "user_emb") > 0,
    "size(item_emb) > 0": lambda rows: _sizes(rows, "item_emb") > 0,
    "cvr_score >= 0 AND cvr_score <= 1": lambda rows: (
        (_numbers(rows, "cvr_score") >= 0) & (_numbers(rows, "cvr_score") <= 1)
    ),
}
