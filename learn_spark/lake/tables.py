"""The only Delta input and output: every table is created, read, written and versioned here."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as F

from learn_spark.errors import ConfigError
from learn_spark.lake.arrow_rows import ArrowRows, fits_arrow, write_few, write_rows
from learn_spark.lake.artifacts import Artifacts
from learn_spark.lake.catalog import TableName, told
from learn_spark.lake.clock import time_after
from learn_spark.lake.days import days_predicate
from learn_spark.lake.delta_jars import require_store_clients
from learn_spark.lake.engine import is_native
from learn_spark.lake.frames import frame_of, only_row, setting
from learn_spark.lake.identity import (
    LOG,
    Identity,
    Known,
    is_there,
    newest_version,
    read_identity,
    refusal,
    table_id,
    write_identity,
    wrong_tables,
    wrong_with,
)
from learn_spark.lake.live_files import DeadFile, dead_files, drop_files, file_of, forget_logs, live_files
from learn_spark.lake.lock import lease_of
from learn_spark.lake.past import cut_log
from learn_spark.lake.schemas import INTERVALS, TABLES, TableSpec
from learn_spark.lake.table_reads import planned
from learn_spark.lake.transactions import Transaction
from learn_spark.storage import Place, move

LOST = "_lost"
_WRITERS = "learn-spark"
_CODEC = "spark.sql.parquet.compression.codec"
_RETENTION_CHECK = "spark.databricks.delta.retentionDurationCheck.enabled"


class Tables:
    """The lake under one root: tables by the names of `lake.schemas`, artifacts beside them."""

    def __init__(self, spark: SparkSession, root: Place) -> None:
        self._spark = spark
        self.root = root
        self.artifacts = Artifacts(root, self._require_lock)
        self._known: set[str] = set()

    def path(self, name: str) -> str:
        """The path of a table."""
        return str(self.root / _spec(name).name)

    def create_all(self) -> None:
        """Makes the tables of a new lake, with constraints, and those that an older version of the package lacked.

        A table that the lake has had is never made again, empty, by this or by reading and writing.

        Raises:
            ConfigError: a table is no longer the lake's own.
        """
        self.require_own({})
        self._require_lock()
        identity = read_identity(self.root) or Identity()
        for name, spec in TABLES.items():
            if not is_there(self.root, name):
                self._spark.sql(_create_statement(spec, self.path(name)))
        if found := {name: Known(_id_of(self.root, name)) for name in TABLES if name not in identity.tables}:
            write_identity(self.root, replace(identity, tables={**identity.tables, **found}))

    def create_anew(self, name: str, rows: DataFrame | None = None) -> None:
        """Makes a table again that is gone or not the lake's own; what is in its place is moved to `_lost`.

        The table becomes the lake's own once `rows` are in it. The caller must see to it that other rows are made
        again.
        """
        self._require_lock()
        path = self.root / name
        if path.exists():
            move(path, self.root / LOST / f"{name}-{time.time_ns()}")
        forget_logs(self._spark)
        self._spark.sql(_create_statement(_spec(name), str(path)))
        if rows is not None:
            self._writer(name, rows, "append").save(str(path))
        self.accept(name)

    def accept(self, name: str) -> None:
        """Accepts the existing table as the lake's own from now on, whatever versions were recorded before."""
        identity = read_identity(self.root) or Identity()
        known = Known(_id_of(self.root, name), self._time_for(name))
        write_identity(self.root, replace(identity, tables={**identity.tables, name: known}))
        self._known.discard(name)

    def _time_for(self, name: str) -> float:
        """The time at which a table is made anew: after all that the ledger, which is mended first, has recorded."""
        is_known = name != INTERVALS.name and self.exists(INTERVALS.name)
        last = only_row(self.read(INTERVALS.name).agg(F.max("finished_at")))[0] if is_known else None
        return time_after([last]).timestamp()

    def put_back(self, name: str, df: DataFrame, is_there: bool) -> None:
        """Gives a table exactly these rows: in one commit that reads none of its files, or as a new table."""
        if is_there:
            self._writer(name, df, "overwrite").save(self.path(name))
            self.accept(name)
        else:
            self.create_anew(name, df)

    def dead_files(self, name: str, deep: bool = False) -> list[DeadFile]:
        """The data files of a table that cannot be read; see `live_files.dead_files`."""
        return dead_files(self._spark, self.root / name, deep)

    def drop_files(self, name: str, dead: Sequence[DeadFile]) -> None:
        """Removes dead files from the table, in one commit."""
        self._require_lock()
        drop_files(self.root / name, dead)

    def read_healthy(self, name: str, dead: Sequence[DeadFile]) -> DataFrame:
        """The rows of a table without partitions, from the files that are not dead."""
        table, gone = self.root / name, {file.path for file in dead}
        live = [row.path for row in live_files(self._spark, table).select("path").collect() if row.path not in gone]
        ddl = _spec(name).columns_ddl
        if not live:
            return self._spark.createDataFrame([], ddl)
        return self._spark.read.schema(ddl).parquet(*(str(file_of(table, path)) for path in live))

    def wrong(self, seen: Mapping[str, int]) -> dict[str, str]:
        """The tables that are gone, foreign or older than the versions that the ledger has seen, and why."""
        return wrong_tables(self.root, TABLES, INTERVALS.name, seen)

    def require_own(self, seen: Mapping[str, int]) -> None:
        """Refuses a lake that has `wrong` tables.

        Raises:
            ConfigError: there are some; the message names them, and the way back.
        """
        if wrong := self.wrong(seen):
            raise refusal(self.root, wrong)

    def exists(self, name: str) -> bool:
        """Whether a table is there."""
        return is_there(self.root, _spec(name).name)

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """A table, as of `version` or the newest.

        Raises:
            ConfigError: the table or the version does not exist.
        """
        reader = self._spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        try:
            table = reader.load(self._existing(name))
        except AnalysisException as error:
            wanted = "" if version is None else f" at version {version}"
            raise ConfigError(f"table {name}{wanted} cannot be read at {self.path(name)}: {error}") from error
        return planned(table, is_native(self._spark))

    def version(self, name: str) -> int:
        """The newest Delta version: that of the last commit in the log."""
        self._existing(name)
        return newest_version(self.root, name)

    def versions(self, names: Iterable[str]) -> dict[str, int]:
        return {name: self.version(name) for name in names}

    def append(self, name: str, rows: DataFrame | ArrowRows) -> int:
        """Adds rows, for tables whose keys the caller knows to be new; returns how many."""
        return self._write(name, rows)

    def overwrite_days(self, name: str, rows: DataFrame | ArrowRows, days: Iterable[date]) -> int:
        """Replaces exactly these days of a table that is partitioned by day; returns the rows written."""
        (day_column,) = _spec(name).partition
        return self._write(name, rows, days_predicate(day_column, days), is_whole_files=True)

    def overwrite_where(self, name: str, rows: DataFrame | ArrowRows, predicate: str) -> int:
        """Replaces exactly the rows that `predicate` selects; new rows that it does not select are an error.

        For `ArrowRows`, the predicate may use only partition columns.
        """
        return self._write(name, rows, predicate, is_whole_files=isinstance(rows, ArrowRows))

    def put_rows(self, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Puts few rows in place of those with equal keys, without a Spark job if possible.

        For a table whose key is its partition and one more column, and whose partitions the driver can hold.

        Args:
            name: the table.
            rows: values of its columns, all of one partition.
        """
        path, spec = self._writable(name), _spec(name)
        place, other = spec.key
        (partition,) = {row[spec.names.index(place)] for row in rows}
        whole = f"{place} = '{partition}'"
        if (transaction := self._of_files(name, fits_arrow(spec))) is not None:
            files = transaction.files(whole)
            earlier = [file_of(Path(path), file.path()) for file in files]
            transaction.exchange(files, write_few(rows, earlier, Path(path), spec), whole)
            return
        values = ", ".join(f"'{row[spec.names.index(other)]}'" for row in rows)
        df = frame_of(self._spark, rows, spec.columns_ddl).coalesce(1)
        self._write(name, df, f"{whole} AND {other} IN ({values})", is_whole_files=False)

    def rewrite(self, name: str, rows: DataFrame | ArrowRows, predicate: str) -> int:
        """Replaces the rows that `predicate` selects in two commits; for rows that no reader looks at in between.

        In one commit, Delta would give the new files of a table with a change feed a column `_change_type`, which older
        files lack. A reader that takes columns by name from all files, as DuckDB does, would stumble over that.
        """
        self.delete(name, predicate)
        return self.append(name, rows)

    def update(self, name: str, where: str, values: Mapping[str, str]) -> None:
        """Sets columns to SQL expressions in the rows that `where` selects."""
        DeltaTable.forPath(self._spark, self._writable(name)).update(where, dict(values))

    def delete_matching(self, name: str, rows: DataFrame, where: str) -> None:
        """Deletes the rows that equal a row of `rows` in all its columns; `where` bounds the search."""
        equal = " AND ".join(f"kept.{column} = gone.{column}" for column in rows.columns)
        kept = DeltaTable.forPath(self._spark, self._writable(name)).alias("kept")
        kept.merge(rows.alias("gone"), f"({where}) AND {equal}").whenMatchedDelete().execute()

    def delete(self, name: str, where: str) -> None:
        """Deletes the rows that `where` selects."""
        DeltaTable.forPath(self._spark, self._writable(name)).delete(where)

    def compact(self, name: str) -> dict[str, int]:
        """Compacts small files, with ZSTD compression; returns how many files were removed and added.

        Compared with snappy, histories take 66% and vectors 93% of the bytes, and are written as fast.
        """
        with setting(self._spark, _CODEC, "zstd"):
            compaction = DeltaTable.forPath(self._spark, self._writable(name)).optimize().executeCompaction()
            metrics = only_row(compaction).metrics
        return {"files_removed": metrics.numFilesRemoved, "files_added": metrics.numFilesAdded}

    def vacuum(self, name: str, hours: float) -> None:
        """Deletes files that no version of the last `hours` reads."""
        DeltaTable.forPath(self._spark, self._writable(name)).vacuum(hours)

    def cut_history(self, name: str) -> int:
        """Keeps only a table's newest version: no other, and no change feed, can be read afterwards.

        Returns:
            How many files of the log were deleted.
        """
        if not self.version(name):  # nothing was ever written
            return 0
        with setting(self._spark, _RETENTION_CHECK, "false"):  # deletes even files that were live until now
            self.vacuum(name, 0)
        return cut_log(self._spark, self.root / name)

    def committed_at(self, name: str, version: int) -> datetime | None:
        """When a version was committed; None if the log no longer has it."""
        commit = self._log(name) / f"{version:020d}.json"
        if not commit.is_file():
            return None
        return datetime.fromtimestamp(_commit_info(commit)["timestamp"] / 1000, UTC)

    def read_samples(self, path: Place | TableName) -> DataFrame:
        """A consumer's own table: a Delta or a Parquet folder, or one that the catalog knows.

        Raises:
            ConfigError: there is no such table, or Spark has no client for its store.
        """
        if isinstance(path, TableName):
            with told(path):
                return self._spark.read.table(path.name)
        require_store_clients(self._spark, [path])
        kind = "delta" if (path / LOG).is_dir() else "parquet"
        try:
            return self._spark.read.format(kind).load(str(path))
        except AnalysisException as error:
            raise ConfigError(f"samples cannot be read as {kind} at {path}: {error}") from error

    def export(self, df: DataFrame, path: Place | TableName, kind: str) -> None:
        """Writes a consumer's own table as `delta` or `parquet`; fails if it exists already."""
        if isinstance(path, TableName):
            with told(path):
                return df.write.format(kind).mode("errorifexists").saveAsTable(path.name)
        require_store_clients(self._spark, [path])
        df.write.format(kind).mode("errorifexists").save(str(path))

    def _existing(self, name: str) -> str:
        """The path of a table that exists and is the lake's own; neither reading nor writing creates one.

        Raises:
            ConfigError: the table does not exist, or is not the lake's own.
        """
        if name not in self._known:
            if why := wrong_with(self.root, name, read_identity(self.root)):
                raise refusal(self.root, {name: why})
            if not self.exists(name):
                raise ConfigError(f"there is no table {name} at {self.path(name)}")
            self._known.add(name)
        return self.path(name)

    def _writable(self, name: str) -> str:
        """As `_existing`, for a caller that is about to commit; in a store, only the lake's holder may."""
        self._require_lock()
        return self._existing(name)

    def _require_lock(self) -> None:
        if lease := lease_of(self.root):
            lease.check()

    def _log(self, name: str) -> Place:
        self._existing(name)
        return self.root / name / LOG

    def _write(
        self, name: str, rows: DataFrame | ArrowRows, predicate: str | None = None, is_whole_files: bool = True
    ) -> int:
        """Adds rows, in place of those that a predicate selects, which may be parts of files. Returns how many."""
        path, spec = self._writable(name), _spec(name)
        is_fit = is_whole_files and (isinstance(rows, DataFrame) or fits_arrow(spec))
        if (transaction := self._of_files(name, is_fit)) is not None:
            if isinstance(rows, ArrowRows):
                added = write_rows(rows, Path(path), spec)
            else:
                added = transaction.written(self._shaped(name, rows))
            return transaction.append(added) if predicate is None else transaction.replace(added, predicate)
        if isinstance(rows, ArrowRows):
            rows = rows.frame
        before = self.version(name)
        if predicate is None:
            self._writer(name, rows, "append").save(path)
        else:
            self._writer(name, rows, "overwrite").option("replaceWhere", predicate).save(path)
        return self._rows_written(name, before)

    def _of_files(self, name: str, is_fit: bool) -> Transaction | None:
        """A transaction that commits files, if the rows can be written so; None if Delta's writer has to write them."""
        if not is_fit or not isinstance(self.root, Path):
            return None
        transaction = Transaction(self._spark, self.path(name), _spec(name))
        return transaction if transaction.takes_files() else None

    def _rows_written(self, name: str, before: int) -> int:
        """Rows of the newest commit, without those that it copied because they share a file with replaced ones.

        0 if there was nothing to write or replace, and so no commit.
        """
        version = self.version(name)
        if version == before:
            return 0
        info = _commit_info(self._log(name) / f"{version:020d}.json")
        output, copied = (int(info["operationMetrics"].get(f"num{kind}Rows", 0)) for kind in ("Output", "Copied"))
        return output - copied

    def _writer(self, name: str, df: DataFrame, mode: str) -> DataFrameWriter:
        """A writer that adds columns: a column that is new in the contract is null in older rows."""
        writer = self._shaped(name, df).write.format("delta").mode(mode).option("mergeSchema", "true")
        if lease := lease_of(self.root):
            # Two transactions with the same name conflict, whatever they write: if a stopped holder wakes up while it
            # commits, either its commit or that of the new holder fails.
            # Delta skips a commit whose number is not above the last one's; a lease never gives such a number.
            writer = writer.option("txnAppId", _WRITERS).option("txnVersion", lease.next_commit())
        return writer

    def _shaped(self, name: str, df: DataFrame) -> DataFrame:
        """The contract's columns in order and type; rows are gathered by partition, so that a day has few files."""
        spec = _spec(name)
        missing = [column for column in spec.names if column not in df.columns]
        if missing:
            raise ValueError(f"{name} lacks {missing}; the frame has {df.columns}")
        shaped = df.select(*(F.col(c.name).cast(c.type).alias(c.name) for c in spec.columns))
        return shaped.hint("rebalance", *spec.partition) if spec.partition else shaped


def is_lake(root: Place) -> bool:
    """Whether there is, or was, any table under a root."""
    return read_identity(root) is not None or any(is_there(root, name) for name in TABLES)


def _spec(name: str) -> TableSpec:
    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}; there are {sorted(TABLES)}")
    return TABLES[name]


def _id_of(root: Place, name: str) -> str:
    found = table_id(root, name)
    assert found is not None, f"table {name}, just made, has no id"
    return found


def _commit_info(commit: Place) -> dict[str, Any]:
    with commit.open("rb") as actions:
        return next(action["commitInfo"] for action in map(json.loads, actions) if "commitInfo" in action)


def _create_statement(spec: TableSpec, path: str) -> str:
    partition = f" PARTITIONED BY ({', '.join(spec.partition)})" if spec.partition else ""
    constraints = {f"delta.constraints.{name}": check for name, check in spec.checks.items()}
    listed = ", ".join(f'"{name}" = "{value}"' for name, value in {**constraints, **spec.properties}.items())
    properties = f" TBLPROPERTIES ({listed})" if listed else ""
    quoted = path.replace("`", "``")
    return f'CREATE TABLE delta.`{quoted}` ({spec.ddl}) USING delta{partition} COMMENT "{spec.doc}"{properties}'
