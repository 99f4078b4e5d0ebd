"""Faults of every format in lines, columns and files, and the reasons of the rejects."""

import gzip
import json
import math
import time
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from learn_spark.config.mapping import NumberMapping, TextMapping, TimeMapping
from learn_spark.embedding.prompts import normalised
from learn_spark.errors import ConfigError, QualityError
from learn_spark.ingest.catalogue import read_catalogue
from learn_spark.ingest.check import check_file, check_files
from learn_spark.ingest.fields import mapped_number, mapped_text, mapped_time
from learn_spark.ingest.files import source_files
from learn_spark.ingest.job import ingest_events
from learn_spark.ingest.readers import check_headers
from tests.builders.contexts import make_context
from tests.builders.ingest import NOON, by_item, make_config, read_events

pytestmark = pytest.mark.spark

DAY = 86_400


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def line(**changes):
    return json.dumps({"user": "u", "item": "good", "time": NOON, "name": "A thing"} | changes).encode()


def test_json_lines(spark, tmp_path, logs):
    future = int(datetime.now(UTC).timestamp()) + 3 * DAY
    bad = {
        "malformed line": [b'{"user": "u", "item":', b"[1, 2]", b'"text"', line() + b" tail"],
        "bytes that are not utf-8": [line(item="x").replace(b'"x"', b'"caf\xe9"')],
        "missing user": [line(user=None), line(user=" ")],
        "missing item": [line(item=None)],
        "unparsable time": [line(time="noon"), line(time=None)],
        "time out of range": [line(time=NOON * 1000), line(time=NOON * 1_000_000), line(time=1), line(time=-1e300)],
        "time in the future": [line(time=future)],
        "time before ingest.start": [line(time=NOON - 60 * DAY)],
        "unknown event type": [line(kind="refund"), line(kind=None)],
        "empty description": [line(name=""), line(name=None)],
        "unparsable value": [line(amount=text) for text in ("six", "NaN", "Infinity", "-Infinity", "1e400", "-1e400")],
    }
    good = [
        line(kind="buy"),
        line(kind="buy", item=17, user=12345678901234567890, name={"a": [1.10]}, amount="7"),  # other types than before
        line(kind="buy", item="new", extra=1, name="\ufffd is a character"),
        line(kind="view", item="text", time=f"{NOON}.5"),
    ]
    kind = {"column": "kind", "map": {"buy": "purchase"}}
    mapping = {"event_type": kind, "value": {"column": "amount"}}
    config = make_config(tmp_path, mapping, format="json", files="*.json*", event_types=["purchase", "view"])
    with_kind = (b'{"user"', b'{"kind": "buy", "user"')
    wrong = [text if b'"kind"' in text else text.replace(*with_kind) for texts in bad.values() for text in texts]
    (logs / "a.json").write_bytes(b"\n".join([*good[:2], b"", *wrong, b""]))
    (logs / "b.json.gz").write_bytes(gzip.compress(b"\n".join(good[2:])))
    rows = read_events(spark, config).collect()
    counts = {reason: sum(row.reason == reason for row in rows) for reason in {row.reason for row in rows}}
    assert counts == {reason: len(texts) for reason, texts in bad.items()} | {None: len(good)}
    usable = {row.item_id: row for row in rows if row.reason is None}
    assert usable["17"].user_id == "12345678901234567890"
    assert usable["17"].title == '{"a":[1.1]}'
    assert usable["17"].value == 7.0
    assert (usable["text"].event_type, usable["text"].event_ts.microsecond) == ("view", 500_000)
    assert usable["new"].source_file == "b.json.gz"
    assert {row.load_day for row in usable.values()} == {date(2024, 2, 1)}
    rejected = [row for row in rows if row.reason]
    assert all(row.raw for row in rejected)
    assert {row.load_day for row in rejected if row.reason.startswith("time ")} == {config.ingest.start}
    paths = source_files(config.ingest, [config.ingest.start])[config.ingest.start]
    files = check_files(spark, config.ingest, paths, 1 << 20)
    assert check_headers(files, config.ingest) == ["extra"]


