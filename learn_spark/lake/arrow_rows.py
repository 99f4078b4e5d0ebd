"""Rows that tasks make as Arrow batches, and write as Parquet where they are made.

Spark's own writer takes a list number by number, out of Arrow into a row and from the row into the file; of vectors
that is most of a write. Here the task that computes batches hands them to pyarrow, and the driver hears of each file
what Delta's log has to say of it. Files that no commit names (of a task that failed, or that ran twice) are nobody's,
and VACUUM removes them.

A task holds at most 128 MB of rows beside what makes them, however many files it writes.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql.types import StructType

from learn_spark.lake.schemas import TableSpec

Batches = Iterable[pa.RecordBatch]

_MOST_FILES = 500  # of one commit to several days
_ROW_GROUP_BYTES, _HELD_BYTES = 32 << 20, 128 << 20
_TYPES = {
    "string": pa.string(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
    "map<string,bigint>": pa.map_(pa.string(), pa.int64()),
    "array<int>": pa.list_(pa.int32()),
    "array<bigint>": pa.list_(pa.int64()),
    "array<float>": pa.list_(pa.float32()),
}
_WITH_STATISTICS = {"string", "int", "bigint", "date", "timestamp"}
_LONGEST_BOUND = 32  # characters that Delta's statistics hold of a text


@dataclass(frozen=True)
class ArrowRows:
    """Rows that tasks make.

    Attributes:
        source: what the tasks read.
        make: gets the batches of a partition of `source`, and gives batches of `schema`.
        schema: names and types.
    """

    source: DataFrame
    make: Callable[[Batches], Iterator[pa.RecordBatch]]
    schema: StructType | str

    def then(self, change: Callable[[pa.RecordBatch], pa.RecordBatch]) -> "ArrowRows":
        """The rows of batches that are changed once they are made, to others of the same schema."""
        make = self.make
        return replace(self, make=lambda batches: map(change, make(batches)))

    @property
    def frame(self) -> DataFrame:
        """The same rows, for Spark to go on with."""
        return self.source.mapInArrow(self.make, self.schema)


def gathered(rows: ArrowRows, tasks: int, days: int) -> ArrowRows | DataFrame:
    """Rows of so many days, each of which every one of the tasks has rows of, for a table with a partition per day.

    A file per task and day, where these are few. Else a frame, whose rows Spark gathers by day before it writes them.
    """
    return rows if days == 1 or tasks * days <= _MOST_FILES else rows.frame


def fits_arrow(spec: TableSpec) -> bool:
    """Whether the rows of a table can be written here: its types and its checks have their like in Arrow."""
    types = {column.type for column in spec.columns}
    return types <= set(_TYPES) and set(spec.checks.values()) <= set(_CHECKS) and len(spec.partition) <= 1


def write_rows(rows: ArrowRows, folder: Path, spec: TableSpec) -> list[dict[str, Any]]:
    """Writes rows as files in a table's folder that nothing names yet.

    Returns:
        Of each file what an `add` of Delta's log says.
    """
    make = rows.make  # the frame stays on the driver

    def write(batches: Batches) -> Iterator[pa.RecordBatch]:
        added = [json.dumps(file) for file in _written(make(batches), folder, spec)]
        yield pa.RecordBatch.from_arrays([pa.array(added, pa.string())], names=["added"])

    return [json.loads(row.added) for row in rows.source.mapInArrow(write, "added string").collect()]


def put_rows(
    rows: Sequence[Sequence[Any]], earlier: Iterable[Path], folder: Path, spec: TableSpec
) -> list[dict[str, Any]]:
    """Writes few rows of one partition, and those of its earlier files that have none of their keys.

    Args:
        rows: values of the contract's columns.
        earlier: the partition's files, which this process reads whole.
        folder, spec: the table's.

    Returns:
        As `write_rows`.
    """
    schema = _schema(spec)
    columns = [_column(values, kind) for values, kind in zip(zip(*rows, strict=True), schema.types, strict=True)]
    whole = [pa.Table.from_arrays(columns, schema=schema)]
    place = {name: whole[0].column(name)[0] for name in spec.partition}
    keys = set(_keys(whole[0], spec))
    for path in earlier:
        stored = pq.ParquetFile(path, coerce_int96_timestamp_unit="us").read()
        for name, value in place.items():
            stored = stored.append_column(name, pa.repeat(value, len(stored)))
        stored = stored.select(schema.names).cast(schema)
        whole.append(stored.filter(pa.array([key not in keys for key in _keys(stored, spec)], pa.bool_())))
    return _written(pa.concat_tables(whole).combine_chunks().to_batches(), folder, spec)


def _written(batches: Batches, folder: Path, spec: TableSpec) -> list[dict[str, Any]]:
    files = _Files(folder, spec)
    try:
        for batch in batches:
            files.take(batch)
        return files.close()
    except BaseException:
        files.abandon()
        raise


@dataclass
class _File:
    """A file that is being written; `held` are rows that have not gone into it yet."""

    path: Path
    partition: Mapping[str, str]
    writer: pq.ParquetWriter
    held: list[pa.RecordBatch] = field(default_factory=list)
    bytes: int = 0

    def hold(self, rows: pa.RecordBatch) -> None:
        self.held.append(rows)
        self.bytes += rows.nbytes
        if self.bytes >= _ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if self.held:
            table = pa.Table.from_batches(self.held)
            self.writer.write_table(table, row_group_size=table.num_rows)
        self.held, self.bytes = [], 0


class _Files:
    """The files that one task writes, by the value of the partition column."""

    def __init__(self, folder: Path, spec: TableSpec) -> None:
        self._folder, self._spec = folder, spec
        self._schema = _schema(spec)
        self._stored = pa.schema([column for column in self._schema if column.name not in spec.partition])
        self._files: dict[str, _File] = {}

    def take(self, batch: pa.RecordBatch) -> None:
        """Raises ValueError where a row breaks the table's contract; it names table, rule and row."""
        if not batch.num_rows:
            return
        columns = [batch.column(column.name).cast(column.type) for column in self._schema]
        whole = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        self._require_contract(whole)
        for value, rows in self._parts(whole):
            file = self._files.get(value) or self._opened(value)
            file.hold(rows.select(self._stored.names))
        while sum(file.bytes for file in self._files.values()) > _HELD_BYTES:
            max(self._files.values(), key=lambda file: file.bytes).flush()

    def close(self) -> list[dict[str, Any]]:
        for file in self._files.values():
            file.flush()
            file.writer.close()
        return [self._added(file) for file in self._files.values()]

    def abandon(self) -> None:
        for file in self._files.values():
            with suppress(OSError, pa.ArrowException):
                file.writer.close()
            file.path.unlink(missing_ok=True)

    def _require_contract(self, batch: pa.RecordBatch) -> None:
        for column in self._spec.columns:
            if not column.nullable and batch.column(column.name).null_count:
                raise ValueError(f"{self._spec.name}.{column.name} is null in a row, and may not be")
        for name, check in self._spec.checks.items():
            holds_B = _CHECKS[check](batch)
            if not holds_B.all():
                (row,) = batch.slice(int(holds_B.argmin()), 1).select(list(self._spec.key)).to_pylist()
                raise ValueError(f"{self._spec.name}: {name}, CHECK ({check}), does not hold for {row}")

    def _parts(self, batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
        if not self._spec.partition:
            yield "", batch
            return
        column = batch.column(self._spec.partition[0])
        values = column.unique()
        for value in values:
            is_its = pc.call_function("equal", [column, value])
            yield str(value.as_py()), batch if len(values) == 1 else batch.filter(is_its)

    def _opened(self, value: str) -> _File:
        partition = dict.fromkeys(self._spec.partition, value)
        folder = self._folder.joinpath(*(f"{name}={value}" for name in partition))
        folder.mkdir(exist_ok=True)
        path = folder / f"part-{uuid.uuid4()}.snappy.parquet"
        # As Spark's writer: no dictionary for vectors. Their numbers do not repeat, and to look costs 20% of a write.
        repeating: Any = [_leaf(column) for column in self._stored if column.type != _TYPES["array<float>"]]
        writer = pq.ParquetWriter(path, self._stored, compression="snappy", use_dictionary=repeating)
        self._files[value] = _File(path, partition, writer)
        return self._files[value]

    def _added(self, file: _File) -> dict[str, Any]:
        state = file.path.stat()
        return {
            "path": file.path.relative_to(self._folder).as_posix(),
            "partitionValues": file.partition,
            "size": state.st_size,
            "modificationTime": int(state.st_mtime * 1000),
            "dataChange": True,
            "stats": json.dumps(self._statistics(pq.read_metadata(file.path))),
        }

    def _statistics(self, footer: pq.FileMetaData) -> dict[str, Any]:
        """Rows, and of each column that the table keeps statistics of its nulls, its least and its greatest value."""
        least, most, nulls = {}, {}, {}
        listed = self._spec.properties.get("delta.dataSkippingStatsColumns")
        kept = listed.split(",") if listed else self._stored.names
        places = {footer.schema.column(place).path: place for place in range(footer.num_columns)}
        for column in self._spec.columns:
            if column.name in kept and column.name in places and column.type in _WITH_STATISTICS:
                groups = range(footer.num_row_groups)
                found = [footer.row_group(group).column(places[column.name]).statistics for group in groups]
                nulls[column.name] = sum(each.null_count for each in found)
                bounds = [each for each in found if each.has_min_max]
                if bounds:
                    least[column.name] = _bound(min(each.min for each in bounds), is_least=True)
                    most[column.name] = _bound(max(each.max for each in bounds))
        return {"numRecords": footer.num_rows, "minValues": least, "maxValues": most, "nullCount": nulls}


def _schema(spec: TableSpec) -> pa.Schema:
    return pa.schema([pa.field(column.name, _TYPES[column.type]) for column in spec.columns])


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    return pa.array([list(each.items()) for each in values] if pa.types.is_map(kind) else values, kind)


def _keys(table: pa.Table, spec: TableSpec) -> Iterator[tuple[Any, ...]]:
    return zip(*(table.column(name).to_pylist() for name in spec.key), strict=True)


def _leaf(column: pa.Field) -> str:
    return f"{column.name}.list.element" if pa.types.is_list(column.type) else column.name


def _bound(value: Any, is_least: bool = False) -> Any:  # noqa: ANN401 - what Parquet's statistics hold
    """As Delta's log writes it. A greatest text stays whole; Delta takes a greatest time for up to 1 ms later."""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03d}Z"
    if isinstance(value, date):
        return value.isoformat()
    return value[:_LONGEST_BOUND] if isinstance(value, str) and is_least else value


def _numbers(rows: pa.RecordBatch, column: str) -> np.ndarray:
    return rows.column(column).to_numpy(zero_copy_only=False)


def _sizes(rows: pa.RecordBatch, column: str) -> np.ndarray:
    return pc.call_function("list_value_length", [rows.column(column)]).to_numpy(zero_copy_only=False)


def _is_in(rows: pa.RecordBatch, column: str, *values: str) -> np.ndarray:
    options = pc.SetLookupOptions(value_set=pa.array(values))
    return pc.call_function("is_in", [rows.column(column)], options).to_numpy(zero_copy_only=False)


# CHECK constraints of the contracts, of rows without nulls.
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
