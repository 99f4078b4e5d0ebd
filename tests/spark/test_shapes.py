"""Logs without one event per line: objects, lists, file paths, several sources, properties; also formats of times."""

import gzip
import json
import logging
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from learn_spark.config.mapping import TimeMapping
from learn_spark.config.time_formats import problem_of
from learn_spark.errors import ConfigError
from learn_spark.ingest.catalogue import read_catalogue
from learn_spark.ingest.check import check_file
from learn_spark.ingest.fields import mapped_time
from learn_spark.ingest.files import urls_of
from learn_spark.ingest.job import ingest_events
from learn_spark.ingest.text_lines import text_lines
from learn_spark.inspect.spellings import reader
from tests.builders.contexts import make_context
from tests.builders.ingest import NOON, events_of_cases, make_config, read_events
from tests.builders.logs import write_files

pytestmark = pytest.mark.spark


def log(folder, name, held, mapping=None, **ingest):
    """Writes the files of a log by their paths; returns a config for it."""
    write_files(folder / name / "logs", held)
    return make_config(folder / name, mapping, **ingest)


def column(name, **more):
    return {"column": name, **more}


def lines(*objects):
    return "\n".join(json.dumps(each, ensure_ascii=False) for each in objects)


def said(rows, *names):
    return [tuple(row[name] for name in names) for row in rows if row.reason is None]


KINDS = {"event_types": ["view", "purchase"]}
OTTO = {
    "user_id": column("session"),
    "item_id": column("events.aid"),
    "event_ts": column("events.ts", unit="milliseconds"),
    "event_type": column("events.type", map={"clicks": "view", "orders": "purchase"}),
    "title": column("events.aid"),
}
SESSIONS = [
    {
        "session": 7,
        "events": [
            {"aid": 1, "ts": NOON * 1000, "type": "clicks"},
            {"aid": 2, "ts": NOON * 1000 + 1, "type": "orders"},
        ],
    },
    {"session": 8, "events": []},
    {"session": 9, "events": [{"aid": None, "ts": NOON * 1000 + 2, "type": "clicks"}]},
    {"session": 10},
]
NESTED = {"user_id": column("user.id"), "item_id": column("p.product.id"), "title": column("p.product.name")}
PARALLEL = {
    "user_id": column("uid"),
    "item_id": column("items"),
    "event_ts": column("times", unit="seconds", origin="2024-02-01"),
}
PARALLEL |= {"event_type": {"constant": "view"}, "title": column("items"), "value": column("items.#")}


