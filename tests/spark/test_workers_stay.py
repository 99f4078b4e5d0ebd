"""Spark's Python workers live on from job to job, with loaded modules and file listings; few rows need no worker."""

import os
import sys
import zipimport
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime

import pandas as pd
import psutil
import pytest
from pyspark.sql import SparkSession

from learn_spark.lake.frames import frame_of, only_row

pytestmark = pytest.mark.spark


def test_a_worker_outlives_the_only_row_that_it_made(spark: SparkSession) -> None:
    def listings(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """The process id, and the ids of its archives' file listings, which change when a listing is read again."""
        from learn_spark.bridge import workers  # as all that this package runs in a worker does

        assert workers
        importers = [one for one in sys.path_importer_cache.values() if isinstance(one, zipimport.zipimporter)]
        for _ in batches:
            yield pd.DataFrame({"pid": [os.getpid()], "lists": [sorted(id(one._files) for one in importers)]})

    made = [only_row(spark.range(0, 1, 1, 1).mapInPandas(listings, "pid long, lists array<long>")) for _ in range(3)]
    assert all(psutil.pid_exists(row.pid) for row in made)
    lists = {row.pid: row.lists for row in made}
    assert all(lists[row.pid] == row.lists and len(row.lists) >= 2 for row in made)


def test_a_frame_of_few_rows_needs_no_python_worker(spark: SparkSession) -> None:
    ddl = "day date, at timestamp, name string, items array<int>, counts map<string,bigint>, parts array<struct<n:int>>"
    rows = [
        (date(2011, 11, 2), datetime(2011, 11, 2, 9, tzinfo=UTC), "a", [1, 2], {"b": 3}, [(4,), (5,)]),
        (None, None, None, None, None, None),
    ]
    frame, theirs = frame_of(spark, rows, ddl), spark.createDataFrame(rows, ddl)
    plan = frame._jdf.queryExecution().toString()
    assert "LocalTableScan" in plan and "Python" not in plan
    assert frame.schema == theirs.schema and frame.collect() == theirs.collect()
    assert frame_of(spark, [], ddl).schema == theirs.schema
