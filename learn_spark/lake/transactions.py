"""Commits files that the caller has written, by Delta's own transaction in the JVM.

That saves a second implementation of Delta's protocol: the transaction looks for conflicts, knows the log's store,
writes checksums and checkpoints, and the next read in this process begins with the snapshot that it has just made.
"""

import json
from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from learn_spark.lake.frames import setting
from learn_spark.lake.jvm import jvm_class, jvm_object
from learn_spark.lake.live_files import delta_log
from learn_spark.lake.schemas import TableSpec
from learn_spark.lake.table_reads import few_files

_CHECK = "delta.constraints."
_STATISTICS = "spark.databricks.delta.stats.collect"
_PYTHON = "org.apache.spark.api.python.PythonUtils"
_WRITE = "org.apache.spark.sql.delta.DeltaOperations$Write"
# What a writer of whole new files can do: it checks for nulls and the constraints, and new files need no change file.
_FEATURES = {"appendOnly", "invariants", "checkConstraints", "changeDataFeed"}
_LEGACY_WRITER = 4  # asks for these, and for generated columns, which no contract has


class Transaction:
    """One commit to a table, begun at its newest version."""

    def __init__(self, spark: SparkSession, path: str, spec: TableSpec) -> None:
        self._spec, self._spark = spec, spark
        self._session: Any = spark._jsparkSession
        self._none = jvm_class(spark, "scala.Option").empty()
        self._delta = delta_log(spark, path).startTransaction(self._none, self._none)

    def takes_files(self) -> bool:
        """Whether the table matches its contract, and asks for nothing more of its writers."""
        metadata = json.loads(self._delta.metadata().json())["metaData"]
        protocol = json.loads(self._delta.protocol().json())["protocol"]
        features = protocol.get("writerFeatures")
        is_known = set(features) <= _FEATURES if features else protocol["minWriterVersion"] <= _LEGACY_WRITER
        checks = {f"{_CHECK}{name}": check for name, check in self._spec.checks.items()}
        return (
            is_known
            and _columns(StructType.fromJson(json.loads(metadata["schemaString"]))) == self._types()
            and tuple(metadata["partitionColumns"]) == self._spec.partition
            and metadata["configuration"] == {**self._spec.properties, **checks}
        )

    def files(self, predicate: str) -> list[Any]:
        """Delta's own objects for the files that a predicate on the partition column selects; each has `path()`."""
        conditions = self._sequence([self._session.sessionState().sqlParser().parseExpression(predicate)])
        if (few := few_files(self._spark, self._delta.snapshot())) is None:
            found = self._delta.filterFiles(conditions, False)
        else:  # the same, without its Spark jobs
            found = few.matchingFiles(conditions, self._sequence([]))
            self._delta.trackReadPredicates(conditions, False, True)
            self._delta.trackFilesRead(found)
        return _listed(found)

    def written(self, rows: DataFrame) -> list[dict[str, Any]]:
        """Lets Spark write rows and check them; returns for each file what its `add` in the log has to say."""
        with setting(self._spark, _STATISTICS, "true"):  # by them a commit's rows are counted
            return [json.loads(file.json())["add"] for file in _listed(self._delta.writeFiles(rows._jdf))]

    def append(self, added: Sequence[dict[str, Any]]) -> int:
        """Adds files; `added` is what their `add` in the log has to say. Returns how many rows they have."""
        return self.exchange([], added)

    def replace(self, added: Sequence[dict[str, Any]], predicate: str) -> int:
        """Adds files in place of those that a predicate on the partition column selects; returns the rows added.

        Raises:
            ValueError: there are new rows that the predicate does not select.
        """
        if added:
            self._require_named(added, predicate)
        return self.exchange(self.files(predicate), added, predicate)

    def exchange(self, files: Sequence[Any], added: Sequence[dict[str, Any]], predicate: str | None = None) -> int:
        """Adds files in place of those that the method `files` has found for the predicate; returns the rows added."""
        if not added and not files:
            return 0
        action = jvm_object(self._spark, "org.apache.spark.sql.delta.actions.Action")
        actions = [action.fromJson(json.dumps({"add": file})) for file in added]
        rows = sum(json.loads(file["stats"])["numRecords"] for file in added)
        size = sum(file["size"] for file in added)
        self._measure(numFiles=len(added), numOutputRows=rows, numOutputBytes=size)
        self._delta.commit(self._sequence([*actions, *(file.remove() for file in files)]), self._operation(predicate))
        return rows

    def _require_named(self, added: Sequence[dict[str, Any]], predicate: str) -> None:
        (column,), kinds = self._spec.partition, self._types()
        values = ", ".join(sorted({f"('{file['partitionValues'][column]}')" for file in added}))
        named = f"SELECT CAST(value AS {kinds[column]}) AS {column} FROM VALUES {values} AS named(value)"
        others = self._spark.sql(f"SELECT {column} FROM ({named}) WHERE NOT coalesce({predicate}, FALSE)").collect()
        if others:
            raise ValueError(f"{self._spec.name}: rows of {column} {others[0][0]} would take the place of {predicate}")

    def _operation(self, predicate: str | None) -> Any:  # noqa: ANN401 - Delta's
        """Delta's operation `Write`; the number of options after the first three differs between Delta's versions."""
        loader = jvm_class(self._spark, "java.lang.Thread").currentThread().getContextClassLoader()
        (constructor,) = loader.loadClass(_WRITE).getConstructors()
        modes = jvm_class(self._spark, "org.apache.spark.sql.SaveMode")
        given = [modes.Append if predicate is None else modes.Overwrite, self._none]
        given += [jvm_class(self._spark, "scala.Option").apply(predicate)]
        given += [self._none] * (constructor.getParameterCount() - len(given))
        return jvm_class(self._spark, _WRITE)(*given)

    def _measure(self, **values: int) -> None:
        """Sets the figures that the table's history will have for the commit."""
        metric = jvm_class(self._spark, "org.apache.spark.sql.execution.metric.SQLMetrics")
        metrics = {name: metric.createMetric(self._session.sparkContext(), name) for name in values}
        for name, value in values.items():
            metrics[name].set(value)
        as_map = jvm_class(self._spark, _PYTHON).toScalaMap(metrics)
        self._delta.registerSQLMetrics(self._session, as_map)

    def _sequence(self, values: Sequence[Any]) -> Any:  # noqa: ANN401 - a Scala Seq
        return jvm_class(self._spark, _PYTHON).toSeq(list(values))

    def _types(self) -> dict[str, str]:
        return {column.name: column.type for column in self._spec.columns}


def _listed(found: Any) -> list[Any]:  # noqa: ANN401 - a Scala Seq
    return [found.apply(place) for place in range(found.size())]


def _columns(schema: StructType) -> dict[str, str]:
    return {field.name: field.dataType.simpleString() for field in schema.fields}
