"""The snapshot export: exactly the live rows of a pinned version, files of even size, equal bytes, all or nothing."""

import hashlib
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from learn_spark.bridge.snapshots import export
from learn_spark.config.load import Config, load_config
from learn_spark.errors import ConfigError
from learn_spark.runs.steps import Context
from models.contract.snapshot import open_snapshot, read_manifest
from models.data.stream import ArrowReader
from tests.builders.lake import tiny_context

pytestmark = pytest.mark.spark
CONF = Path(__file__).parents[2] / "conf"
ROWS = 103


@pytest.fixture(scope="module")
def empty(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("snapshot")
    config: Config = load_config(
        CONF / "test.yaml",
        [f"lake.root={folder}/lake", f"output.dir={folder}/output", "stream.rows_per_file=20"],
    )
    return tiny_context(spark, config)


@pytest.fixture(scope="module")
def context(empty: Context) -> Context:
    """103 sequences, then a DELETE and an UPDATE that leave old files and a deletion vector."""
    schema = empty.tables.read("sequences").schema
    day = date(2011, 11, 4)
    rows = [
        (f"u{i:03d}", day, [i + 1, 0], [i, 0], 1, [i + 2, i + 3], [i, i], 2, "train", 0, None, None)
        for i in range(ROWS)
    ]
    empty.tables.append("sequences", empty.spark.createDataFrame(rows, schema))
    table = f"delta.`{empty.tables.path('sequences')}`"
    empty.spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES (delta.enableDeletionVectors = true)")
    empty.spark.sql(f"DELETE FROM {table} WHERE user_id IN ('u000', 'u050')")
    empty.spark.sql(f"UPDATE {table} SET tar_items = array(7, 7) WHERE user_id = 'u001'")
    return empty


def exported(context: Context, name: str, seed: int = 1, version: int | None = None) -> Path:
    version = context.tables.version("sequences") if version is None else version
    rows = context.tables.read("sequences", version).select("user_id", "hist_items", "hist_len", "tar_items")
    return export(context, rows, name, ("user_id",), "sequences", version, seed)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_export_holds_the_live_rows_in_even_files(context: Context) -> None:
    folder = exported(context, "s")
    manifest = read_manifest(folder)
    assert manifest.source_table == "sequences"
    assert manifest.source_version == context.tables.version("sequences")
    assert manifest.columns["hist_items"] == "array<int>"
    assert sorted(content(folder)) == sorted(["manifest.json", *(file.path for file in manifest.files)])
    found = {}
    for file in manifest.files:
        data = (folder / file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)
        parquet = pq.ParquetFile(folder / file.path)
        assert parquet.num_row_groups == 1
        assert parquet.metadata.num_rows == file.rows
        found |= {row["user_id"]: row["tar_items"] for row in parquet.read().to_pylist()}
    assert sorted(file.rows for file in manifest.files) == [16, 17, 17, 17, 17, 17]
    assert manifest.rows == len(found) == ROWS - 2
    assert not {"u000", "u050"} & set(found)
    assert found["u001"] == [7, 7]
    assert found["u002"] == [4, 5]
    batches = list(ArrowReader(open_snapshot(folder), ["hist_items", "hist_len"], 10, seed=1))
    assert sorted(item for batch in batches for item in batch["hist_items"][:, 0].tolist()) == sorted(
        i + 1 for i in range(ROWS) if i not in (0, 50)
    )


def test_the_old_version_is_still_what_it_was(context: Context) -> None:
    assert read_manifest(exported(context, "old", version=1)).rows == ROWS


def test_rerun_gives_equal_bytes_and_another_seed_another_order(context: Context) -> None:
    first, second = exported(context, "one"), exported(context, "two")
    assert content(first) == content(second)
    assert content(exported(context, "three", seed=2)) != content(first)


def test_rows_are_not_in_the_order_of_their_key(context: Context) -> None:
    folder = exported(context, "s")
    users = [
        user
        for file in read_manifest(folder).files
        for user in pq.read_table(folder / file.path)["user_id"].to_pylist()
    ]
    ascending = sum(a < b for a, b in zip(users, users[1:], strict=False)) / (len(users) - 1)
    assert 0.3 < ascending < 0.7


def test_finished_one_is_reused_and_leftovers_are_replaced(context: Context) -> None:
    folder = exported(context, "reused")
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert exported(context, "reused") == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    (folder / "manifest.json").unlink()
    (folder / "part-99999.parquet").write_bytes(b"left over by a killed run")
    (folder.parent / ".reused.dead").mkdir()
    exported(context, "reused")
    assert "part-99999.parquet" not in content(folder)
    assert not (folder.parent / ".reused.dead").exists()


def test_no_rows_is_an_error_that_names_the_table(context: Context) -> None:
    with pytest.raises(ConfigError, match="sequences has no rows"):
        exported(context, "none", version=0)
