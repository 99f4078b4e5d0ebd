"""Logs as users really have them: drifting types, catalogues that do not fit, unwanted lines, odd names."""

import json
import shutil
import uuid
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learn_spark.errors import ConfigError, QualityError, TemporaryError
from learn_spark.ingest.check import check_files
from learn_spark.ingest.job import ingest_events
from learn_spark.ingest.parquet_types import NANOS, NANOS_UTC, UUID, spark_types, stored_as
from learn_spark.ingest.parse import with_events
from learn_spark.ingest.readers import read_lines
from learn_spark.ingest.reading import unchanged
from tests.builders.contexts import make_context
from tests.builders.ingest import NOON, by_item, make_config, read_events

pytestmark = pytest.mark.spark

DAY = 86_400
START, FIRST = date(2024, 1, 31), date(2024, 2, 1)
ONE_UUID = uuid.UUID("0108775b-45aa-4ccd-8eff-000000000001")
LOST = "id lost its digits as a float"


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def write_parquet(folder, name, options=None, **columns):
    """Writes a Parquet file, by default of one line, whose item is named like the file."""
    values = {"user": ["u"], "item": [name], "time": [NOON], "name": ["A"]} | columns
    pq.write_table(pa.table(values), folder / f"{name}.parquet", **(options or {}))


IDS = {
    "int": (pa.array([52_000_000], pa.int32()), "52000000"),
    "unsigned": (pa.array([52_000_000], pa.uint64()), "52000000"),
    "double": ([5.2e7], "52000000"),
    "float": (pa.array([1025.0], pa.float32()), "1025"),
    "decimal": (pa.array([Decimal("1025.0000000000")], pa.decimal128(38, 10)), "1025"),
    "zero": (pa.array([Decimal("0")], pa.decimal128(38, 10)), "0"),
    "minus": ([-3.0], "-3"),
    "part": ([1.5], "1.5"),
    "text": (["0108"], "0108"),
    "text of a float": (["5.2E7"], "5.2E7"),
    "largest": ([2.0**53 - 1], "9007199254740991"),
    "beyond": ([2.0**53], None),
    "float beyond": (pa.array([2.0**24], pa.float32()), None),
    "nan": ([float("nan")], None),
    "uuid": (pa.array([ONE_UUID.bytes], pa.binary(16)), str(ONE_UUID)),
    "category": (pa.array(["c"]).dictionary_encode(), "c"),
}


def test_one_id_has_one_name_in_every_type_of_parquet(spark, tmp_path, logs):
    for name, (values, _) in IDS.items():
        write_parquet(logs, name, user=values)
    config = make_config(tmp_path, format="parquet", files="*.parquet")
    found = by_item(read_events(spark, config))
    assert {name: row.user_id for name, row in found.items() if row.reason is None} == {
        name: text for name, (_, text) in IDS.items() if text is not None
    }
    faults = {name: row.reason for name, row in found.items() if row.reason}
    assert faults == {"beyond": LOST, "float beyond": LOST, "nan": "missing user"}
    keys = {row.event_id for name, row in found.items() if name in ("int", "unsigned", "double")}
    assert len(keys) == 3, "other items"


JSON_IDS = {
    "52000000": "52000000",
    "52000000.0": "52000000",
    "5.2E7": "52000000",
    "1e3": "1000",
    '"0108"': "0108",
    '"5.2E7"': "5.2E7",
    '"52000000.0"': "52000000.0",
    "12345678901234567890": "12345678901234567890",
    "0.5": "0.5",
    "NaN": None,
    "9007199254740993.0": None,
}


def test_one_id_has_one_name_in_json_beside_strings_and_inside_objects(spark, tmp_path, logs):
    lines = [
        f'{{"user": {text}, "in": {{"user": {text}}}, "item": "{place}", "time": {NOON}, "name": "A"}}'
        for place, text in enumerate(JSON_IDS)
    ]
    (logs / "a.json").write_text("\n".join(lines))
    for column in ("user", "in.user"):
        config = make_config(tmp_path, {"user_id": {"column": column}}, format="json", files="*.json")
        found = by_item(read_events(spark, config))
        said = {text: found[str(place)] for place, text in enumerate(JSON_IDS)}
        names = {text: name for text, name in JSON_IDS.items() if name is not None}
        names |= {"NaN": "NaN"} if column == "in.user" else {}  # Spark writes it as a string there
        assert {text: row.user_id for text, row in said.items() if row.reason is None} == names
        assert said["9007199254740993.0"].reason == LOST
        assert said["NaN"].reason == ("missing user" if column == "user" else None)