def test_objects_and_lists(spark, tmp_path):
    app = {
        "user": {"id": "u1"},
        "p": {"product": {"id": 5, "name": 'A, "b"'}},
        "time": NOON,
        "context": {"user.id": "no"},
    }
    dotted = {"user.id": "u2", "p": {"product.id": "6", "product": {"name": "C"}}, "time": NOON + 1}
    broken = {"user": "u3", "p": {"product": {"id": 7, "name": "D"}}, "time": NOON + 2}
    sessions = pa.Table.from_pylist(SESSIONS[:3])
    structs = pa.Table.from_pylist([app | {"user": {"id": 12}}])
    lists = pa.table({"uid": [1, 2, 3], "items": [[10, 11], [], None], "times": [[5, 10], [], None]})
    behaviours = "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0\n2\tU2\t11/12/2019 6:11:30 PM\t\tN3-0\n"
    mind = {"user_id": column("user"), "item_id": column("shown.item"), "title": column("shown.item")}
    mind |= {"event_ts": column("time", format="M/d/yyyy h:mm:ss a")}
    mind |= {"event_type": column("shown.label", map={"0": "view", "1": "purchase"})}
    baskets = {"item_id": column("basket"), "title": column("basket"), "event_ts": column("time", unit="seconds")}
    json_of = {"format": "json", "files": "*.json", **KINDS}
    cases = {
        "nested": log(tmp_path, "nested", {"a.json": lines(app, dotted, broken)}, NESTED, **json_of),
        "structs": log(tmp_path, "structs", {"a.parquet": structs}, NESTED, format="parquet", files="*.parquet"),
        "column of json": log(
            tmp_path,
            "cell",
            {"a.csv": 'user;item;time;p\nu;"{""id"":3}";%d;"{""name"":""E""}"\n' % NOON},  # noqa: UP031
            {"item_id": column("item.id"), "title": column("p.name")},
            delimiter=";",
            files="*.csv",
        ),
        "otto": log(tmp_path, "otto", {"a.json": lines(*SESSIONS)}, OTTO, explode="events", **json_of),
        "otto parquet": log(
            tmp_path,
            "ottop",
            {"a.parquet": sessions},
            OTTO,
            explode="events",
            format="parquet",
            files="*.parquet",
            **KINDS,
        ),
        "parallel": log(
            tmp_path,
            "par",
            {"a.parquet": lists},
            PARALLEL,
            explode=["items", "times"],
            format="parquet",
            files="*.parquet",
            **KINDS,
        ),
        "uneven": log(
            tmp_path,
            "uneven",
            {"a.json": lines({"uid": 1, "items": [1, 2], "times": [1]}, {"uid": 2, "items": ["x"], "times": [0]})},
            PARALLEL,
            explode=["items", "times"],
            **json_of,
        ),
        "mind": log(
            tmp_path,
            "mind",
            {"a.tsv": behaviours},
            mind,
            files="*.tsv",
            delimiter="\t",
            quote=None,
            columns=["id", "user", "time", "history", "shown"],
            explode={"columns": ["shown"], "separator": " ", "pattern": "(?P<item>.+)-(?P<label>[01])"},
            start="2019-11-01",
            **KINDS,
        ),
        "baskets": log(
            tmp_path,
            "baskets",
            {"a.csv": f"user,basket,time\nu,a|b|c,{NOON}\n"},
            baskets,
            files="*.csv",
            explode={"columns": ["basket"], "separator": "|"},
        ),
    }
    found = events_of_cases(spark, cases)
    named = ("user_id", "item_id", "title")
    assert said(found["nested"], *named) == [("u1", "5", 'A, "b"'), ("u2", "6", "C")]
    assert [row.reason for row in found["nested"]] == [None, None, "missing user"]
    assert said(found["structs"], *named) == [("12", "5", 'A, "b"')]
    assert said(found["column of json"], *named) == [("u", "3", "E")]
    events = [("7", "1", "view", 0), ("7", "2", "purchase", 1000)]
    for name, missing in (("otto", 2), ("otto parquet", 1)):
        assert [
            (*row[:3], row[3].microsecond) for row in said(found[name], "user_id", "item_id", "event_type", "event_ts")
        ] == events
        assert [row.reason for row in found[name] if row.reason] == ["missing item"] * missing, name
    assert said(found["parallel"], "user_id", "item_id", "value", "event_ts") == [
        ("1", "10", 0.0, datetime(2024, 2, 1, 0, 0, 5)),
        ("1", "11", 1.0, datetime(2024, 2, 1, 0, 0, 10)),
    ]
    assert [row.reason for row in found["parallel"] if row.reason] == ["missing item"]
    assert said(found["uneven"], "user_id", "item_id") == [("2", "x")]
    assert [row.reason for row in found["uneven"] if row.reason] == ["malformed line"]
    assert sorted(said(found["mind"], "user_id", "item_id", "event_type")) == [
        ("U1", "N3", "purchase"),
        ("U1", "N4", "view"),
        ("U2", "N3", "view"),
    ]
    assert [row.item_id for row in found["baskets"]] == ["a", "b", "c"]
    assert len({row.event_id for rows in (found["baskets"], found["mind"]) for row in rows}) == 6


CLICKS_AND_BUYS = {
    "sources": [
        {"files": "clicks.dat", "columns": ["session", "time", "item", "category"]},
        {"files": "buys.dat.gz", "columns": ["session", "time", "item", "price", "pieces"]},
    ]
}
for source, kind in zip(CLICKS_AND_BUYS["sources"], ("view", "purchase"), strict=True):
    source["mapping"] = {"user_id": column("session"), "item_id": column("item"), "event_ts": column("time")}
    source["mapping"] |= {"event_type": {"constant": kind}, "title": column("item")}
