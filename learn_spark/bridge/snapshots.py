"""Exports one pinned table version as plain Parquet files of equal size, with a manifest of their checksums."""

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.errors import ConfigError
from learn_spark.lake.frames import with_dense_number
from learn_spark.lake.task_files import TaskFiles, task_files
from learn_spark.runs.steps import Context
from models.contract.snapshot import MANIFEST, Manifest, SnapshotFile, write_manifest
from models.contract.verified import file_digest

TYPE_COLUMNS = ("hist_types", "tar_types")
_FILE_SCHEMA = "path string, rows bigint, bytes bigint, sha256 string"


def snapshot_folder(context: Context, name: str) -> Path:
    """Where the snapshot of this name is, or will be."""
    return context.tables.artifacts.path("snapshots", name)


def is_exported(folder: Path) -> bool:
    """Whether a snapshot is finished: its manifest is written last."""
    return (folder / MANIFEST).is_file()


def export(
    context: Context,
    df: DataFrame,
    name: str,
    key: Sequence[str],
    source_table: str,
    source_version: int,
    seed: int,
    into: Path | None = None,
) -> Path:
    """Writes a frame as a snapshot; a finished one of this name is left as it is.

    Rows are ordered by a seeded hash of their key and split into files whose sizes differ by at most one row. Each file
    is one row group, so a rerun gives equal bytes. The executors write and hash the files; the folder gets its name
    when all of them are gathered.

    Args:
        context: its config gives the rows per file (`stream.rows_per_file`) and the event types that the codes in
            TYPE_COLUMNS stand for (`sequences.event_types`).
        df: the rows, made from `source_version` of `source_table`; all lists of a column have one length; no nulls.
        name: of the folder; contains the fingerprint of what the rows were made from.
        key: columns that are unique together.
        source_table, source_version: the pinned source, for the manifest.
        seed: for the row order.
        into: a folder outside the lake where the snapshot's folder is to be made instead.

    Returns:
        The folder: part-*.parquet and manifest.json, nothing else.

    Raises:
        ConfigError: the frame has no rows.
    """
    target = into / name if into else snapshot_folder(context, name)
    if is_exported(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in [*target.parent.glob(f".{name}.*"), target]:
        shutil.rmtree(leftover, ignore_errors=True)
    folder = target.parent / f".{name}.{uuid.uuid4().hex[:8]}"
    with task_files(folder) as gathered:
        files = _write_files(df, gathered, key, seed, context.config.stream.rows_per_file)
        gathered.gather({file.path: file.sha256 for file in files})
    if not files:
        shutil.rmtree(folder)
        raise ConfigError(f"{source_table} has no rows for the snapshot {name}: check windows, sequences and samples")
    manifest = Manifest(
        source_table=source_table,
        source_version=source_version,
        schema={field.name: field.dataType.simpleString() for field in df.schema.fields},
        rows=sum(file.rows for file in files),
        files=tuple(files),
        event_types=context.config.sequences.event_types if set(TYPE_COLUMNS) & set(df.columns) else None,
    )
    write_manifest(folder, manifest)
    return folder.rename(target)


def _write_files(
    df: DataFrame, gathered: TaskFiles, key: Sequence[str], seed: int, rows_per_file: int
) -> list[SnapshotFile]:
    """Writes the files on the executors and returns one entry per file."""
    rows = df.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        total = rows.count()
        if not total:
            return []
        num_files = -(-total // rows_per_file)
        ordered = rows.withColumn("_order", F.xxhash64(F.lit(seed), *key))
        numbered = with_dense_number(ordered, ["_order", *key], "_row", 0)
        # Sizes that differ by one row at most: file f holds the rows with floor(row * files / total) = f.
        file = F.floor(F.col("_row").cast("bigint") * num_files / F.lit(total)).cast("int")
        parts = numbered.withColumn("_file", file).groupBy("_file").applyInArrow(_writer(gathered), _FILE_SCHEMA)
        return [SnapshotFile(**row.asDict()) for row in parts.orderBy("path").collect()]
    finally:
        rows.unpersist()


def _writer(gathered: TaskFiles):  # noqa: ANN202 - a hint here would be read by Spark
    def write(table: pa.Table) -> pa.Table:
        name = f"part-{table.column('_file')[0].as_py():05d}.parquet"
        table = table.sort_by("_row").drop(["_file", "_row", "_order"]).combine_chunks()
        with gathered.new(name) as file:
            pq.write_table(table.replace_schema_metadata(None), file, row_group_size=max(1, table.num_rows))
            digest, size = file_digest(file), file.stat().st_size
        return pa.table({"path": [name], "rows": [table.num_rows], "bytes": [size], "sha256": [digest]})

    return write