KINDS = {
    **{kind: pa.array([1], getattr(pa, kind)()) for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32")},
    **{kind: pa.array([1], getattr(pa, kind)()) for kind in ("int64", "uint64", "float32", "float64")},
    **{"bool": pa.array([True]), "string": pa.array(["x"]), "large": pa.array(["x"], pa.large_string())},
    **{"binary": pa.array([b"x"]), "fixed": pa.array([b"xyz"], pa.binary(3)), "null": pa.array([None], pa.null())},
    **{
        "date": pa.array([FIRST]),
        "date64": pa.array([FIRST], pa.date64()),
        "category": pa.array(["x"]).dictionary_encode(),
    },
    **{"seconds": pa.array([1], pa.timestamp("s")), "millis": pa.array([1], pa.timestamp("ms", "UTC"))},
    **{"micros": pa.array([1], pa.timestamp("us")), "span": pa.array([1], pa.duration("ns"))},
    "decimal": pa.array([Decimal("1.5")], pa.decimal128(9, 2)),
    "list": pa.array([["a"]]),
    "ints": pa.array([[1]], pa.large_list(pa.int32())),
    "pair": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
    "struct": pa.array([{"a": 1, "b c": "x", "t": datetime(2024, 2, 1)}]),
    "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
    "nanos": pa.array([1], pa.timestamp("ns")),
    "nanos utc": pa.array([1], pa.timestamp("ns", "UTC")),
    "uuid": pa.array([ONE_UUID.bytes], pa.binary(16)),
}


def test_types_are_what_spark_says_of_the_same_file(spark, tmp_path):
    pq.write_table(pa.table(KINDS), tmp_path / "a.parquet")
    said = dict(zip(KINDS, spark_types(pq.ParquetFile(tmp_path / "a.parquet")), strict=True))
    ddl = ", ".join(f"`{name}` {stored_as(kind)}" for name, kind in said.items())
    of_spark = spark.read.parquet(str(tmp_path / "a.parquet"))
    named, by_spark = (frame.drop("null").schema for frame in (spark.createDataFrame([], ddl), of_spark))
    assert named == by_spark  # a column without a type is an int to Spark 4.0, and void to 4.1
    assert (said["nanos"], said["nanos utc"], said["uuid"]) == (NANOS, NANOS_UTC, UUID)
    assert spark.read.schema(ddl).parquet(str(tmp_path / "a.parquet")).collect() == of_spark.collect()


def test_times_of_every_type_to_the_microsecond_beside_columns_that_spark_cannot_read(spark, tmp_path, logs):
    exact = datetime(2024, 2, 1, 12, 0, 0, 123_457)
    nanos = NOON * 10**9 + 123_457_000
    clock = pa.array([1], pa.time64("us"))
    write_parquet(logs, "int96", {"use_deprecated_int96_timestamps": True}, time=pa.array([nanos], pa.timestamp("ns")))
    write_parquet(logs, "nanos", time=pa.array([nanos], pa.timestamp("ns")))
    write_parquet(logs, "early nanos", time=pa.array([nanos + 999], pa.timestamp("ns", "UTC")), clock=clock)
    write_parquet(logs, "micros", time=pa.array([exact], pa.timestamp("us", "UTC")), User=["another"], wide=[1.5])
    write_parquet(logs, "text", time=["2024-02-01 12:00:00.123457"])
    write_parquet(logs, "millis", time=pa.array([exact.replace(microsecond=0)], pa.timestamp("ms")), ITEM=["x"])
    write_parquet(logs, "date", time=[FIRST])
    write_parquet(logs, "long ago", time=pa.array([-1], pa.timestamp("ns")))
    for also in ({}, {"unit": "seconds"}):  # says nothing of columns of a time type
        config = make_config(tmp_path, {"event_ts": {"column": "time"} | also}, format="parquet", files="*.parquet")
        found = by_item(read_events(spark, config))
        assert {name: row.event_ts for name, row in found.items()} == dict.fromkeys(
            ["int96", "nanos", "early nanos", "micros", "text"], exact
        ) | {
            "millis": exact.replace(microsecond=0),
            "date": datetime(2024, 2, 1),
            "long ago": datetime(1969, 12, 31, 23, 59, 59, 999_999),
        }
        assert {row.user_id for row in found.values()} == {"u"}
    mapped = make_config(tmp_path, {"brand": {"column": "clock"}}, format="parquet", files="early*.parquet")
    with pytest.raises(ConfigError, match=r"early nanos\.parquet: column clock, .* Spark cannot read: cast it"):
        read_events(spark, mapped)


FOLDERS = [
    "100%",
    "x#1",
    "a b",
    "a+b",
    "a%20b",
    "日志",
    "a&b=c;d",
    "new\nline",
    "tab\t",
    "back\\slash",
    "{brace}",
    "😀",
]


def test_folders_of_any_name_keep_their_day_and_files_their_name(spark, tmp_path, logs):
    for place, folder in enumerate(FOLDERS):
        (logs / folder).mkdir()
        line = f"u,{place},{NOON},A thing\n"
        (logs / folder / f"2024-02-01 {folder}.csv").write_text(f"user,item,time,name\n{line}")
        write_parquet(logs / folder, f"2024-02-01 {folder}", item=[f"p{place}"])
    for kind, prefix in (("csv", ""), ("parquet", "p")):
        config = make_config(tmp_path, format=kind, files=f"*/{{day}} *.{kind}")
        found = by_item(read_events(spark, config, FIRST))
        assert {name: (row.reason, row.load_day, row.source_file) for name, row in found.items()} == {
            f"{prefix}{place}": (None, FIRST, f"2024-02-01 {name}.{kind}") for place, name in enumerate(FOLDERS)
        }


def test_names_that_spark_cannot_open_are_said_and_files_that_go_are_tried_again(spark, tmp_path, logs):
    good = f"user,item,time,name\nu,a,{NOON},A\n"
    for name in ("10:00.csv", "good.csv", b"bad \xff.csv".decode("utf-8", "surrogateescape")):
        (logs / name).write_text(good)
    config = make_config(tmp_path, files="*.csv")
    files = check_files(spark, config.ingest, sorted(logs.iterdir()), 1 << 20)
    assert sorted(file.problem for file in files) == [
        "",
        "unreadable name: it has a colon, which Spark cannot open: rename the file",
        "unreadable name: it is not utf-8, which Spark cannot open: rename the file",
    ]
    with pytest.raises(QualityError, match=r"2 unreadable files.*10:00\.csv: unreadable name"):
        ingest_events(make_context(spark, config), [config.ingest.start])
    whole = [file for file in files if not file.problem]
    lines = with_events(read_lines(spark, config.ingest, whole), config.ingest)
    (logs / "good.csv").write_text(good + "u,b,")
    with pytest.raises(TemporaryError, match=r"good\.csv changed while it was read"), unchanged(whole):
        raise RuntimeError("as Spark's of a file that has changed")
    (logs / "good.csv").unlink()
    with pytest.raises(TemporaryError, match=r"good\.csv went away while it was read"), unchanged(whole):
        lines.count()


def test_columns_that_some_days_lack_are_null_there(spark, tmp_path, logs, caplog):
    for number in (1, 2, 3):
        more = (",price,brand", ",9.5,B") if number == 3 else ("", "")
        text = f"user,item,time,name{more[0]}\nu,{number},{NOON},A{more[1]}\n"
        (logs / f"2024-02-0{number}.csv").write_text(text)
        columns = {"price": [9.5], "brand": ["B"]} if number == 3 else {}
        write_parquet(logs, f"2024-02-0{number}", item=[str(number)], **columns)
    fields = {"price": {"column": "price"}, "brand": {"column": "brand"}}
    days = [FIRST + timedelta(number) for number in range(3)]
    for kind in ("csv", "parquet"):
        config = make_config(tmp_path, fields, format=kind, files=f"{{day}}.{kind}", late_days=9)
        found = by_item(read_events(spark, config, *days))
        assert {name: (row.reason, row.price, row.brand) for name, row in found.items()} == {
            **{"1": (None, None, None), "2": (None, None, None), "3": (None, 9.5, "B")},
        }
        assert "1 more files: no brand, price: null there" in caplog.text
        caplog.clear()
        assert by_item(read_events(spark, config, days[0]))["1"].reason is None, "the newest file has the columns"
        wrong = make_config(tmp_path, fields | {"keywords": {"column": "keyw"}}, format=kind, files=f"{{day}}.{kind}")
        with pytest.raises(ConfigError, match=r"has no column keyw, which ingest\.mapping names"):
            read_events(spark, wrong, *days)
        for field in ("user_id", "title", "event_type"):
            wrong = make_config(tmp_path, fields | {field: {"column": "brand"}}, format=kind, files=f"{{day}}.{kind}")
            with pytest.raises(ConfigError, match=r"01\.\w+ has no column brand, which"):
                read_events(spark, wrong, *days)


def shop_line(item="a", kind="buy", time=NOON, user="u", status="paid", **more):
    return json.dumps({"user": user, "item": item, "kind": kind, "time": time, "status": status} | more)


SHOP = {
    "title": None,
    "event_type": {"column": "kind", "map": {"buy": "purchase"}, "ignore": ["page", "beat"]},
}


def shop(tmp_path, logs, lines, catalogue=("a", "b"), **settings):
    (logs / "log.json").write_text("\n".join(lines))
    rows = [json.dumps({"id": name, "title": name and f"Item {name}"}) for name in catalogue]
    (logs / "items.jsonl").write_text("\n".join(rows))
    fields = {"item_id": {"column": "id"}, "title": {"column": "title"}}
    items = {"path": str(logs), "files": "items.jsonl", "format": "json", "mapping": fields}
    values = {"format": "json", "files": "log.json", "where": {"status": ["paid", ""]}, "start": str(START)}
    values |= {"items": items, "gates": {}} | settings
    return make_config(tmp_path, SHOP | values.pop("mapping", {}), **values)


def test_what_nobody_wants_is_no_reject_and_does_not_hide_what_is(spark, tmp_path, logs, caplog):
    days = [START, FIRST, FIRST + timedelta(1)]
    wanted = [shop_line(item=item, user=str(n)) for n in range(10) for item in ("a", "b")]
    wanted += [shop_line(item="a", user=str(n), time=NOON + DAY, status=None) for n in range(20)]
    unwanted = [shop_line(kind="page", item=None) for _ in range(30)] + [shop_line(kind="beat", user=None)]
    unwanted += [shop_line(status="cancelled", item=None, time="never") for _ in range(5)]
    unwanted += [shop_line(time=NOON - 90 * DAY, user=None) for _ in range(40)]
    undated = [shop_line(time="noon", user=str(n)) for n in range(3)]  # all of the first day
    context = make_context(spark, shop(tmp_path, logs, [*wanted, *unwanted, *undated]))
    for _ in range(2):
        result = ingest_events(context, days)
        assert (result.rows_out, result.details["rejects"]) == (40, {"unparsable time": 3})
        assert result.details["not_wanted"] == {
            **{"time before ingest.start": 40, "ignored event type": 31, "left out by where": 5},
        }
    assert "40 time before ingest.start, 31 ignored event type, 5 left out by where" in caplog.text
    assert context.tables.read("rejects").count() == 3
    assert ingest_events(context, days[:1]).rows_out == 0, "the log's other days count, too"
    broken = [shop_line(item=None, user=str(n), time=NOON + DAY) for n in range(20)]
    context = make_context(spark, shop(tmp_path, logs, [*wanted[:20], *unwanted, *broken]))
    with pytest.raises(QualityError, match=r"20 of 20 lines of 2024-02-02 are rejected, most for `missing item`"):
        ingest_events(context, days)
    undated = [shop_line(time="noon", user=str(n)) for n in range(20)]
    context = make_context(spark, shop(tmp_path, logs, [*wanted, *undated]))
    with pytest.raises(QualityError, match=r"20 of 60 lines of the log have no usable time and are rejected"):
        ingest_events(context, days)


def test_equal_lines_are_events_where_repeats_are_kept(spark, tmp_path, logs):
    """Equal lines of one delivery are kept as events; the same lines in another delivery or run add nothing."""
    line = f"u,a,{NOON},A\n"
    header = "user,item,time,name\n"
    (logs / "2024-02-01.csv").write_text(header + line * 3 + f"u,b,{NOON},B\n")
    (logs / "2024-02-02.csv").write_text(header + line * 4 + f"u,b,{NOON + DAY},B\n" * 2)
    days = [FIRST, FIRST + timedelta(1)]
    seen = {}
    for repeats in ("drop", "keep"):
        config = make_config(tmp_path, files="{day}.csv", repeats=repeats)
        shutil.rmtree(tmp_path / "lake", ignore_errors=True)
        context = make_context(spark, config)
        for loaded in (days,) if repeats == "drop" else (days[1:], days[:1], days):
            result = ingest_events(context, loaded)
            rows = context.tables.read("interactions").collect()
            seen.setdefault(repeats, []).append(Counter((row.item_id, row.ds.day, row.load_day.day) for row in rows))
            assert len({(row.event_id, row.user_id, row.ds) for row in rows}) == len(rows)
        assert result.details["duplicates"] == {"drop": 7, "keep": 3}[repeats]
    assert seen["drop"] == [{("a", 1, 1): 1, ("b", 1, 1): 1, ("b", 2, 2): 1}]
    kept = {("a", 1, 1): 3, ("a", 1, 2): 1, ("b", 1, 1): 1, ("b", 2, 2): 2}
    assert seen["keep"] == [{("a", 1, 2): 4, ("b", 2, 2): 2}, kept, kept]


def test_a_catalogue_is_held_against_the_log_and_the_gates(spark, tmp_path, logs, caplog):
    lines = [shop_line(item=f"0{item}", user=str(n)) for n in range(4) for item in (1, 2, 3, 4, 5, 6)]
    names = [f"0{item}" for item in (1, 2, 3, 4)]
    few = shop(tmp_path, logs, lines, names)
    assert ingest_events(make_context(spark, few), [START, FIRST]).rows_out == 24
    assert "2 of 6 items of the log, 33.3% of its events, are not in the catalogue" in caplog.text
    strict = shop(tmp_path, logs, lines, names, gates={"min_catalogue_share": 0.7})
    with pytest.raises(QualityError, match=r"33.3% of its events, .*min_catalogue_share asks for 70% of the events"):
        ingest_events(make_context(spark, strict), [START, FIRST])
    shutil.rmtree(tmp_path / "lake")
    other = make_context(spark, shop(tmp_path, logs, lines, [str(item) for item in range(1, 8)]))
    said = r"6 of 6 items .* the log has '01', '02', '03', '04', '05', the catalogue '1', '2', '3', '4', '5'; nothing"
    with pytest.raises(QualityError, match=said):
        ingest_events(other, [START, FIRST])
    assert other.tables.read("interactions").count() == other.tables.read("item_index").count() == 0
    half = make_context(spark, shop(tmp_path, logs, lines, [*names, *[""] * 4]))
    with pytest.raises(QualityError, match=r"4 of 8 lines of the catalogue of 2024-01-31 .*`missing item`"):
        ingest_events(half, [START, FIRST])
    assert half.tables.read("rejects").count() == 4
    open_gate = shop(tmp_path, logs, lines, [*names, ""], gates={"max_reject_share": 0.5})
    details = ingest_events(make_context(spark, open_gate), [START, FIRST]).details
    assert (details["catalogue_lines"], details["catalogue_rejects"]) == (5, {"missing item": 1})


def test_a_change_of_an_ids_type_is_said_once(spark, tmp_path, logs, caplog):
    values = {1: [7], 2: [7.0], 3: [7.0], 4: pa.array([7], pa.int32())}
    for number, users in values.items():
        time = pa.array([datetime(2024, 2, number, 12, tzinfo=UTC)], pa.timestamp("us", "UTC"))
        write_parquet(logs, f"2024-02-0{number}", user=users, time=time)
    config = make_config(tmp_path, {"event_ts": {"column": "time"}}, format="parquet", files="{day}.parquet")
    context = make_context(spark, config)
    said = {}
    for number in values:
        day = date(2024, 2, number)
        result = ingest_events(context, [day])
        context.ledger.record("ingest_events", {day: "fingerprint"}, "run", result, {}, {}, 0.0)
        said[number] = "the type of user changes: double in " in caplog.text
        caplog.clear()
    assert said == {1: False, 2: True, 3: False, 4: False}
    assert {row.user_id for row in context.tables.read("interactions").collect()} == {"7"}