CLICKS_AND_BUYS["sources"][1]["mapping"]["price"] = column("price")


def test_files_say_more_than_their_lines(spark, tmp_path):
    row = f"u,i,{NOON},A\n"
    kinds = {"event_type": column("kind", map={"buys": "purchase", "clicks": "view"})}
    by_path = {"user_id": column("user"), "item_id": column("item"), "event_ts": column("time", unit="seconds")}
    by_path |= {"title": column("name"), "event_type": column("event_type"), "category": column("hour")}
    head = "user,item,time,name\n"
    table = pa.table({"user": ["u"], "item": ["i"], "time": [NOON], "name": ["A"]})
    hive = "dt=2024-02-01/event_type={}/hour=2024-02-01 12%3A00/part-0.{}"
    two = {
        "clicks.dat": "7,2024-02-01T12:00:00.5Z,1,S\n",
        "buys.dat.gz": gzip.compress(b"7,2024-02-01T12:00:00.5Z,1,5,2\n"),
    }
    cases = {
        "names": log(
            tmp_path, "names", {"x-buys.dat": row, "x-clicks.dat": row}, kinds,
            files="x-{kind}.dat", columns=["user", "item", "time", "name"], **KINDS,
        ),
        "hive": log(
            tmp_path, "hive", {hive.format(kind, "csv"): head + row for kind in ("view", "purchase")}, by_path,
            files="dt={day}/event_type=*/*/*.csv", **KINDS,
        ),
        "hive parquet": log(
            tmp_path, "hivep", {hive.format(kind, "parquet"): table for kind in ("view", "purchase")}, by_path,
            files="dt={day}/*/*/*.parquet", format="parquet", **KINDS,
        ),
        "hive json": log(
            tmp_path, "hivej", {hive.format("view", "json"): lines({"user": 1, "item": 2, "time": NOON, "name": "A"})},
            by_path, files="dt={day}/*/*/*.json", format="json", **KINDS,
        ),
        "sources": log(tmp_path, "sources", two, **CLICKS_AND_BUYS, **KINDS),
    }  # fmt: skip
    days = dict.fromkeys(("hive", "hive parquet", "hive json"), [date(2024, 2, 1)])
    found = events_of_cases(spark, cases, days)
    assert {row.event_type for row in found["names"]} == {"view", "purchase"}
    for name in ("hive", "hive parquet"):
        assert {(row.event_type, row.category, row.load_day) for row in found[name]} == {
            (kind, "2024-02-01 12:00", date(2024, 2, 1)) for kind in ("view", "purchase")
        }, name
        assert {row.source_file for row in found[name]} == {f"part-0.{'csv' if name == 'hive' else 'parquet'}"}
    assert said(found["hive json"], "event_type", "user_id") == [("view", "1")]
    bought = said(found["sources"], "event_type", "user_id", "item_id", "price")
    assert sorted(bought, key=str) == [("purchase", "7", "1", 5.0), ("view", "7", "1", None)]
    assert len({row.event_id for row in found["sources"]}) == 2


def test_two_sources_through_the_whole_job(spark, tmp_path, caplog):
    clicks = "".join(f"NA,2024-02-01T12:00:0{n}Z,{n},S\n" for n in range(5))
    config = log(
        tmp_path,
        "job",
        {"clicks.dat": clicks, "buys.dat.gz": gzip.compress(b"7,2024-02-01T12:00:00Z,1,5,2\n")},
        **CLICKS_AND_BUYS,
        **KINDS,
    )
    with caplog.at_level(logging.WARNING):
        result = ingest_events(make_context(spark, config), [date(2024, 2, 1)])
    assert (result.rows_out, result.details["files"]) == (6, 2)
    assert "5 of 6 events are of user `NA`" in caplog.text and "ingest.nulls: ['NA']" in caplog.text


