"""Rows that tasks write themselves are equal to those of Spark's writer, and refused where Spark refuses them."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

from learn_spark.lake.arrow_rows import ArrowRows, fits_arrow, gathered, write_rows
from learn_spark.lake.days import days_predicate
from learn_spark.lake.frames import setting
from learn_spark.lake.schemas import INTERVALS, TABLES, TableSpec
from learn_spark.lake.tables import Tables
from tests.builders.contexts import make_tables

pytestmark = pytest.mark.spark

DAYS = [date(2011, 11, day) for day in (4, 5, 6)]
BY_TASKS = ("user_history", "sequences", "user_features", "item_features", "pair_features")
WIDTH = 8


def values_of(kind: str, name: str, numbers: np.ndarray) -> list[Any]:
    """One value per number, such that the contracts' checks hold."""
    rng = np.random.default_rng(len(numbers))
    made: dict[str, Callable[[int], Any]] = {
        "string": lambda n: {"split": "val", "release_id": "20111106-ab"}.get(name, f"{name}-{n:05}-{'ä' * 40}"),
        "int": lambda n: int(n) + 1,
        "bigint": lambda n: int(n) + (1 << 40),
        "float": lambda n: float(np.float32(n % 7 / 7)),
        "boolean": lambda n: bool(n % 2),
        "date": lambda n: DAYS[n % len(DAYS)],
        "timestamp": lambda n: datetime(2011, 11, 4, 1, 2, 3, 4567, tzinfo=UTC).replace(second=int(n) % 60),
        "array<tinyint>": lambda n: [int(n) % 127] * (int(n) % 3 + 1),
        "array<int>": lambda n: list(range(int(n) % 3 + 1)),
        "array<bigint>": lambda n: [int(n) + (1 << 40)] * (int(n) % 3 + 1),
        "array<float>": lambda _: rng.standard_normal(WIDTH).astype(np.float32).tolist(),
    }
    return [made[kind](number) for number in numbers]


def arrow_rows(spark: SparkSession, spec: TableSpec, first: int, stop: int, **other: Callable[[int], Any]) -> ArrowRows:
    """Rows first .. stop - 1 in two tasks; the columns in `other` get their values from its functions."""
    numbers = np.arange(first, stop)
    columns = (
        [other[c.name](n) for n in numbers] if c.name in other else values_of(c.type, c.name, numbers)
        for c in spec.columns
    )
    source = spark.createDataFrame(list(zip(*columns, strict=True)), spec.columns_ddl).repartition(2)
    return ArrowRows(source, lambda batches: (batch for batch in batches), spec.columns_ddl)