def test_parquet_files_of_other_types_and_orders(spark, tmp_path, logs):
    moment = datetime(2024, 2, 1, 12, tzinfo=UTC)
    in_berlin = datetime(2024, 2, 1, 13)
    files = {
        "text": {"user": ["u"], "item": ["text"], "time": ["2024-02-01 13:00:00"], "name": ["A"]},
        "order": {"more": [1], "name": ["A"], "time": ["2024-02-01 13:00:00"], "item": ["order"], "user": ["u"]},
        "long": {"user": [1], "item": [2**60], "time": pa.array([moment], pa.timestamp("us", "UTC")), "name": ["A"]},
        "nano": {
            "user": ["u"],
            "item": ["nano"],
            "time": pa.array([in_berlin], pa.timestamp("ns")),
            "name": [["A", "B"]],
        },
        "zone": {"user": ["u"], "item": ["zone"], "time": pa.array([moment], pa.timestamp("ns", "UTC")), "name": ["A"]},
        "bytes": {"user": ["u"], "item": ["bytes"], "time": [b"\xff"], "name": ["A"]},
        "empty": {name: pa.array([], "string") for name in ("user", "item", "time", "name")},
    }
    for name, columns in files.items():
        pq.write_table(pa.table(columns), logs / f"{name}.parquet")
    mapping = {
        "event_ts": {"column": "time", "format": "yyyy-MM-dd HH:mm:ss", "timezone": "Europe/Berlin"},
        "title": {"column": "name", "list": "json"},
    }
    config = make_config(tmp_path, mapping, format="parquet", files="*.parquet")
    found = by_item(read_events(spark, config))
    assert {name: row.reason for name, row in found.items()} == dict.fromkeys(
        ["text", "order", str(2**60), "nano", "zone"]
    ) | {"bytes": "bytes that are not utf-8"}
    assert {row.event_ts for row in found.values() if row.reason is None} == {datetime(2024, 2, 1, 12)}
    assert found["nano"].title == "A, B"


def test_numbers_that_are_not_finite_are_none(spark, tmp_path, logs):
    """Holds for typed columns, too. With a lenient mapping the rest of the line is used."""
    prices = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "large": 1e308, "none": None}
    columns = {"user": ["u"] * 5, "item": [*prices], "time": [NOON] * 5, "name": ["A"] * 5, "price": [*prices.values()]}
    pq.write_table(pa.table(columns), logs / "a.parquet")
    for lenient, reason in ((False, "unparsable price"), (True, None)):
        mapping = {"price": {"column": "price", "lenient": lenient}}
        found = read_events(spark, make_config(tmp_path, mapping, format="parquet", files="*.parquet")).collect()
        said = {row.item_id: (row.reason, row.price) for row in found}
        assert said == dict.fromkeys(["nan", "inf", "minus"], (reason, None)) | {
            "large": (None, 1e308),
            "none": (None, None),
        }


WORST = {  # texts on which a backtracking pattern is slow, or that are deeply nested
    "blanks": "a" + " " * 10**6 + "b",
    "tabs": "a" + "\t" * 10**6 + "b",
    "clocks": "1:11" * 250_000 + "x",
    "digits": "2024-02-01 10:00:00." + "1" * 10**6 + "x",
    "signs": "1:11" + "+1" * 500_000 + "x",
    "separators": "|" * 10**6,
    "brackets": "[" * 10**6,
    "scripts": "<script>" * 125_000,
    "comments": "<!-" + "-" * 10**6,
    "entities": "&#1234567;" * 100_000,
}