def test_marks_of_null(spark, tmp_path):
    rows = [("NA", "i", "x"), ("u", "\\N", "x"), ("u", "i", " \\N "), ("u", "i", "NAN")]
    text = "".join("\t".join([user, item, str(NOON), name]) + "\n" for user, item, name in rows)
    table = pa.table({"user": ["NULL", "u"], "item": ["i", "i"], "time": [NOON] * 2, "name": ["A"] * 2})
    names = ["user", "item", "time", "name"]
    cases = {
        "tsv": log(
            tmp_path,
            "tsv",
            {"a.tsv": text},
            files="*.tsv",
            delimiter="\t",
            columns=names,
            quote=None,
            nulls=["NA", "\\N"],
        ),
        "parquet": log(tmp_path, "pq", {"a.parquet": table}, files="*.parquet", format="parquet", nulls=["NULL"]),
    }
    found = events_of_cases(spark, cases)
    assert sorted(str(row.reason) for row in found["tsv"]) == [
        "None",
        "empty description",
        "missing item",
        "missing user",
    ]
    assert sorted(str(row.reason) for row in found["parquet"]) == ["None", "missing user"]


def test_a_catalogue_of_properties(spark, tmp_path):
    properties = (
        "timestamp,itemid,property,value\n1000,1,888,old\n3000,1,888,new\n2000,1,790,n9.5\n1000,2,available,1\n"
    )
    properties += "1000,,888,nobody\n1000,3,888\n5000,4,790,n1\n"
    items = {"path": str(tmp_path / "r" / "logs"), "files": "item_*.csv", "format": "csv"}
    items["pivot"] = {"name": "property", "value": "value", "time": column("timestamp", unit="milliseconds")}
    items["mapping"] = {"item_id": column("itemid"), "title": column("888"), "price": column("790", strip_prefix="n")}
    config = log(tmp_path, "r", {"item_1.csv": properties}, {"title": None}, items=items)
    found = read_catalogue(spark, config.ingest, [config.ingest.start]).lines.collect()
    assert sorted((str(row.reason), row.item_id or "", row.title or "", row.price or 0.0) for row in found) == [
        ("None", "1", "new", 9.5),
        ("empty description", "4", "", 1.0),
        ("malformed line", "3", "", 0.0),
        ("missing item", "", "", 0.0),
    ]


def test_wrong_paths_are_one_line(spark, tmp_path):
    structs = pa.Table.from_pylist([{"user": {"id": 1}, "p": 3, "time": NOON}])
    settings = {"format": "parquet", "files": "*.parquet"}
    with pytest.raises(ConfigError, match="column user.name: there is no name among id"):
        read_events(
            spark, log(tmp_path, "a", {"a.parquet": structs}, NESTED | {"user_id": column("user.name")}, **settings)
        )
    with pytest.raises(ConfigError, match="column p.product.id: there is nothing in a bigint"):
        read_events(spark, log(tmp_path, "b", {"a.parquet": structs}, NESTED, **settings))
    with pytest.raises(ConfigError, match="has no column session, events.aid"):
        read_events(spark, log(tmp_path, "c", {"a.parquet": structs}, OTTO, explode="events", **KINDS, **settings))
    with pytest.raises(ConfigError, match="has no column place.id"):
        read_events(
            spark,
            log(
                tmp_path,
                "d",
                {"a.json": lines({"user": 1})},
                {"user_id": column("place.id")},
                format="json",
                files="*.json",
            ),
        )


