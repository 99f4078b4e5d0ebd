"""The data files that a table's log names: checks that they exist and can be read, and drops dead ones.

The executors check the files in parallel: size and footer, or with `deep` every row.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, overload
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from learn_spark.lake.identity import LOG, newest_version
from learn_spark.lake.jvm import jvm_class
from learn_spark.storage import SCHEME, Place, for_arrow, size_of

_FOUND = "path string, why string"
_FILES_A_TASK = 64


@dataclass(frozen=True)
class DeadFile:
    """A data file that cannot be read.

    Attributes:
        path: as the log names it.
        why: what is wrong with it.
        partition: its values of the partition columns.
        size: bytes of the file, by the log.
        rows: how many rows it held, by the log; None if the log does not say.
        least, most: the least and greatest values of its columns, by the log.
    """

    path: str
    why: str
    partition: Mapping[str, str | None]
    size: int
    rows: int | None
    least: Mapping[str, Any]
    most: Mapping[str, Any]

    def days(self, column: str) -> tuple[date, date] | None:
        """The first and the last day that its rows may have in a column; None if the log does not say."""
        low, high = (self.partition.get(column) or side.get(column) for side in (self.least, self.most))
        return (date.fromisoformat(low[:10]), date.fromisoformat(high[:10])) if low and high else None


def delta_log(spark: SparkSession, table: Place | str) -> Any:  # noqa: ANN401 - Delta's own object
    """The JVM's object for a table's log."""
    return jvm_class(spark, "org.apache.spark.sql.delta.DeltaLog").forTable(spark._jsparkSession, str(table))


def newest_snapshot(spark: SparkSession, log: Any) -> Any:  # noqa: ANN401 - Delta's own objects
    """The table as its log, read again, says it is now."""
    none = jvm_class(spark, "scala.Option").empty()
    return log.update(False, none, none)


def live_files(spark: SparkSession, table: Place) -> DataFrame:
    """The files that a table's log names: path, partitionValues, size, stats; fails if the log cannot be read."""
    files = DataFrame(newest_snapshot(spark, delta_log(spark, table)).allFiles().toDF(), spark)
    return files.select("path", "partitionValues", "size", "stats")


def forget_logs(spark: SparkSession) -> None:
    """Makes Spark read every table's log anew, after one of them was replaced or changed outside of Spark."""
    jvm_class(spark, "org.apache.spark.sql.delta.DeltaLog").clearCache()


def dead_files(spark: SparkSession, table: Place, deep: bool = False) -> list[DeadFile]:
    """The live files of a table that are gone, cut or damaged."""
    files = live_files(spark, table)
    tasks = max(1, files.count() // _FILES_A_TASK)
    found = files.select("path", "size", "stats").repartition(tasks).mapInPandas(_look(table, deep), _FOUND).collect()
    if not found:
        return []
    why = {row["path"]: row["why"] for row in found}
    rows = files.where(files["path"].isin(list(why))).collect()
    return [_dead(row, why[row["path"]]) for row in rows]


def drop_files(table: Place, dead: Sequence[DeadFile]) -> None:
    """Removes dead files from a table in one commit, so that the others can be read again.

    The commit says that no data changed: the rows will be written again, and a reader of the change feed would
    otherwise look for the files.
    """
    now = int(time.time() * 1000)
    info = {"timestamp": now, "operation": "DROP DEAD FILES", "operationParameters": {}, "engineInfo": "learn-spark"}
    removed = [
        {
            "path": file.path,
            "deletionTimestamp": now,
            "dataChange": False,
            "extendedFileMetadata": True,
            "partitionValues": dict(file.partition),
            "size": file.size,
        }
        for file in dead
    ]
    lines = [{"commitInfo": info}, *({"remove": each} for each in removed)]
    _commit(table / LOG, newest_version(table.parent, table.name) + 1, "".join(f"{json.dumps(x)}\n" for x in lines))


@overload
def file_of(table: Path, path: str) -> Path: ...
@overload
def file_of(table: Place, path: str) -> Place: ...
def file_of(table: Place, path: str) -> Place:
    """The place of a file that the log names: below the table, or anywhere if the log has a URL."""
    if isinstance(table, Path):
        return table / unquote(path.removeprefix("file://"))
    return table.at(unquote(path)) if SCHEME.match(path) else table / unquote(path)


def _commit(log: Place, version: int, text: str) -> None:
    """Writes a commit as a whole, and never over another one: Delta's rule for its log."""
    if not isinstance(log, Path):
        (log / f"{version:020d}.json").create(text.encode())
        return
    partial = log / f".{version:020d}.{os.getpid()}.partial"
    partial.write_text(text, encoding="utf-8")
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    try:
        os.link(partial, log / f"{version:020d}.json")
    finally:
        partial.unlink()


def _look(table: Place, deep: bool) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    def look(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch_pdf in batches:
            rows = zip(batch_pdf["path"], batch_pdf["size"], batch_pdf["stats"], strict=True)
            said = [(path, _wrong_with(file_of(table, path), size, stats, deep)) for path, size, stats in rows]
            yield pd.DataFrame([one for one in said if one[1]], columns=pd.Index(["path", "why"]))

    return look


def _wrong_with(path: Place, size: int, stats: str | None, deep: bool) -> str | None:
    try:
        found = size_of(path)
        if found != size:
            return f"has {found} bytes instead of {size}"
        with pq.ParquetFile(for_arrow(path)) as file:
            rows = file.metadata.num_rows
            if deep:
                rows = sum(batch.num_rows for batch in file.iter_batches())
    except FileNotFoundError:
        return "is gone"
    except (OSError, pa.ArrowException, ValueError) as error:
        return f"cannot be read ({str(error).splitlines()[0][:100]})"
    named = json.loads(stats).get("numRecords") if stats else None
    return f"has {rows} rows instead of {named}" if named is not None and named != rows else None


def _dead(row: Any, why: str) -> DeadFile:  # noqa: ANN401 - a Row has the frame's columns
    stats = json.loads(row["stats"] or "{}")
    least, most = stats.get("minValues", {}), stats.get("maxValues", {})
    return DeadFile(row["path"], why, row["partitionValues"], row["size"], stats.get("numRecords"), least, most)
