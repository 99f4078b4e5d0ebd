"""Writes a table's Parquet files in the process that has their rows, and says what Delta's log needs about each.

Files that no commit names (of a task that failed, or that ran twice) belong to nobody, and VACUUM deletes them. A
process holds at most 128 MB of rows, beside what computing them needs, however many files it writes.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from learn_spark.lake.arrow_checks import require_contract
from learn_spark.lake.schemas import TableSpec

ARROW_TYPES = {
    "string": pa.string(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
    "map<string,bigint>": pa.map_(pa.string(), pa.int64()),
    "array<tinyint>": pa.list_(pa.int8()),
    "array<int>": pa.list_(pa.int32()),
    "array<bigint>": pa.list_(pa.int64()),
    "array<float>": pa.list_(pa.float32()),
}
_ROW_GROUP_BYTES, _HELD_BYTES = 32 << 20, 128 << 20
_WITH_STATISTICS = {"string", "int", "bigint", "date", "timestamp"}
_LONGEST_BOUND = 32  # most characters of a text in Delta's statistics


def arrow_schema(spec: TableSpec) -> pa.Schema:
    """A table's columns in Arrow."""
    return pa.schema([pa.field(column.name, ARROW_TYPES[column.type]) for column in spec.columns])


def write_files(batches: Iterable[pa.RecordBatch], folder: Path, spec: TableSpec) -> list[dict[str, Any]]:
    """Writes rows to files in a table's folder, one per value of its partition column; no commit names them yet.

    Returns:
        For each file, what its `add` in Delta's log has to say.

    Raises:
        ValueError: a row breaks the table's contract; no file is left.
    """
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
        self._schema = arrow_schema(spec)
        self._stored = pa.schema([column for column in self._schema if column.name not in spec.partition])
        self._files: dict[str, _File] = {}

    def take(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        columns = [batch.column(column.name).cast(column.type) for column in self._schema]
        whole = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        require_contract(whole, self._spec)
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
        # As in Spark's writer, no dictionary for vectors: their numbers do not repeat, and trying costs 20% of a write.
        repeating: Any = [_leaf(column) for column in self._stored if column.type != ARROW_TYPES["array<float>"]]
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
        """The number of rows, and for each column with statistics its nulls, its least and its greatest value."""
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


def _leaf(column: pa.Field) -> str:
    return f"{column.name}.list.element" if pa.types.is_list(column.type) else column.name


def _bound(value: Any, is_least: bool = False) -> Any:  # noqa: ANN401 - what Parquet's statistics hold
    """A bound as Delta's log writes it. A greatest text is not cut; Delta reads a greatest time as up to 1 ms later."""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03d}Z"
    if isinstance(value, date):
        return value.isoformat()
    return value[:_LONGEST_BOUND] if isinstance(value, str) and is_least else value