WHEN = datetime(2014, 12, 6, 14, 5, 9)
TIMES = [  # text, how it is read, the time in UTC
    ("2014-12-06 14:05:09", {}, WHEN),
    ("2014-12-06T14:05:09Z", {}, WHEN),
    ("2014-12-06T14:05:09.250Z", {}, WHEN.replace(microsecond=250_000)),
    ("2014-12-06 14:05:09.123456789", {}, WHEN.replace(microsecond=123_456)),
    ("2014-12-06 14:05:09 UTC", {}, WHEN),
    ("2014-12-06 14:05:09+00", {}, WHEN),
    ("2014-12-06 16:05:09 +0200", {}, WHEN),
    ("2014-12-06T19:35:09+05:30", {"timezone": "America/New_York"}, WHEN),
    ("2014-12-06 09:05:09", {"timezone": "America/New_York"}, WHEN),
    ("2014-12-06 14", {}, WHEN.replace(minute=0, second=0)),
    ("2014-12-06T14:05", {}, WHEN.replace(second=0)),
    ("2014-12-06", {}, datetime(2014, 12, 6)),
    ("20141206", {"format": "yyyyMMdd"}, datetime(2014, 12, 6)),
    ("20141206140509", {"format": "yyyyMMddHHmmss"}, WHEN),
    ("20141206T140509Z", {"format": "yyyyMMdd'T'HHmmssX"}, WHEN),
    ("2014/12/06 14:05", {"format": "yyyy/M/d HH:mm"}, WHEN.replace(second=0)),
    ("06.12.2014 15:05:09", {"format": "dd.MM.yyyy HH:mm:ss", "timezone": "Europe/Berlin"}, WHEN),
    ("12/6/2014 2:05:09 PM", {"format": "M/d/yyyy h:mm:ss a"}, WHEN),
    ("12/6/14 14:05", {"format": "M/d/yy H:mm"}, WHEN.replace(second=0)),
    ("06-Dec-2014 14:05:09", {"format": "dd-MMM-yyyy HH:mm:ss"}, WHEN),
    ("12 06, 2014", {"format": "MM d, yyyy"}, datetime(2014, 12, 6)),
    ("2014-12-06 14:05:09,250", {"format": "yyyy-MM-dd HH:mm:ss,SSS"}, WHEN.replace(microsecond=250_000)),
    ("Sat Dec 06 07:05:09 -0700 2014", {"format": "EEE MMM dd HH:mm:ss Z yyyy"}, WHEN),
    ("Sat, 06 Dec 2014 07:05:09 -0700", {"format": "EEE, d MMM yyyy HH:mm:ss Z"}, WHEN),
    ("Sat, 06 Dec 2014 14:05:09 GMT", {"format": "EEE, dd MMM yyyy HH:mm:ss z"}, WHEN),
    ("Saturday 6 December 2014 14:05", {"format": "EEEE d MMMM yyyy HH:mm"}, WHEN.replace(second=0)),
    ("2014-12-06 14:05 Sat", {"format": "yyyy-MM-dd HH:mm EEE"}, WHEN.replace(second=0)),
    ("[06/Dec/2014:07:05:09 -0700]", {"format": "'['dd/MMM/yyyy:HH:mm:ss Z']'"}, WHEN),
    ("1417874709", {"unit": "seconds"}, WHEN),
    ("1417874709.25", {"unit": "seconds"}, WHEN.replace(microsecond=250_000)),
    ("1.417874709E9", {"unit": "seconds"}, WHEN),
    ("1417874709250", {"unit": "milliseconds"}, WHEN.replace(microsecond=250_000)),
    ("1417874709123457", {"unit": "microseconds"}, WHEN.replace(microsecond=123_457)),
    ("1417874709123457999", {"unit": "nanoseconds"}, WHEN.replace(microsecond=123_457)),
    ("16410", {"unit": "days"}, datetime(2014, 12, 6)),
    ("125", {"unit": "minutes", "origin": "2014-12-06 12:00:09"}, WHEN),
    ("3", {"unit": "days", "origin": "2014-12-03"}, datetime(2014, 12, 6)),
    ("02", {"unit": "weeks", "origin": "2014-11-22"}, datetime(2014, 12, 6)),
    ("829", {"format": "Mdd", "year": 2014}, datetime(2014, 8, 29)),
    ("1206", {"format": "Mdd", "year": 2014}, datetime(2014, 12, 6)),
    ("Sat 06 Dec 09:05:09", {"format": "EEE dd MMM HH:mm:ss", "year": 2014, "timezone": "America/New_York"}, WHEN),
    ("02-29", {"format": "MM-dd", "year": 2016}, datetime(2016, 2, 29)),
    ("02-29", {"format": "MM-dd", "year": 2014}, None),
    ("2014-12-06|14:05:09", {"clock": "clock"}, WHEN),
    ("06/12/2014|2:05 PM", {"format": "dd/MM/yyyy h:mm a", "clock": "clock"}, WHEN.replace(second=0)),
    ("2014-12-06|50709250", {"clock": "clock", "clock_unit": "milliseconds"}, WHEN.replace(microsecond=250_000)),
    ("Wednesday morning", {"format": "EEEE d MMMM yyyy HH:mm"}, None),
    ("2014-12-06 14:05:09", {"unit": "seconds"}, None),
    ("nan", {"unit": "nanoseconds"}, None),
    ("1e400", {"unit": "nanoseconds"}, None),
]


