"""A table that is gone, from another lake or from an old copy: readers and writers refuse it, nobody recreates it."""

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from learn_spark.api import open_lake
from learn_spark.errors import ConfigError
from learn_spark.lake.identity import FILE, read_identity, table_id
from learn_spark.lake.schemas import TABLES
from learn_spark.lake.tables import Tables
from learn_spark.runs.ledger import Ledger, StepResult
from tests.builders.commands import run_here
from tests.builders.contexts import make_tables
from tests.builders.shared import shared

pytestmark = [pytest.mark.spark, pytest.mark.long]

DAY = date(2011, 11, 1)


@pytest.fixture
def root(spark: SparkSession, tmp_path: Path) -> Path:
    """A lake with one ingested day, which is in its ledger."""

    def make(folder: Path) -> None:
        tables = make_tables(spark, folder)
        tables.append("item_index", spark.createDataFrame([("a", 1)], "item_id string, item_idx int"))
        record(spark, tables)

    return Path(shutil.copytree(shared("recorded-lake", make), tmp_path / "lake"))


def record(spark: SparkSession, tables: Tables) -> None:
    written = tables.versions(("item_index", "items"))
    Ledger(spark, tables).record("ingest_events", {DAY: "f"}, "r.1", StepResult(1, 1), {}, written, 1.0)


def lost(root: Path) -> None:
    shutil.rmtree(root / "item_index")


def without_log(root: Path) -> None:
    shutil.rmtree(root / "item_index" / "_delta_log")


def foreign(root: Path) -> None:
    """Replaces the table by that of another lake, whose version is high enough."""
    lost(root)
    spark = SparkSession.getActiveSession()
    other = make_tables(spark, root.parent / "other")
    other.create_anew("item_index")
    for item in "bcd":
        other.append("item_index", spark.createDataFrame([(item, ord(item))], "item_id string, item_idx int"))
    shutil.copytree(root.parent / "other" / "item_index", root / "item_index")


def older(root: Path) -> None:
    """Removes the last commit, as a restored older backup does."""
    (root / "item_index" / "_delta_log" / f"{1:020d}.json").unlink()


def cut(root: Path) -> None:
    """Cuts a commit off, as a full disk does; Delta reads everything from its checksum file."""
    commit = root / "item_index" / "_delta_log" / f"{1:020d}.json"
    commit.write_bytes(commit.read_bytes()[:-20])


def zeros(root: Path) -> None:
    """Fills a commit with zeros, as a file system may do when the machine loses power."""
    commit = root / "item_index" / "_delta_log" / f"{1:020d}.json"
    commit.write_bytes(bytes(commit.stat().st_size))


@pytest.mark.parametrize(
    ("damage", "said", "is_known"),
    [
        (lost, "is gone", True),
        (lost, "is gone", False),
        (without_log, "is gone", True),
        (foreign, "is not the one that this lake was made with: it came from another lake", True),
        (older, "is older than the ledger: its version is 0, and 1 was recorded", True),
        (older, "is older than the ledger: its version is 0, and 1 was recorded", False),
        (cut, "has a damaged log: ", True),
        (zeros, "has a damaged log: ", True),
    ],
    ids=["lost", "lost_of_before", "without_log", "foreign", "older", "older_of_before", "cut", "zeros"],
)
def test_a_table_that_is_not_the_lakes_own_is_refused(
    root: Path, damage: Callable[[Path], None], said: str, is_known: bool
) -> None:
    if not is_known:
        (root / FILE).unlink()  # as 0.1.0 and 0.2.0 leave a lake
    damage(root)
    before = sorted(path for path in root.rglob("*") if ".crc" not in path.name)
    commands = (
        ("run_pipeline",),
        ("run_pipeline", "--dry-run"),
        ("run_backfill", "--start", "2011-11-01", "--end", "2011-11-02"),
        ("audit_leakage",),
        ("release", "list"),
        ("maintain_tables",),
    )
    for command in commands:
        done = run_here(root.parent, *command)
        assert done.code == 2, (command, done.err)
        (line,) = done.err.splitlines()
        assert f"table item_index {said}" in line, line
        assert "backup" in line and "learn-spark repair" in line
    assert sorted(path for path in root.rglob("*") if ".crc" not in path.name and path.name != ".lock") == before


