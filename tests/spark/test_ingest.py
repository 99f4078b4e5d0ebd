"""Every line of a log ends in interactions, in rejects with a reason, or as a counted duplicate."""

import gzip
import json
from datetime import UTC, date, datetime

import pytest

from learn_spark.config.ingest import IngestGates, IngestSettings
from learn_spark.config.load import load_config
from learn_spark.errors import ConfigError, QualityError
from learn_spark.ingest.items import write_items
from learn_spark.ingest.job import ingest_events
from learn_spark.lake.frames import with_dense_number, with_number_of_few
from learn_spark.lake.schemas import ITEMS
from tests.builders.contexts import make_context
from tests.builders.logs import HEADER, line, write_day
from tests.conftest import CONF

pytestmark = pytest.mark.spark

DAY = "2011-11-01"
ID = {"columns": ["InvoiceNo"]}


@pytest.fixture
def logs(tmp_path):
    return tmp_path / "logs"


@pytest.fixture
def context(spark, tmp_path, logs):
    config = load_config(
        CONF / "test.yaml",
        [f"lake.root={tmp_path}/lake", f"output.dir={tmp_path}/out", f"ingest.path={logs}"],
    )
    return make_context(spark, config)


def days_of(*texts):
    return [date.fromisoformat(text) for text in texts]


def changed(context, **settings):
    """A new context on the same lake with other ingest settings, as in another process."""
    ingest = IngestSettings.model_validate(context.config.ingest.model_dump() | settings)
    return make_context(context.spark, context.config.model_copy(update={"ingest": ingest}))


def test_every_bad_line_gets_its_reason(context, logs):
    good = line()
    bad = {
        "missing user": line(CustomerID="", StockCode="b1"),
        "missing item": line(StockCode=" "),
        "unparsable time": line(InvoiceDate="yesterday"),
        "time out of range": line(InvoiceDate="1970-01-01 00:00:00"),
        "time after the delivery's day": line(InvoiceDate="2011-11-02 08:26:00"),
        "empty description": line(Description="  "),
        "unparsable value": line(Quantity="six"),
        "bytes that are not utf-8": line(Description="caf\ufffd"),
    }
    cancelled = line(InvoiceNo="C536365", CustomerID="00042.0")
    write_day(logs, DAY, [good, good, cancelled, *bad.values()])
    result = ingest_events(context, days_of(DAY))
    assert result.details["rejects"] == dict.fromkeys(bad, 1)
    assert (result.rows_in, result.rows_out, result.details["duplicates"]) == (len(bad) + 3, 2, 1)
    events = {r.event_type: r for r in context.tables.read("interactions").collect()}
    assert set(events) == {"purchase", "cancel"}
    assert events["purchase"].user_id == "17850"
    assert events["cancel"].user_id == "00042"
    assert str(events["purchase"].ds) == DAY
    assert events["purchase"].value == 6.0
    rejects = {r.reason: r for r in context.tables.read("rejects").collect()}
    assert set(rejects) == set(bad)
    assert "yesterday" in rejects["unparsable time"].raw
    assert rejects["missing user"].source_file == f"{DAY}.csv.gz"


def test_malformed_lines_and_wrong_bytes_are_kept_as_rejects(context, logs):
    logs.mkdir()
    first = ",".join(HEADER)
    right = "1,a,A THING,1,2011-11-01 10:00:00,1.0,7.0,UK"
    with gzip.open(logs / f"{DAY}.csv.gz", "wb") as stream:
        stream.write(f"{first}\n{right}\n1,a,too few\n".encode())
        stream.write(b"2,b,CAF\xe9,1,2011-11-01 10:00:00,1.0,7.0,UK\n")
    result = ingest_events(context, days_of(DAY))
    assert result.details["rejects"] == {"malformed line": 1, "bytes that are not utf-8": 1}
    assert result.rows_out == 1


