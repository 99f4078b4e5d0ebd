"""Rows that tasks make as Arrow batches and themselves write as Parquet.

Spark's own writer copies a list number by number, from Arrow into a row and from the row into the file; for vectors
that is most of a write's time. Here the task that computes batches hands them to pyarrow, and tells the driver what
Delta's log has to say about each file.
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
        make: takes the batches of a partition of `source`, and yields batches of `schema`.
        schema: names and types.
    """

    source: DataFrame
    make: Callable[[Batches], Iterator[pa.RecordBatch]]
    schema: StructType | str

    def then(self, change: Callable[[pa.RecordBatch], pa.RecordBatch]) -> "ArrowRows":
        """The rows with `change` applied to each batch once it is made; the schema must stay the same."""
        make = self.make
        return replace(self, make=lambda batches: map(change, make(batches)))

    @property
    def frame(self) -> DataFrame:
        """The same rows as a frame, for further work in Spark."""
        return self.source.mapInArrow(self.make, self.schema)


def gathered(rows: ArrowRows, tasks: int, days: int) -> ArrowRows | DataFrame:
    """The rows in the form to write them to a table with a partition per day, if every task has rows of every day.

    The rows themselves, if a file per task and day makes few files; else a frame, whose rows Spark gathers by day
    before it writes them.
    """
    return rows if days == 1 or tasks * days <= _MOST_FILES else rows.frame


def fits_arrow(spec: TableSpec) -> bool:
    """Whether a table's rows can be written here: its types and checks exist for Arrow, and it has one partition column
    at most."""
    types = {column.type for column in spec.columns}
    return types <= set(ARROW_TYPES) and are_known(spec) and len(spec.partition) <= 1


def write_rows(rows: ArrowRows, folder: Path, spec: TableSpec) -> list[dict[str, Any]]:
    """Writes rows to new files in a table's folder, which no commit names yet.

    Returns:
        For each file, what its `add` in Delta's log has to say.
    """
    make = rows.make  # so that the frame is not sent to the tasks

    def write(batches: Batches) -> Iterator[pa.RecordBatch]:
        added = [json.dumps(file) for file in write_files(make(batches), folder, spec)]
        yield pa.RecordBatch.from_arrays([pa.array(added, pa.string())], names=["added"])

    return [json.loads(row.added) for row in rows.source.mapInArrow(write, "added string").collect()]


def write_few(
    rows: Sequence[Sequence[Any]], earlier: Iterable[Path], folder: Path, spec: TableSpec
) -> list[dict[str, Any]]:
    """Writes few rows of one partition, together with the rows of its earlier files that have other keys.

    Args:
        rows: values of the contract's columns.
        earlier: the partition's files, which this process reads whole.
        folder, spec: the table's.

    Returns:
        As for `write_rows`.
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