def test_no_text_of_a_log_is_slow(spark):
    """Values have a million characters; a pattern of quadratic time would take hours."""
    df = spark.createDataFrame([*WORST.items()], "name string, value string").repartition(1)
    columns = [
        *(mapped_text(TextMapping(column="value", list=each)) for each in ("|", " ", " | ", "\t\t", "json")),
        mapped_number(NumberMapping(column="value")),
        *(mapped_time(TimeMapping(column="value"), is_typed) for is_typed in (False, True)),
        mapped_time(TimeMapping(column="value", format="yyyy-MM-dd HH:mm:ss"), False),
        normalised(F.col("value")),
    ]
    started = time.monotonic()
    rows = df.select("name", *(F.xxhash64(column).alias(str(n)) for n, column in enumerate(columns))).collect()
    assert len(rows) == len(WORST) and time.monotonic() - started < 60


def test_files_with_lines_that_are_too_long_are_quarantined_by_name(spark, tmp_path, logs):
    (logs / "2024-02-01.json").write_bytes(line() + b"\n")
    (logs / "2024-02-02.json").write_bytes(line(time=NOON + DAY, name="x" * 5000) + b"\n")
    settings = {"format": "json", "files": "{day}.json", "gates": {"max_line_bytes": 2048}}
    days = [date(2024, 2, 1), date(2024, 2, 2)]
    with pytest.raises(QualityError, match=r"1 unreadable files.*2024-02-02\.json: line too long: line 1 has"):
        ingest_events(make_context(spark, make_config(tmp_path, **settings)), days)
    settings["gates"] |= {"max_bad_files": 1, "max_reject_share": 1.0}
    context = make_context(spark, make_config(tmp_path, **settings))
    assert ingest_events(context, days).rows_out == 1
    (rejected,) = context.tables.read("rejects").collect()
    assert (rejected.reason, rejected.source_file, rejected.ds) == ("line too long", "2024-02-02.json", days[1])