def test_columns_in_another_order_are_read_by_name(context, logs):
    write_day(logs, DAY, [line()])
    write_day(logs, "2011-11-02", [line(InvoiceDate="2011-11-02 09:00:00")], header=[*reversed(HEADER), "New"])
    result = ingest_events(context, days_of(DAY, "2011-11-02"))
    assert result.rows_out == 2
    assert result.details["unmapped_columns"] == ["Country", "New"]
    assert {r.item_id for r in context.tables.read("interactions").collect()} == {"85123A"}


def test_a_missing_column_stops_before_any_work(context, logs):
    write_day(logs, DAY, [line()], header=[name for name in HEADER if name != "CustomerID"])
    with pytest.raises(ConfigError, match=r"2011-11-01\.csv\.gz has no column CustomerID.*it has InvoiceNo"):
        ingest_events(context, days_of(DAY))
    assert context.tables.version("interactions") == 0


def test_no_file_names_the_pattern(context, logs):
    with pytest.raises(ConfigError, match=r"no file matches .*\{day\}\.csv\.gz on any day"):
        ingest_events(context, days_of(DAY))


def test_a_day_without_a_line_is_done_and_never_replaces_events(context, logs, caplog):
    """Holds for a single day and in a range, for a missing file and an empty one."""
    path = write_day(logs, DAY, [line()])
    alone = ingest_events(context, days_of("2011-11-05"))
    assert (alone.rows_in, alone.rows_out, alone.details["empty_days"]) == (0, 0, ["2011-11-05"])
    assert "warning: no line was delivered for 2011-11-05" in caplog.text
    assert ingest_events(context, days_of(DAY, "2011-11-05")).details["empty_days"] == ["2011-11-05"]
    with pytest.raises(QualityError, match=r"for 2011-11-05, and ingest\.gates\.empty_day is stop"):
        ingest_events(changed(context, gates={"max_reject_share": 0.9, "empty_day": "stop"}), days_of("2011-11-05"))
    write_day(logs, DAY, [])
    with pytest.raises(QualityError, match=r"2011-11-01: no line is left of deliveries that gave 1 events"):
        ingest_events(context, days_of(DAY))
    path.rename(logs / "2011-11-02.csv.gz")
    with pytest.raises(QualityError, match=r"2011-11-01: no line is left of deliveries that gave 1 events"):
        ingest_events(context, days_of(DAY, "2011-11-02"))
    assert context.tables.read("interactions").count() == 1


def test_a_thin_day_is_not_published(context, logs):
    days = days_of(*(f"2011-11-0{number}" for number in range(1, 9)))
    for day in days:
        lines = 1 if day == days[-1] else 30
        write_day(logs, str(day), [line(StockCode=str(n), InvoiceDate=f"{day} 10:00:00") for n in range(lines)])
    said = r"1 usable events of 2011-11-08, .* before it have 30; ingest\.gates\.min_day_share asks for 5%"
    ingest_events(context, days[:-1])
    with pytest.raises(QualityError, match=said):
        ingest_events(context, days[-1:])
    assert context.tables.read("interactions").where(f"load_day = '{days[-1]}'").count() == 0


def test_a_damaged_file_is_named_and_stops_the_job(context, logs):
    lines = [line(StockCode=str(n), Description=f"THING {n * 7919}") for n in range(500)]
    path = write_day(logs, DAY, lines)
    write_day(logs, "2011-11-02", [line(InvoiceDate="2011-11-02 09:00:00")])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(QualityError, match=rf"1 unreadable files.*{DAY}\.csv\.gz"):
        ingest_events(context, days_of(DAY, "2011-11-02"))
    assert context.tables.read("interactions").count() == 0
    (reject,) = context.tables.read("rejects").collect()
    assert reject.source_file == f"{DAY}.csv.gz"
    assert str(reject.ds) == DAY


def test_damaged_files_below_the_limit_are_left_out_and_counted(spark, context, logs):
    write_day(logs, DAY, [line()]).write_bytes(b"")
    write_day(logs, "2011-11-02", [line(InvoiceDate="2011-11-02 09:00:00")])
    settings = context.config.ingest.model_copy(update={"gates": IngestGates(max_reject_share=0.9, max_bad_files=1)})
    tolerant = make_context(spark, context.config.model_copy(update={"ingest": settings}))
    result = ingest_events(tolerant, days_of(DAY, "2011-11-02"))
    assert result.rows_out == 1
    assert json.dumps(result.details["bad_files"]).count("2011-11-01.csv.gz") == 1


