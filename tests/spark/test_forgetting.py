"""Forgetting users and items: later deliveries, tables, files beside the tables, and the reports about it."""

import json
import shutil
from datetime import date, timedelta
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from learn_spark.bridge.snapshots import export
from learn_spark.config.load import load_config
from learn_spark.features.job import write_features
from learn_spark.ingest.job import ingest_events
from learn_spark.ingest.parse import FORGOTTEN
from learn_spark.lake.days import DayRange
from learn_spark.lake.forget_requests import Request, hash_of
from learn_spark.lake.lock import folder_lock
from learn_spark.lake.schemas import TABLES
from learn_spark.lake.tables import Tables
from learn_spark.lake.tombstones import ITEM, USER, add_tombstones
from tests.builders.byte_scan import places_of
from tests.builders.commands import run_here
from tests.builders.contexts import make_context
from tests.builders.lake import feature_lake
from tests.builders.logs import line, write_day
from tests.conftest import CONF

pytestmark = [pytest.mark.spark, pytest.mark.long]

DAY = date(2011, 11, 1)
SALT = "salt of this lake"
GONE = {USER: ("17850", "a b@shop.example"), ITEM: ("85123A",)}
# Of a lake of user00 .. user39 and item01 .. item30.
USERS, ITEMS = ("user07", "user1", "nobody"), ("item03", "item0")
NUMBER = 3


def test_lines_of_the_forgotten_are_counted_and_leave_nothing(spark: SparkSession, tmp_path: Path) -> None:
    """Ids that contain a forgotten id, or are contained in one, stay; so do equal values in other columns."""
    places = [f"lake.root={tmp_path}/lake", f"output.dir={tmp_path}/out", f"ingest.path={tmp_path}/logs"]
    context = make_context(spark, load_config(CONF / "test.yaml", places))
    kept = [
        line(CustomerID="178500.0", StockCode="k1"),
        line(CustomerID="1785", StockCode="k2"),
        line(CustomerID="117850", StockCode="85123AB"),
        line(CustomerID="42", StockCode="17850"),
        line(CustomerID="43", StockCode="85123a", Quantity="17850"),
    ]
    gone = [
        line(StockCode="k1"),  # 17850.0
        line(CustomerID="17850", StockCode="new"),
        line(CustomerID="a b@shop.example", StockCode="k2"),
        line(CustomerID="42", StockCode="85123A"),
        line(StockCode="k1", InvoiceDate="yesterday"),
    ]
    odd = [
        line(CustomerID="99", StockCode="k1", InvoiceDate="of 17850, who"),
        line(CustomerID="99", StockCode="k1", InvoiceDate="of 178501"),
        line(CustomerID="99", StockCode="k1", InvoiceDate="none", Description="a b@shop.example"),
        line(CustomerID="", StockCode="85123A"),
        line(CustomerID="", StockCode="other"),
    ]
    write_day(tmp_path / "logs", str(DAY), [*kept, *gone, *odd])
    hashes = {kind: [hash_of(SALT, name) for name in names] for kind, names in GONE.items()}
    request = Request("r1", SALT, "2024-01-01T00:00:00+00:00", hashes)
    assert [add_tombstones(context.tables, request) for _ in range(2)] == [3, 0]
    for _ in range(2):  # as of a redelivery
        result = ingest_events(context, [DAY])
        assert result.rows_out == len(kept)
        assert result.details["not_wanted"] == {FORGOTTEN: 6}
        assert result.details["rejects"] == {"unparsable time": 3, "missing user": 1}
        events = context.tables.read("interactions").collect()
        assert {row.user_id for row in events} == {"178500", "1785", "117850", "42", "43"}
        numbered = {row.item_id for row in context.tables.read("item_index").collect()}
        assert numbered == {"k1", "k2", "85123AB", "17850", "85123a"}
        raw = [row.raw for row in context.tables.read("rejects").collect()]
        assert len(raw) == 4 and raw.count(None) == 2, raw
        assert any("178501" in text for text in raw if text) and any("other" in text for text in raw if text)


