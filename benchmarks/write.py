"""Writing vectors back: by the tasks that made them, by Spark, from a scalar pandas UDF, and by a bare pyarrow writer.

All map the same float32 file [rows, 64] and write Parquet (snappy): id bigint, user_emb list of float. `ours` adds its
files to a Delta table, in one commit; `spark` gives the same Arrow lists to Spark's writer. `half` writes vectors as
content vectors are stored: fp16 in one binary value per row. Its file size is compared with the size of the bare ids
and numbers (`bytes_over_payload`). Sizes are numbers of rows.
"""

import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.ratios import Ratio, Target
from benchmarks.spark import start_session
from benchmarks.vectors import ensure_vectors, vectors_checksum
from learn_spark.bridge.scoring import vectors
from learn_spark.lake.arrow_rows import ArrowRows, Batches, write_rows
from learn_spark.lake.schemas import Column, TableSpec
from learn_spark.lake.transactions import Transaction

WIDTH = 64
EMB = "user_emb"
BATCH = 10_000  # Spark's own Arrow batch
SPEC = TableSpec(
    "vectors",
    "numbers and vectors",
    (Column("id", "bigint", "a number"), Column(EMB, "array<float>", "its vector")),
    key=("id",),
)
AsColumn = Callable[[np.ndarray], pa.Array]

CHECK = "benchmarks.write:check"
BENCH = Benchmark(
    name="write",
    sizes=(0.5e6, 2e6),
    quick_sizes=(0.1e6, 0.4e6),
    prepare="benchmarks.write:prepare",
    contenders=(
        Contender("ours", "benchmarks.write:ours", CHECK),
        Contender("spark", "benchmarks.write:by_spark", CHECK),
        Contender("pandas_udf", "benchmarks.write:with_pandas_udf", CHECK),
        Contender("pyarrow", "benchmarks.write:with_pyarrow", CHECK),
        Contender("half", "benchmarks.write:with_half", "benchmarks.write:check_half"),
    ),
    ratios=(
        Ratio("pandas_udf", "ours", Target(">=", 4.0)),
        Ratio("pyarrow", "ours", Target(">=", 0.6), at=2e6),
        Ratio("spark", "ours"),
        Ratio("spark", "half"),
    ),
)


def prepare(task: Task) -> None:
    """Makes the vectors of all sizes."""
    for size in task.sizes:
        ensure_vectors(task.folder, int(size), WIDTH)


def ours(task: Task) -> None:
    """Writes as features are written: Arrow lists without a Python object per row, by pyarrow, and one commit."""
    spark, path = _session(task), str(ensure_vectors(task.folder, int(task.size), WIDTH))
    spark.sql(f"CREATE TABLE delta.`{task.output}` ({SPEC.ddl}) USING delta")
    with task.clock():
        rows = ArrowRows(spark.range(0, int(task.size), 1, 2), _maker(path, vectors), SPEC.columns_ddl)
        transaction = Transaction(spark, str(task.output), SPEC)
        assert transaction.takes_files(), "the table is not as its contract says"
        transaction.append(write_rows(rows, task.output, SPEC))


def by_spark(task: Task) -> None:
    """Writes the same lists through Spark's writer."""
    _write(task, "array<float>", vectors)


def with_pandas_udf(task: Task) -> None:
    """The first approach that comes to mind: a pandas UDF that returns a column of lists."""
    spark, path = _session(task), str(ensure_vectors(task.folder, int(task.size), WIDTH))

    @F.pandas_udf("array<float>")
    def emb(ids: pd.Series) -> pd.Series:
        return pd.Series(np.load(path, mmap_mode="r")[ids.to_numpy()].tolist())

    with task.clock():
        frame = spark.range(0, int(task.size), 1, 2)
        frame.select("id", emb("id").alias(EMB)).write.parquet(str(task.output))


def with_pyarrow(task: Task) -> None:
    """Writes without Spark: one thread and one file, from the mapped file to the disk."""
    path = ensure_vectors(task.folder, int(task.size), WIDTH)
    task.output.mkdir(parents=True)
    schema = pa.schema([("id", pa.int64()), (EMB, pa.list_(pa.float32()))])
    with task.clock(), pq.ParquetWriter(task.output / "part.parquet", schema, use_dictionary=False) as writer:
        values = np.load(path, mmap_mode="r")
        for start in range(0, len(values), 10 * BATCH):
            part = values[start : start + 10 * BATCH]
            ids = pa.array(np.arange(start, start + len(part)))
            writer.write_batch(pa.RecordBatch.from_arrays([ids, vectors(part)], schema=schema))


def with_half(task: Task) -> None:
    """Writes a binary value per row instead of a list."""
    width = WIDTH  # a local copy, because Spark's workers cannot import this module

    def half_values(values_BK: np.ndarray) -> pa.Array:
        half = pa.py_buffer(values_BK.astype("<f2"))
        fixed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * width), len(values_BK), [None, half])
        return fixed.cast(pa.binary())

    _write(task, "binary", half_values, {"parquet.enable.dictionary": False})


def check_half(task: Task) -> None:
    """Checks that every row's bytes are those of the file's vector in fp16."""
    values = np.load(ensure_vectors(task.folder, int(task.size), WIDTH), mmap_mode="r")
    rows = 0
    for batch in ds.dataset(task.output, format="parquet").to_batches():
        half = np.frombuffer(b"".join(batch.column(EMB).to_pylist()), "<f2").reshape(-1, WIDTH)
        if not np.array_equal(half, values[batch.column("id").to_numpy()].astype("<f2")):
            raise ValueError("vectors differ from the file's")
        rows += len(half)
    written = sum(file.stat().st_size for file in task.output.glob("*.parquet"))
    task.figures |= {"bytes_over_payload": written / (rows * (8 + 2 * WIDTH)), "checksum": str(rows)}


def check(task: Task) -> None:
    """The checksum of ids and vectors."""
    task.figures["checksum"] = vectors_checksum(task.output, "id", f"{EMB}::FLOAT[]")


def _write(task: Task, kind: str, as_column: AsColumn, options: Mapping[str, bool] | None = None) -> None:
    spark, path = _session(task), str(ensure_vectors(task.folder, int(task.size), WIDTH))
    with task.clock():
        rows = ArrowRows(spark.range(0, int(task.size), 1, 2), _maker(path, as_column), f"id bigint, {EMB} {kind}")
        rows.frame.write.options(**(options or {})).parquet(str(task.output))


def _maker(path: str, as_column: AsColumn) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """A function that makes rows (id, vector) from batches of ids."""

    def rows(batches: Batches) -> Iterator[pa.RecordBatch]:
        values = np.load(path, mmap_mode="r")
        for batch in batches:
            ids = batch.column("id")
            yield pa.RecordBatch.from_arrays([ids, as_column(values[ids.to_numpy()])], names=["id", EMB])

    return rows


def _session(task: Task) -> SparkSession:
    return start_session(task, task.size)


if __name__ == "__main__":
    sys.exit(main(BENCH))