def test_too_many_rejects_publish_nothing(context, logs):
    write_day(logs, DAY, [line(CustomerID="", StockCode=str(n)) for n in range(10)])
    with pytest.raises(QualityError, match=r"10 of 10 lines of 2011-11-01 .*`missing user`"):
        ingest_events(context, days_of(DAY))
    assert context.tables.read("interactions").count() == 0
    assert context.tables.read("rejects").count() == 10
    good = [line(StockCode=str(n), InvoiceDate="2011-11-02 09:00:00") for n in range(190)]
    write_day(logs, "2011-11-02", good)  # rejects are 5% of both days together, but all lines of the first day
    with pytest.raises(QualityError, match=r"10 of 10 lines of 2011-11-01 .*\(1 days above it\)"):
        ingest_events(context, days_of(DAY, "2011-11-02"))
    assert context.tables.read("interactions").count() == 0


def test_items_get_versions_and_stable_numbers(context, logs):
    write_day(logs, DAY, [line(StockCode="a", Description="OLD"), line(StockCode="b")])
    write_day(logs, "2011-11-03", [line(StockCode="a", Description="OLD", InvoiceDate="2011-11-03 09:00:00")])
    write_day(
        logs,
        "2011-11-02",
        [
            line(StockCode="a", Description="NEW", InvoiceDate="2011-11-02 09:00:00"),
            line(StockCode="c", InvoiceDate="2011-11-02 09:00:00"),
        ],
    )
    ingest_events(context, days_of(DAY))
    numbers = {r.item_id: r.item_idx for r in context.tables.read("item_index").collect()}
    assert sorted(numbers.values()) == [1, 2]
    ingest_events(context, days_of("2011-11-02", "2011-11-03"))
    ingest_events(context, days_of("2011-11-02", "2011-11-03"))
    versions = context.tables.read("items").orderBy("item_id", "valid_from").collect()
    assert [(v.item_id, v.title) for v in versions if v.item_id == "a"] == [("a", "OLD"), ("a", "NEW"), ("a", "OLD")]
    after = {r.item_id: r.item_idx for r in context.tables.read("item_index").collect()}
    assert after == numbers | {"c": 3}
    assert context.tables.read("interactions").count() == 5


def test_one_task_numbers_items_as_many_do(spark):
    rows = [(f"i{number}", date(2011, 11, 1 + number % 2)) for number in range(600)]
    items = spark.createDataFrame(rows, "item_id string, load_day date")
    few, many = (
        {row.item_id: row.number for row in numbered(items, ["item_id"], "number", 5, after=["load_day"]).collect()}
        for numbered in (with_number_of_few, with_dense_number)
    )
    assert few == many
    assert sorted(few.values()) == list(range(5, 605))


def test_a_night_takes_few_jobs_and_commits(context, logs):
    """Each job or commit costs a quarter of a second, however few lines there are."""
    write_day(logs, DAY, [line()])
    write_day(logs, "2011-11-02", [line(StockCode="new", InvoiceDate="2011-11-02 09:00:00"), line(StockCode="")])
    ingest_events(context, days_of(DAY))
    jobs, versions = num_jobs(context), context.tables.versions(WRITTEN)
    ingest_events(context, days_of("2011-11-02"))
    now = context.tables.versions(WRITTEN)
    assert num_jobs(context) - jobs <= 34
    assert {name: now[name] - versions[name] for name in WRITTEN} == dict.fromkeys(WRITTEN, 1)


WRITTEN = ("interactions", "rejects", "items", "item_index")


def num_jobs(context):
    return len(context.spark.sparkContext.statusTracker().getJobIdsForGroup())