@pytest.fixture(scope="module")
def folder(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a release, two snapshots, ranks, a log and other files that may name users; and the lists."""
    folder = tmp_path_factory.mktemp("forgetting")
    windows = {"towers_end": 21, "cvr_end": 22, "ranker_train_end": 24, "end": 26}
    context = feature_lake(spark, folder, [f"windows.{name}=2011-11-{day}" for name, day in windows.items()])
    write_features(context, list(DayRange(context.config.windows.towers_end, date(2011, 11, 26) + timedelta(days=1))))
    tables = context.tables
    sequences, histories = tables.read("sequences"), tables.read("user_history").select("user_id", "ds")
    for name, rows in {"with": sequences, "without": sequences.where("user_id = 'user12'")}.items():
        rows = rows.select("user_id", "as_of", "hist_len")
        export(context, rows, name, ["user_id", "as_of"], "sequences", tables.version("sequences"), 1)
    tables.delete("user_history", "user_id = 'user08'")  # an older version still has them
    ranks = tables.artifacts.path("comparisons", "f00")
    ranks.mkdir(parents=True)
    np.savez(ranks / "towers.npz", user=np.arange(3))
    begun = tables.artifacts.path("models", "towers-begun")
    begun.mkdir()
    (begun / "checkpoint.safetensors").write_bytes(b"weights")
    texts = folder / "output" / "choose_content" / "measured" / "texts" / "part-0.parquet"
    texts.parent.mkdir(parents=True)
    pq.write_table(pa.table({"item_idx": [1, 2], "item_id": ["other", ITEMS[0]], "title": ["mug", "lantern"]}), texts)
    (folder / "output" / "logs").mkdir(parents=True)
    (folder / "output" / "logs" / "write-1.log").write_text("Traceback: row ('user07', 12)\n")
    (folder / "output" / "logs" / "write-2.log").write_text("Traceback: row ('user12', 'myuser07')\n")
    (folder / "lake" / "_lost" / "samples-1").mkdir(parents=True)
    (folder / "lake" / "_lost" / "samples-1" / "part-0.parquet").write_bytes(b"user07")
    (folder / "users.txt").write_text("".join(f" {name}\r\n" for name in USERS) + "\n")
    (folder / "items.csv").write_text("item_id,why\n" + "".join(f"{name},asked\n" for name in ITEMS))
    assert not histories.where("user_id = 'user07'").isEmpty()
    return folder


@pytest.fixture(scope="module")
def before(spark: SparkSession, folder: Path) -> dict[str, list[dict]]:
    return contents(spark, folder)


def contents(spark: SparkSession, folder: Path) -> dict[str, list[dict]]:
    tables = Tables(spark, folder / "lake")
    found = {name: [row.asDict() for row in tables.read(name).collect()] for name in TABLES if name != "forgotten"}
    return {name: sorted(rows, key=repr) for name, rows in found.items()}


def lists(folder: Path) -> tuple[str, ...]:
    return "--users", str(folder / "users.txt"), "--items", str(folder / "items.csv")


def expected(name: str, rows: list[dict]) -> list[dict]:
    """The rows that an oracle keeps of a table."""
    kept = [row for row in rows if row.get("user_id") not in USERS]
    if name == "item_index":
        return kept
    kept = [row for row in kept if row.get("item_id") not in ITEMS]
    for items, times, length in (("item_idx", "event_ts", ""), ("hist_items", "hist_ts", "hist_len")) + (
        ("tar_items", "tar_ts", "tar_len"),
    ):
        for row in kept:
            if isinstance(row.get(items), list):
                pairs = [(i, t) for i, t in zip(row[items], row[times], strict=True) if i not in (0, NUMBER)]
                padding = [(0, 0)] * (len(row[items]) - len(pairs) if length else 0)
                row[items], row[times] = (
                    (list(side) for side in zip(*pairs, *padding, strict=True)) if pairs else ([], [])
                )
                row |= {length: len(pairs)} if length else {}
    sizes = [row.get("hist_len", len(row["item_idx"]) if isinstance(row.get("item_idx"), list) else 1) for row in kept]
    kept = [row for row, size in zip(kept, sizes, strict=True) if size and row.get("tar_len", 1)]
    return sorted(kept, key=repr)


def test_a_dry_run_changes_nothing(folder: Path, before: dict[str, list[dict]], spark: SparkSession) -> None:
    held = places_of([*USERS, *ITEMS, "user08"], folder / "lake", folder / "output")
    assert held["user07"] and held["item03"] and not held["user1"] and not held["nobody"]
    assert any("_delta_log" in file for file in held["user08"]) or held["user08"]
    done = run_here(folder, "forget", *lists(folder), "--dry-run")
    assert done.code == 0, done.err
    assert "rows of interactions" in done.out and "towers-begun: dropped" in done.out
    assert contents(spark, folder) == before
    assert not (folder / "lake" / "_artifacts" / "forgetting").exists()


def test_an_interrupted_request_is_told_and_ended_without_its_list(
    folder: Path, before: dict[str, list[dict]], spark: SparkSession
) -> None:
    calls: list[str] = []

    def broken(tables: Tables, name: str) -> int:
        calls.append(name)
        if len(calls) == 2:
            raise OSError("No space left on device")
        return 0

    with patch.object(Tables, "cut_history", broken):
        assert run_here(folder, "forget", *lists(folder)).code != 0
    told = run_here(folder, "release", "list")
    assert "is not finished: `learn-spark forget" in told.err, told.err
    done = run_here(folder, "forget")
    assert done.code == 0, done.err
    assert "is not finished" not in run_here(folder, "release", "list").err


def test_every_row_and_byte_of_them_is_gone_and_all_others_stay(
    folder: Path, before: dict[str, list[dict]], spark: SparkSession
) -> None:
    after, lake = contents(spark, folder), folder / "lake"
    for name, rows in before.items():
        if name == "item_index":
            assert {row["item_idx"] for row in after[name]} == {row["item_idx"] for row in rows}
            assert [row for row in after[name] if row["item_idx"] != NUMBER] == [
                row for row in rows if row["item_idx"] != NUMBER
            ]
        elif name != "intervals":
            assert after[name] == expected(name, rows), name
    held = places_of([*USERS, *ITEMS], lake, folder / "output")
    assert not any(held.values()), held
    assert places_of(["user08"], lake / "user_history")["user08"] == set()  # of an older version
    assert places_of(["user12"], lake / "user_history")["user12"]  # the scan finds ids that are still there
    snapshots = {path.name for path in (lake / "_artifacts" / "snapshots").iterdir()}
    assert "without" in snapshots and "with" not in snapshots
    assert not list((lake / "_artifacts" / "comparisons").glob("f00"))
    assert not (lake / "_artifacts" / "models" / "towers-begun").exists()
    assert not (lake / "_lost").exists()
    assert [file.name for file in (folder / "output" / "logs").glob("write-*")] == ["write-2.log"]


def test_the_certificate_says_what_was_found_without_an_id(folder: Path) -> None:
    (file,) = (folder / "lake" / "_artifacts" / "forgetting").glob("*/certificate.json")
    told = json.loads(file.read_text())
    assert (told["users"], told["items"]) == (len(USERS), len(ITEMS))
    assert told["found"]["table interactions"]["rows"] > 0
    assert told["found"]["model towers-begun"]["dropped"]
    assert set(told["tables"]) == set(TABLES)
    assert not any(name in file.read_text() for name in (*USERS[:2], *ITEMS))


def test_the_same_again_finds_nothing_and_changes_nothing(folder: Path, spark: SparkSession) -> None:
    tables = Tables(spark, folder / "lake")
    was = tables.versions(TABLES)
    again = run_here(folder, "forget", *lists(folder))
    assert again.code == 99, again.err
    assert tables.versions(TABLES) == was
    assert tables.read("forgotten").count() == len(USERS) + len(ITEMS)


def test_a_lost_table_of_the_forgotten_is_made_again(folder: Path, spark: SparkSession) -> None:
    tables = Tables(spark, folder / "lake")
    rows = sorted(map(tuple, tables.read("forgotten").collect()))
    shutil.rmtree(folder / "lake" / "forgotten")
    assert run_here(folder, "forget").code == 2
    assert run_here(folder, "repair").code == 0
    assert sorted(map(tuple, Tables(spark, folder / "lake").read("forgotten").collect())) == rows


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.txt", "\n \n", "holds no id"),
        ("wrong.csv", "user,why\nu1,x\n", "has no column user_id; it has user, why"),
        ("gone.txt", None, "is not there"),
        ("bytes.txt", b"\xff\xfe\x00", "cannot be read as UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(folder: Path, name: str, text: str | bytes | None, said: str) -> None:
    if text is not None:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    done = run_here(folder, "forget", "--users", str(folder / name))
    assert done.code == 2 and said in done.err, done.err


@pytest.mark.parametrize("busy", ["", "_artifacts/comparisons"])
def test_a_night_or_a_comparison_on_the_lake_is_not_disturbed(folder: Path, busy: str) -> None:
    with folder_lock(folder / "lake" / busy, "lake", "busy"):
        done = run_here(folder, "forget", *lists(folder))
    assert done.code == 75, done.err