def test_usual_spellings_of_times(spark):
    fields, texts = [], {}
    for number, (text, how, _) in enumerate(TIMES):
        texts[f"t{number}"], _, texts[f"c{number}"] = text.partition("|")
        clock = {"clock": f"c{number}"} if "clock" in how else {}
        fields.append(TimeMapping(column=f"t{number}", **how | clock))
    rows = spark.createDataFrame([texts])
    (found,) = rows.select(*(mapped_time(field, is_typed=False).alias(field.column) for field in fields)).collect()
    assert [(text, found[f"t{n}"]) for n, (text, _, _) in enumerate(TIMES)] == [(text, when) for text, _, when in TIMES]
    alone = [(field, *TIMES[n]) for n, field in enumerate(fields) if field.clock is None]
    for field, text, _, when in alone:  # as previews read them
        previewed = reader(field)(text)
        assert previewed == when or abs(previewed - when.replace(tzinfo=UTC)) < timedelta(milliseconds=1), text


def test_formats_that_spark_refuses_are_refused_in_the_config(spark, tmp_path):
    """Also checks that Spark accepts all other formats, for every letter and length."""
    refused = ["F", "q", "Q", "Y", "w", "W", "u", "e", "c", "n", "N", "A", "B", "p", "MMMMM", "ddd", "HHH", "aa", "V"]
    refused += ["OO", "GGGGG", "yyyyyyy", "SSSSSSSSSS", "[yyyy", "yyyy]", "{yyyy}", "yyyy#", "'T'", ""]
    assert [pattern for pattern in refused if not problem_of(pattern)] == []
    letters = [letter * times for letter in "GyMLdDaHkKhmsSVzOXxZEFqQYwWue" for times in range(1, 11)]
    accepted = [pattern for pattern in letters if not problem_of(pattern)]
    for pattern in accepted:
        spark.range(1).selectExpr(f"try_to_timestamp('x', '{pattern.replace('E', '')}')").collect() if pattern.strip(
            "E"
        ) else None
    with pytest.raises(ConfigError, match="F is week of a month"):
        log(tmp_path, "a", {"a": ""}, {"event_ts": column("t", format="yyyy-MM-F")})


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])  # read by Spark, and in Python
def test_a_path_tells_the_same_of_few_files_as_of_many(spark, tmp_path, monkeypatch, encoding):
    places = ["shop=a b/1+2.csv", "shop=100%25/c d.csv", "shop=__HIVE_DEFAULT_PARTITION__/ü.csv"]
    for number, place in enumerate(places):
        file = tmp_path / "logs" / place
        file.parent.mkdir(parents=True)
        file.write_text(f"user,item,time,name\nu{number},i,{NOON},A\n", encoding)
    config = make_config(tmp_path, {"category": {"column": "shop"}}, files="*/*.csv", encoding=encoding)
    settings, paths = config.ingest, [str(tmp_path / "logs" / place) for place in places]
    lines = text_lines(spark, settings, check_file(paths[0], settings, 1 << 20), paths)
    assert {row["_path"] for row in lines.collect()} == set(urls_of(lines, paths))
    few = {row.user_id: (row.source_file, row.category) for row in read_events(spark, config).collect()}
    monkeypatch.setattr("learn_spark.ingest.files.FEW_FILES", 0)
    many = {row.user_id: (row.source_file, row.category) for row in read_events(spark, config).collect()}
    assert few == many == {"u0": ("1+2.csv", "a b"), "u1": ("c d.csv", "100%"), "u2": ("ü.csv", None)}