@pytest.fixture(scope="module")
def by_tasks(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(spark, tmp_path_factory.mktemp("tasks") / "lake")


@pytest.fixture(scope="module")
def by_spark(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(spark, tmp_path_factory.mktemp("spark") / "lake")


def stored(tables: Tables, name: str) -> list[str]:
    return sorted(map(str, tables.read(name).collect()))


@pytest.mark.parametrize("name", BY_TASKS)
def test_rows_are_those_that_sparks_writer_leaves(
    spark: SparkSession, by_tasks: Tables, by_spark: Tables, name: str
) -> None:
    """Rows are appended and a day is replaced; rows, statistics, history and the change feed equal those of Spark."""
    spec = TABLES[name]
    (day_column,) = spec.partition
    rows, later = (
        arrow_rows(spark, spec, 0, 240),
        arrow_rows(spark, spec, 400, 460, **{day_column: lambda _: DAYS[1]}),
    )
    for tables, ours, theirs in ((by_tasks, rows, later), (by_spark, rows.frame, later.frame)):
        assert tables.append(name, ours) == 240
        assert tables.overwrite_days(name, theirs, [DAYS[1]]) == 60
    assert stored(by_tasks, name) == stored(by_spark, name)
    assert len(stored(by_tasks, name)) == 240 - 80 + 60

    table = DeltaTable(by_tasks.path(name))
    reference = DeltaTable(by_spark.path(name))
    assert table.to_pyarrow_table().num_rows == 220
    assert sum(pa.table(table.get_add_actions(flatten=True)).column("num_records").to_pylist()) == 220
    history, expected = table.history(1)[0], reference.history(1)[0]
    assert history["operation"] == expected["operation"] == "WRITE"
    assert history["operationMetrics"]["numOutputRows"] == expected["operationMetrics"]["numOutputRows"] == "60"
    bounds = ({k: v for k, v in _bounds(each).items() if k[1] in spec.key} for each in (table, reference))
    found, wanted = bounds
    assert found.keys() == wanted.keys()
    for key, (least, most) in found.items():
        if isinstance(most, str):  # Delta cuts long texts and appends the largest character
            assert (least, most[:32]) == (wanted[key][0], wanted[key][1][:32]), key
        else:
            assert (least, most) == wanted[key], key
    if "delta.enableChangeDataFeed" in spec.properties:
        changes = [
            spark.read.format("delta")
            .option("readChangeFeed", "true")
            .option("startingVersion", 0)
            .load(each.path(name))
            for each in (by_tasks, by_spark)
        ]
        counts = [sorted((r[0], r[1]) for r in each.groupBy("_change_type").count().collect()) for each in changes]
        assert counts[0] == counts[1] == [("delete", 80), ("insert", 300)]


def _bounds(table: DeltaTable) -> dict[tuple[str, str], tuple[Any, Any]]:
    """Per day and column, the least and the greatest value in the log's statistics."""
    found: dict[tuple[str, str], tuple[Any, Any]] = {}
    for row in pa.table(table.get_add_actions(flatten=True)).to_pylist():
        day = next(str(value) for key, value in row.items() if key.startswith("partition."))
        for key, least in row.items():
            name, most = key.removeprefix("min."), row.get(f"max.{key.removeprefix('min.')}")
            if key.startswith("min.") and least is not None:
                before = found.get((day, name), (least, most))
                found[day, name] = min(before[0], least), max(before[1], most)
    return found


BROKEN = {
    "user_history": {"item_idx": lambda n: [1, 2, 3, 4] if n == 700 else [1] * (n % 3 + 1)},
    "sequences": {"split": lambda n: "other" if n == 700 else "val"},
    "user_features": {"user_emb": lambda n: [] if n == 700 else [1.0]},
    "item_features": {"item_id": lambda n: None if n == 700 else str(n)},
    "pair_features": {"cvr_score": lambda n: float("nan") if n == 700 else 0.5},
}


@pytest.mark.parametrize("name", BY_TASKS)
def test_rows_that_break_the_contract_are_refused_as_spark_refuses_them(
    spark: SparkSession, by_tasks: Tables, by_spark: Tables, name: str
) -> None:
    before = by_tasks.version(name)
    rows = arrow_rows(spark, TABLES[name], 680, 720, **BROKEN[name])
    with pytest.raises(PythonException, match=rf"ValueError: {name}\W.*(CHECK|may not be)"):
        by_tasks.append(name, rows)
    with pytest.raises(Exception, match=r"DELTA_(VIOLATE_CONSTRAINT|NOT_NULL_CONSTRAINT)|NOT NULL"):
        by_spark.append(name, rows.frame)
    assert by_tasks.version(name) == before
    for file in Path(by_tasks.path(name)).rglob("part-*.parquet"):
        pq.read_metadata(file)  # the failed task's file is gone, and the other task's file is complete


def test_files_that_no_commit_names_are_no_rows_and_go_with_a_vacuum(spark: SparkSession, tmp_path: Path) -> None:
    """Such files are left when a task's result is lost and another task writes its rows again."""
    tables, spec = make_tables(spark, tmp_path / "lake"), TABLES["user_history"]
    rows, folder = arrow_rows(spark, spec, 0, 400), Path(tables.path(spec.name))
    lost = write_rows(rows, folder, spec)
    assert tables.append(spec.name, rows) == 400
    assert tables.read(spec.name).count() == 400
    assert all((folder / file["path"]).is_file() for file in lost)
    with setting(spark, "spark.databricks.delta.retentionDurationCheck.enabled", "false"):
        tables.vacuum(spec.name, 0)
    assert not any((folder / file["path"]).exists() for file in lost)
    assert tables.read(spec.name).count() == 400


def test_rows_of_another_day_take_no_days_place(spark: SparkSession, by_tasks: Tables) -> None:
    name, before = "user_history", by_tasks.version("user_history")
    with pytest.raises(ValueError, match=r"user_history: rows of ds 2011-11-0[46] would take the place of"):
        by_tasks.overwrite_where(name, arrow_rows(spark, TABLES[name], 0, 9), days_predicate("ds", [DAYS[1]]))
    assert by_tasks.version(name) == before


def test_no_rows_for_a_day_empty_it(spark: SparkSession, tmp_path: Path) -> None:
    tables = make_tables(spark, tmp_path / "lake")
    spec, version = TABLES["user_history"], tables.version("user_history")
    nothing = arrow_rows(spark, spec, 0, 0)
    assert tables.append("user_history", nothing) == 0
    assert tables.overwrite_days("user_history", nothing, DAYS) == 0
    assert tables.version("user_history") == version  # there is no commit without anything to write or replace
    tables.append("user_history", arrow_rows(spark, spec, 0, 30))
    assert tables.overwrite_days("user_history", nothing, DAYS[:2]) == 0
    assert {row.ds for row in tables.read("user_history").collect()} == {DAYS[2]}


def test_a_table_that_asks_for_more_goes_through_sparks_writer(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own check, or deletion vectors: rows go through Spark's writer, and no task writes files itself."""
    tables, name = make_tables(spark, tmp_path / "lake"), "user_history"

    def never(*_: object) -> None:
        pytest.fail("tasks wrote into a table that they do not know")

    monkeypatch.setattr("learn_spark.lake.tables.write_rows", never)
    spark.sql(f"ALTER TABLE delta.`{tables.path(name)}` ADD CONSTRAINT own CHECK (user_id <> 'user_id-00007')")
    with pytest.raises(Exception, match="DELTA_VIOLATE_CONSTRAINT"):
        tables.append(name, arrow_rows(spark, TABLES[name], 7, 9, user_id=lambda n: f"user_id-{n:05}"))
    assert tables.append(name, arrow_rows(spark, TABLES[name], 8, 30)) == 22
    other = "sequences"
    spark.sql(f"ALTER TABLE delta.`{tables.path(other)}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    assert tables.append(other, arrow_rows(spark, TABLES[other], 0, 10)) == 10
    assert tables.read(other).count() == 10


def test_few_rows_of_the_driver_take_the_place_of_equal_keys(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table's first file is written by Spark; the rows are the same if Spark's writer writes all of them."""
    kinds = {"map<string,bigint>": lambda n: {"items": int(n), "users": 1}, "double": float}

    def rows(first: int, stop: int, step: str) -> list[tuple[Any, ...]]:
        columns = []
        for column in INTERVALS.columns:
            own = {"step": lambda _: step, "day": lambda n: date(2011, 11, 1) + timedelta(days=int(n))}
            make = own.get(column.name) or kinds.get(column.type)
            numbers = np.arange(first, stop)
            columns.append([make(n) for n in numbers] if make else values_of(column.type, column.name, numbers))
        return list(zip(*columns, strict=True))

    lakes = []
    for name in ("driver", "spark"):
        tables = make_tables(spark, tmp_path / name)
        if name == "spark":
            monkeypatch.setattr("learn_spark.lake.tables.fits_arrow", lambda spec: False)
        tables.append("intervals", spark.createDataFrame(rows(0, 5, "a") + rows(0, 2, "b"), INTERVALS.columns_ddl))
        tables.put_rows("intervals", rows(3, 8, "a"))
        tables.put_rows("intervals", rows(7, 9, "a"))
        tables.put_rows("intervals", rows(0, 1, "c"))
        lakes.append(stored(tables, "intervals"))
        assert tables.version("intervals") == 4
    assert lakes[0] == lakes[1]
    assert len(lakes[0]) == 9 + 2 + 1


def test_which_tables_tasks_write_and_how_many_files(spark: SparkSession) -> None:
    assert {name for name, spec in TABLES.items() if fits_arrow(spec)} >= set(BY_TASKS)
    rows = arrow_rows(spark, TABLES["user_history"], 0, 1)
    assert gathered(rows, tasks=600, days=1) is rows
    assert gathered(rows, tasks=4, days=60) is rows
    assert gathered(rows, tasks=600, days=60) is not rows


def test_duckdb_reads_the_files_as_they_lie(spark: SparkSession, tmp_path: Path) -> None:
    tables, name = make_tables(spark, tmp_path / "lake"), "user_features"
    tables.append(name, arrow_rows(spark, TABLES[name], 0, 100))
    tables.append(name, arrow_rows(spark, TABLES[name], 100, 150).frame)
    files = f"{tables.path(name)}/ds=*/*.parquet"
    found = duckdb.sql(f"SELECT count(*), min(len(user_emb)) FROM read_parquet('{files}', hive_partitioning = true)")
    assert found.fetchall() == [(150, WIDTH)]
