"""Rows that tasks make as Arrow batches, and write as Parquet where they are made.

Spark's own writer takes a list number by number, out of Arrow into a row and from the row into the file; of vectors
that is most of a write. Here the task that computes batches hands them to pyarrow, and the driver hears of each file
what Delta's log has to say of it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql.types import StructType

from learn_spark.lake.arrow_checks import are_known
from learn_spark.lake.schemas import TableSpec
from learn_spark.lake.table_files import ARROW_TYPES, arrow_schema, write_files

Batches = Iterable[pa.RecordBatch]

_MOST_FILES = 500  # of one commit to several days


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
    return types <= set(ARROW_TYPES) and are_known(spec) and len(spec.partition) <= 1


def write_rows(rows: ArrowRows, folder: Path, spec: TableSpec) -> list[dict[str, Any]]:
    """Writes rows as files in a table's folder that nothing names yet.

    Returns:
        Of each file what an `add` of Delta's log says.
    """
    make = rows.make  # the frame stays on the driver

    def write(batches: Batches) -> Iterator[pa.RecordBatch]:
        added = [json.dumps(file) for file in write_files(make(batches), folder, spec)]
        yield pa.RecordBatch.from_arrays([pa.array(added, pa.string())], names=["added"])

    return [json.loads(row.added) for row in rows.source.mapInArrow(write, "added string").collect()]


def write_few(
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
    schema = arrow_schema(spec)
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
    return write_files(pa.concat_tables(whole).combine_chunks().to_batches(), folder, spec)


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    return pa.array([list(each.items()) for each in values] if pa.types.is_map(kind) else values, kind)


def _keys(table: pa.Table, spec: TableSpec) -> Iterator[tuple[Any, ...]]:
    return zip(*(table.column(name).to_pylist() for name in spec.key), strict=True)