def test_damaged_parquet_files_are_named(tmp_path, logs):
    table = pa.table({name: [f"{name} {n * 7919}" for n in range(5000)] for name in ("user", "item", "time", "name")})
    pq.write_table(table, logs / "whole.parquet")
    whole = (logs / "whole.parquet").read_bytes()
    damaged = {
        "nothing": b"",
        "truncated": whole[: len(whole) // 2],
        "footer": whole[:-400] + bytes(392) + whole[-8:],
        "page": whole[:200] + bytes(2000) + whole[2200:],
        "text": b"user,item\n1,2\n",
    }
    settings = make_config(tmp_path, format="parquet", files="*.parquet").ingest
    problems = {}
    for name, content in damaged.items():
        (logs / f"{name}.parquet").write_bytes(content)
        problems[name] = check_file(str(logs / f"{name}.parquet"), settings, 1 << 20).problem.split(":")[0]
    expected = {"nothing": "empty file", "text": "wrong format"}
    assert problems == dict.fromkeys(damaged, "corrupt file") | expected
    assert check_file(str(logs / "whole.parquet"), settings, 1 << 20).problem == ""


def test_names_that_look_like_patterns(spark, tmp_path):
    folder = tmp_path / "logs [a-c] {x}*"
    folder.mkdir()
    rows = [{"user": "u", "item": "good", "time": NOON, "name": "A thing"}]
    (folder / "[1].csv").write_text("user,item,time,name\n" + ",".join(map(str, rows[0].values())) + "\n")
    (folder / "{1}.json").write_bytes(line() + b"\n")
    pq.write_table(pa.Table.from_pylist(rows), folder / "1?.parquet")
    for kind in ("csv", "json", "parquet"):
        config = make_config(tmp_path, path=str(folder), files=f"*.{kind}", format=kind)
        assert by_item(read_events(spark, config))["good"].reason is None, kind


def test_a_delta_table(spark, tmp_path, logs):
    rows = [(1, "a", NOON, "A"), (2, "b", NOON + DAY, "B"), (3, "gone", NOON, "C")]
    spark.createDataFrame(rows, "user int, item string, time long, name string").coalesce(1).write.format(
        "delta"
    ).option("delta.enableDeletionVectors", "true").save(str(logs / "table"))
    spark.sql(f"DELETE FROM delta.`{logs}/table` WHERE item = 'gone'")
    config = make_config(tmp_path, format="delta", files=None, path=str(logs / "table"))
    found = by_item(read_events(spark, config))
    assert {name: row.load_day for name, row in found.items()} == {"a": date(2024, 2, 1), "b": date(2024, 2, 2)}
    assert found["a"].source_file.endswith(".parquet")
    context = make_context(spark, config)

    def night(*days):
        """Loads days; returns the events (item, day) and the days of late events that the run reports."""
        result = ingest_events(context, days)
        context.ledger.record("ingest_events", dict.fromkeys(days, "fingerprint"), "run", result, {}, {}, 0.0)
        found = context.tables.read("interactions").collect()
        return sorted((row.item_id, row.ds.day) for row in found), [int(day[-2:]) for day in result.details["late"]]

    def rejected():
        """(day, reason) of all rejects."""
        return sorted((row.ds.day, row.reason) for row in context.tables.read("rejects").collect())

    added = [(4, "late", NOON, "D"), (5, "too late", NOON - 4 * DAY, "E"), (6, "c", NOON + 2 * DAY, "F")]
    added += [(7, "never", None, "G"), (7, "never", None, "G")]
    assert night(config.ingest.start, date(2024, 2, 1)) == ([("a", 1)], [])
    assert night(date(2024, 2, 2)) == ([("a", 1), ("b", 2)], [])
    spark.createDataFrame(added, "user int, item string, time long, name string").write.format("delta").mode(
        "append"
    ).save(str(logs / "table"))
    nobody = spark.createDataFrame(
        [(8, "d", NOON + 3 * DAY, "H"), (9, "e", None, "I")], "user int, item string, time long, name string"
    )
    lost = [(3, "unparsable time")] * 2
    for changed in ([1], []):  # again: the same
        assert night(date(2024, 2, 3)) == ([("a", 1), ("b", 2), ("c", 3), ("late", 1)], changed)
        assert [row for row in rejected() if row[1] == "unparsable time"] == lost
    nobody.write.format("delta").mode("append").save(str(logs / "table"))
    spark.sql(f"OPTIMIZE delta.`{logs}/table`")
    assert ("d", 4) in night(date(2024, 2, 4))[0]
    assert [row for row in rejected() if row[1] == "unparsable time"] == [*lost, (4, "unparsable time")]
    plain = make_config(tmp_path, format="delta", files=None)
    with pytest.raises(ConfigError, match="is no Delta table"):
        read_events(spark, plain)


def test_days_of_deliveries(spark, tmp_path, logs):
    deliveries = {
        date(2024, 1, 1): ["u|first|2024-01-01T08:00:00|n|7", "u|before|2024-01-01T07:59:59|n|8"],
        date(2024, 2, 1): [
            "u|now|2024-02-01T12:00:00|n|1|x",
            "u|zoned|2024-02-01T23:59:59Z|n|2|x",
            "u|late|2024-01-30T01:00:00+01:00|n|3|x",
            "u|too late|2024-01-29T23:59:59+0000|n|4|x",
            "u|ahead|2024-02-02 00:00:00 UTC|n|5|x",
            "u|lost|2024-02-01T12:00:00|n||x",
        ],
    }
    for day, lines in deliveries.items():
        folder = logs / f"{day:%Y/%m/%d}"
        folder.mkdir(parents=True)
        names = ["user", "item", "time", "name", "id", "new"][: lines[0].count("|") + 1]
        (folder / "a log.psv").write_text("\n".join(["|".join(names), *lines]))
    mapping = {
        "event_ts": {"column": "time", "timezone": "Asia/Shanghai"},
        "event_id": {"columns": ["id"]},
    }
    config = make_config(tmp_path, mapping, files="{day:%Y/%m/%d}/a *.psv", delimiter="|", late_days=2)
    found = by_item(read_events(spark, config, *deliveries))
    assert {name: row.reason for name, row in found.items()} == dict.fromkeys(["first", "now", "zoned", "late"]) | {
        "before": "time before ingest.start",
        "too late": "too late",
        "ahead": "time after the delivery's day",
        "lost": "missing event id",
    }
    assert found["late"].load_day == date(2024, 2, 1)
    assert found["now"].event_ts == datetime(2024, 2, 1, 4)
    assert found["now"].event_id != found["late"].event_id


@pytest.mark.parametrize(("encoding", "title"), [("iso-8859-1", "caf\u00e9"), ("us-ascii", None), ("utf-8", None)])
def test_the_encoding_is_the_configs(spark, tmp_path, logs, encoding, title):
    """The last line has no line end; a byte that is invalid in the encoding rejects only its own line."""
    (logs / "a.csv").write_bytes(f"user,item,time,name\nu,good,{NOON},A\nu,odd,{NOON},caf\u00e9".encode("latin-1"))
    found = by_item(read_events(spark, make_config(tmp_path, files="a.csv", encoding=encoding)))
    assert found["good"].reason is None
    assert found["odd"].reason == (None if title else f"bytes that are not {encoding}")
    assert found["odd"].title == (title or "caf\ufffd")


def test_a_catalogue(spark, tmp_path, logs):
    header = "id\ttitle\tprice\tfrom\n"
    (logs / "items 2024-02-01.tsv").write_text(
        f"{header}a\tA\t$ 1.5\t1706788800000\nb\tB\tdear\t\nc\t\t\t\n\tD\t\t\nfew\n"
    )
    (logs / "items 2024-02-02.tsv").write_text(f"{header}a\tA2\t\t1706961600000\n")
    (logs / "items 2024-02-03.tsv").write_bytes(b"")
    mapping = {
        "item_id": {"column": "id"},
        "title": {"column": "title"},
        "price": {"column": "price", "strip_prefix": "$"},
        "valid_from": {"column": "from", "unit": "milliseconds", "default": "1706745600000"},
    }
    items = {"path": str(logs), "files": "items {day}.tsv", "format": "csv", "delimiter": "\t", "mapping": mapping}
    gates = {"max_reject_share": 1.0, "max_bad_files": 1}
    settings = make_config(tmp_path, {"title": None}, items=items, gates=gates).ingest
    days = [date(2024, 2, 1) + timedelta(days=n) for n in range(4)]
    catalogue = read_catalogue(spark, settings, days)
    rows = catalogue.lines.collect()
    assert [file.problem for file in catalogue.source.bad] == ["empty file"]
    assert sorted(row.reason for row in rows if row.reason) == [
        "empty description",
        "malformed line",
        "missing item",
        "unparsable price",
    ]
    said = [(row.item_id, row.title, row.price, row.valid_from, row.load_day) for row in rows if row.reason is None]
    assert sorted(said) == [
        ("a", "A", 1.5, datetime(2024, 2, 1, 12), days[0]),
        ("a", "A2", None, datetime(2024, 2, 3, 12), days[1]),
    ]
    strict = settings.model_copy(update={"gates": settings.gates.model_copy(update={"max_bad_files": 0})})
    with pytest.raises(QualityError, match=r"1 unreadable catalogue files.*items 2024-02-03\.tsv: empty file"):
        read_catalogue(spark, strict, days)
    assert read_catalogue(spark, settings, days[3:]) is None
    (logs / "items 2024-02-04.tsv").write_text("id\tname\na\tA\n")
    with pytest.raises(ConfigError, match=r"no column title, which ingest\.items\.mapping names"):
        read_catalogue(spark, settings, days[3:])