def test_readers_make_nothing(root: Path, spark: SparkSession) -> None:
    tables = Tables(spark, root)
    shutil.rmtree(root / "user_features")
    for read in (lambda: tables.read("user_features"), lambda: tables.version("user_features")):
        with pytest.raises(ConfigError, match="table user_features is gone"):
            read()
    with pytest.raises(ConfigError, match="table user_features is gone"):
        open_lake(spark, root)
    rows = spark.createDataFrame([], tables.read("releases").schema)
    with pytest.raises(ConfigError, match="table user_features is gone"):
        tables.append("user_features", rows)
    assert not (root / "user_features").exists()


def test_commands_that_read_make_no_lake(tmp_path: Path, spark: SparkSession) -> None:
    commands = ("release", "list"), ("audit_leakage",), ("repair",), ("export_vectors", "--out", f"{tmp_path}/out")
    for command in commands:
        done = run_here(tmp_path, *command)
        assert done.code == 2 and "there is no lake at" in done.err, (command, done.err)
    assert not (tmp_path / "lake").exists()


def test_a_killed_creation_goes_on(root: Path, spark: SparkSession, tmp_path: Path) -> None:
    """A lake whose creation was killed has tables without rows, and no file that names them."""
    begun = tmp_path / "begun"
    Tables(spark, begun).create_all()
    (begun / FILE).unlink()
    for name in ("intervals", "releases"):
        shutil.rmtree(begun / name)
    Tables(spark, begun).create_all()
    identity = read_identity(begun)
    assert {name: known.id for name, known in identity.tables.items()} == {n: table_id(begun, n) for n in TABLES}
    (begun / FILE).unlink()
    Tables(spark, begun).append("items", Tables(spark, root).read("items"))  # no rows, no commit
    tables = Tables(spark, begun)
    tables.append("item_index", spark.createDataFrame([("a", 1)], "item_id string, item_idx int"))
    shutil.rmtree(begun / "intervals")
    with pytest.raises(ConfigError, match="table intervals is gone"):
        tables.create_all()


def test_a_lake_of_before_is_taken_over_and_a_new_table_is_added(root: Path, spark: SparkSession) -> None:
    (root / FILE).unlink()
    shutil.rmtree(root / "rejects")  # that no recorded day has written: a later release's
    tables = Tables(spark, root)
    tables.create_all()
    first = read_identity(root)
    assert first.tables.keys() == TABLES.keys() and tables.exists("rejects")
    tables.create_all()
    assert read_identity(root) == first, "written once"


def test_a_damaged_identity_names_its_file_and_the_way_out(root: Path, spark: SparkSession) -> None:
    (root / FILE).write_text('{"lake": ')
    with pytest.raises(ConfigError, match=r"_lake\.json is damaged .* backup, or remove it"):
        Tables(spark, root).create_all()


def test_the_id_is_found_in_a_checkpoint_when_the_first_commit_is_cleaned_up(root: Path, spark: SparkSession) -> None:
    tables = Tables(spark, root)
    for number in range(2, 12):
        tables.append("item_index", spark.createDataFrame([(f"i{number}", number)], "item_id string, item_idx int"))
    log = root / "item_index" / "_delta_log"
    assert list(log.glob("*.checkpoint.parquet"))
    for number in range(10):
        (log / f"{number:020d}.json").unlink()
    assert table_id(root, "item_index") == read_identity(root).tables["item_index"].id
    Tables(spark, root).require_own({"item_index": 11})


def test_what_was_recorded_before_a_table_was_made_anew_does_not_count(root: Path, spark: SparkSession) -> None:
    lost(root)
    tables = Tables(spark, root)
    tables.create_anew("item_index")
    ledger = Ledger(spark, tables)
    assert ledger.seen() == {"items": 0}
    tables.require_own(ledger.seen())
    record(spark, tables)
    assert ledger.seen() == {"items": 0, "item_index": 0}


def test_a_lake_may_lie_in_a_folder_of_any_name(spark: SparkSession, tmp_path: Path) -> None:
    tables = Tables(spark, tmp_path / "a b%20c%ü+e&f:g`h'i\"j#k" / "lake")
    tables.create_all()
    tables.append("item_index", spark.createDataFrame([("a", 1)], "item_id string, item_idx int"))
    assert [row.item_id for row in Tables(spark, tables.root).read("item_index").collect()] == ["a"]