def test_what_is_a_version_of_an_item(context):
    """A repeat is no new version. A return to an older name counts once its day is loaded after the day in between."""

    def load(day, title, since=None):
        at = datetime(2011, 11, since or day, 9, tzinfo=UTC)
        said = [("a", at, title, None, None, None, None, None, date(2011, 11, day))]
        write_items(context.tables, context.spark.createDataFrame(said, ITEMS.columns_ddl), [date(2011, 11, day)])
        rows = context.tables.read("items").orderBy("valid_from").collect()
        return [(row.title, row.load_day.day) for row in rows]

    load(1, "OLD")
    load(3, "OLD")
    assert load(2, "NEW") == [("OLD", 1), ("NEW", 2)]
    assert load(4, "NEW", since=2) == [("OLD", 1), ("NEW", 2)]
    assert load(3, "OLD") == [("OLD", 1), ("NEW", 2), ("OLD", 3)]


def test_an_event_is_a_copy_on_its_own_day_only(context, logs):
    """Holds within a run and across runs: `a` is delivered again late; `b` has the id of `a`, but another day."""
    known = changed(context, mapping=context.config.ingest.model_dump()["mapping"] | {"event_id": ID})
    a = line(InvoiceNo="1", StockCode="a", InvoiceDate="2011-11-01 09:00:00")
    write_day(logs, DAY, [a, a])
    write_day(logs, "2011-11-02", [line(InvoiceNo="1", StockCode="b", InvoiceDate="2011-11-02 09:00:00"), a])
    ingest_events(known, days_of(DAY, "2011-11-02"))
    assert events(known) == [("a", DAY, DAY), ("b", "2011-11-02", "2011-11-02")]
    ingest_events(known, days_of("2011-11-02"))
    assert events(known) == [("a", DAY, DAY), ("b", "2011-11-02", "2011-11-02")]


def test_fewer_late_days_leave_nothing_behind(context, logs):
    late = line(StockCode="late", InvoiceDate="2011-11-01 10:00:00")
    write_day(logs, "2011-11-03", [line(InvoiceDate="2011-11-03 09:00:00"), late])
    for late_days, kept in ((2, 2), (0, 1)):
        ingest_events(changed(context, late_days=late_days), days_of("2011-11-03"))
        assert len(events(context)) == kept
    assert [row.reason for row in context.tables.read("rejects").collect()] == ["too late"]


@pytest.mark.parametrize(
    ("zone", "loads", "hours"),
    [
        (
            "America/New_York",
            2,
            {"2011-11-02 03:59:59": DAY, "2011-11-02 04:00:00": None, "2011-11-01 03:59:59": "late"},
        ),
        ("Asia/Shanghai", 1, {"2011-11-01 15:59:59": DAY, "2011-11-01 16:00:00": None, "2011-10-31 15:59:59": "late"}),
    ],
)
def test_deliveries_of_another_zone(context, logs, zone, loads, hours):
    """A delivery ends at its zone's midnight; its events keep their UTC day. Loading it again changes nothing."""
    write_day(logs, DAY, [line(StockCode=hour, InvoiceDate=hour) for hour in hours])
    abroad = changed(context, timezone=zone, late_days=0, start=date(2011, 10, 1))
    for _ in range(loads):
        ingest_events(abroad, days_of(DAY))
        on_time = [hour for hour, day in hours.items() if day == DAY]
        assert events(abroad) == [(hour, hour[:10], DAY) for hour in on_time]
        rejects = {row.reason for row in abroad.tables.read("rejects").collect()}
        assert rejects == {"time after the delivery's day", "too late"}


def events(context):
    rows = context.tables.read("interactions").collect()
    return sorted((row.item_id, str(row.ds), str(row.load_day)) for row in rows)


def test_new_columns_are_warned_of(context, logs, caplog):
    write_day(logs, DAY, [line()])
    write_day(logs, "2011-11-02", [line(InvoiceDate="2011-11-02 09:00:00")], header=[*HEADER, "Channel"])
    for day in days_of(DAY, "2011-11-02"):
        result = ingest_events(context, [day])
        context.ledger.record("ingest_events", {day: "fingerprint"}, "run", result, {}, {}, 0.0)
        said = caplog.text
        caplog.clear()
        assert ("new columns, which ingest.mapping does not use: Channel" in said) == (str(day) != DAY)
        assert "Country" not in said
