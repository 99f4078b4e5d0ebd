"""Lines that get columns from other files: orders for their lines, aisles for products."""

import json
from datetime import date, datetime

import pyarrow as pa
import pytest

from learn_spark.config.load import Config
from learn_spark.errors import ConfigError, QualityError
from learn_spark.ingest.catalogue import read_catalogue
from learn_spark.ingest.files import SourceFiles
from learn_spark.ingest.job import ingest_events
from tests.builders.contexts import make_context
from tests.builders.ingest import FIELDS, events_of_cases, make_config
from tests.builders.logs import write_files

pytestmark = pytest.mark.spark

ORDERS = "id,customer,at,state,note\n1,ann,2024-02-01 10:00:00,paid,x\n2,bob,2024-02-02 11:00:00,open,x\n"
MAPPING = FIELDS | {
    "user_id": {"column": "order.customer"},
    "item_id": {"column": "sku"},
    "event_ts": {"column": "order.at", "format": "yyyy-MM-dd HH:mm:ss"},
}
ORDER = {"order": {"files": "orders*", "by": "order", "key": "id"}}
AT = {1: datetime(2024, 2, 1, 10), 2: datetime(2024, 2, 2, 11)}


def shop(folder, name: str, held: dict[str, str | pa.Table], **ingest: object) -> Config:
    """A config of a log whose lines refer to orders in another file."""
    write_files(folder / name / "logs", held)
    given = {"files": "lines.csv", "lookups": ORDER} | ingest
    return make_config(folder / name, given.pop("mapping", MAPPING), **given)


def told(rows) -> list[tuple]:
    return sorted((row.user_id, row.item_id, row.event_ts, row.reason) for row in rows)


def test_a_line_has_the_columns_of_its_row(spark, tmp_path):
    lines = "order,sku,name\n1,a,A\n1,b,B\n2,a,A\n 2 ,c,C\n"
    known = {"lines.csv": lines, "orders.csv": ORDERS}
    orders = pa.table(
        {
            "id": pa.array([1.0, 2.0, None]),  # a column of numbers that one null made float
            "customer": pa.array([71, 72, 73]),
            "at": pa.array([AT[1], AT[2], None], pa.timestamp("us")),
            "state": ["paid", "open", ""],
        }
    )
    typed = {"order": {"files": "orders.parquet", "format": "parquet", "by": "order", "key": "id"}}
    objects = "\n".join(json.dumps({"order": n, "bag": [{"sku": "a"}, {"sku": "b"}], "name": "A"}) for n in (1, 2))
    bags = MAPPING | {"item_id": {"column": "bag.sku"}}
    cases = {
        "csv": shop(tmp_path, "csv", known),
        "paid": shop(tmp_path, "paid", known, where={"order.state": ["paid"]}),
        "typed": shop(tmp_path, "typed", {"lines.csv": lines, "orders.parquet": orders}, lookups=typed),
        "json": shop(
            tmp_path,
            "json",
            {"lines.json": objects, "orders.csv": ORDERS},
            **{"files": "lines.json", "format": "json", "explode": "bag", "mapping": bags},
        ),
        "two": shop(
            tmp_path,
            "two",
            known | {"places.csv": "order,town\n1,Rome\n2,Bonn\n"},
            lookups=ORDER | {"place": {"files": "places.csv", "by": "order"}},
            mapping=MAPPING | {"category": {"column": "place.town"}},
        ),
    }
    found = events_of_cases(spark, cases)
    whole = [("ann", "a", AT[1], None), ("ann", "b", AT[1], None), ("bob", "a", AT[2], None), ("bob", "c", AT[2], None)]
    assert told(found["csv"]) == whole
    assert [row[3] for row in told(found["paid"])] == [None, None, "left out by where", "left out by where"]
    assert told(found["typed"]) == [({"ann": "71", "bob": "72"}[user], *rest) for user, *rest in whole]
    assert told(found["json"]) == [
        (user, item, at, None) for user, at in (("ann", AT[1]), ("bob", AT[2])) for item in "ab"
    ]
    assert told(found["two"]) == whole
    assert {(row.user_id, row.category) for row in found["two"]} == {("ann", "Rome"), ("bob", "Bonn")}


def test_no_line_is_lost_or_doubled(spark, tmp_path):
    orders = ORDERS + ORDERS.splitlines()[1] + "\n3,cid,2024-02-03 10:00:00,paid,x\n3,dan,2024-02-03 10:00:00,paid,x\n"
    orders += ',eve,2024-02-03 10:00:00,paid,x\n4,"fay,2024-02-03 10:00:00,paid,x\n'
    lines = "order,sku,name\n1,a,A\n3,b,B\n4,c,C\n9,d,D\n,e,E\n"
    config = shop(tmp_path, "shop", {"lines.csv": lines, "orders.csv": orders})
    context = make_context(spark, config)
    result = ingest_events(context, [date(2024, 2, day) for day in (1, 2, 3)] + [config.ingest.start])
    events = context.tables.read("interactions").select("user_id", "item_id").collect()
    assert [tuple(row) for row in events] == [("ann", "a")]
    rejects = context.tables.read("rejects").select("reason", "source_file").collect()
    assert sorted(tuple(row) for row in rejects) == [
        ("malformed line", "orders.csv"),
        ("missing id", "orders.csv"),
        ("no row of order", "lines.csv"),
        ("no row of order", "lines.csv"),
        ("no row of order", "lines.csv"),
        ("several rows of order", "lines.csv"),
    ]
    assert result.details["rejects"] == {"no row of order": 3, "several rows of order": 1}


def test_too_many_lines_without_a_row_stop_the_day(spark, tmp_path):
    held = {"lines.csv": "order,sku,name\n1,a,A\n8,a,A\n9,a,A\n", "orders.csv": ORDERS}
    config = shop(tmp_path, "shop", held, gates={"max_reject_share": 0.4})
    with pytest.raises(QualityError, match="no row of order"):
        ingest_events(make_context(spark, config), [date(2024, 2, 1), config.ingest.start])


def test_by_day_the_row_is_of_the_lines_own_delivery(spark, tmp_path):
    head = "id,customer,at,state,note\n"
    held = {
        "lines-2024-02-01.csv": "order,sku,name\n1,a,A\n2,b,B\n",
        "orders-2024-02-01.csv": head + "1,ann,2024-02-01 10:00:00,paid,x\n",
        "lines-2024-02-02.csv": "order,sku,name\n1,c,C\n2,d,D\n",
        "orders-2024-02-02.csv": head + "1,cid,2024-02-02 09:00:00,paid,x\n2,bob,2024-02-02 11:00:00,paid,x\n",
        "names.csv": "sku,name\na,Ax\nb,Bx\nc,Cx\nd,Dx\n",
    }
    lookups = {
        "order": {"files": "orders-{day}.csv", "by": "order", "key": "id"},
        "names": {"files": "names.csv", "by": "sku"},
    }
    named = MAPPING | {"title": {"column": "names.name"}}
    days = [date(2024, 2, 1), date(2024, 2, 2)]

    def loaded(name, *runs):
        config = shop(tmp_path, name, held, files="lines-{day}.csv", lookups=lookups, mapping=named)
        context = make_context(spark, config)
        for run in runs:
            ingest_events(context, run)
        rows = context.tables.read("interactions").select("user_id", "item_id", "event_ts", "ds").collect()
        return (
            config,
            sorted(tuple(row) for row in rows),
            context.tables.read("rejects").select("reason", "ds").collect(),
        )

    config, at_once, rejects = loaded("at_once", days)
    assert [row[:2] for row in at_once] == [("ann", "a"), ("bob", "d"), ("cid", "c")]
    assert [tuple(row) for row in rejects] == [("no row of order", days[0])]
    assert loaded("nightly", days[:1], days[1:])[1:] == (at_once, rejects)

    before = SourceFiles(config, {}).identity(days[0]), SourceFiles(config, {}).identity(days[1])
    logs = config.ingest.path
    (logs / "names.csv").write_text("sku,name\na,Other\n")  # a file that all days share belongs to no single day
    assert (SourceFiles(config, {}).identity(days[0]), SourceFiles(config, {}).identity(days[1])) == before
    (logs / "orders-2024-02-02.csv").write_text(head)
    assert SourceFiles(config, {}).identity(days[0]) == before[0]
    assert SourceFiles(config, {}).identity(days[1]) != before[1]


def test_a_catalogue_has_lookups_too(spark, tmp_path):
    held = {
        "lines.csv": "order,sku\n1,a\n1,b\n",
        "orders.csv": ORDERS,
        "items.csv": "sku,name,aisle\na,A,7\nb,B,8\n",
        "aisles.csv": "aisle,called\n7,tea\n",
    }
    items = {
        "path": str(tmp_path / "shop" / "logs"),
        "files": "items.csv",
        "format": "csv",
        "lookups": {"aisle": {"files": "aisles.csv", "by": "aisle"}},
        "mapping": {
            "item_id": {"column": "sku"},
            "title": {"column": "name"},
            "category": {"column": "aisle.called"},
        },
    }
    config = shop(tmp_path, "shop", held, items=items, mapping=MAPPING | {"title": None})
    read = read_catalogue(spark, config.ingest, [config.ingest.start])
    rows = read.lines.select("item_id", "title", "category", "reason").collect()
    assert sorted(map(tuple, rows)) == [("a", "A", "tea", None), ("b", "B", None, "no row of aisle")]


@pytest.mark.parametrize(
    ("lookups", "said"),
    [
        ({"order": {"files": "orders.csv", "by": "order"}}, r"orders\.csv has no column order, which `lookups`"),
        ({"order": {"files": "orders.csv", "by": "basket", "key": "id"}}, r"lines\.csv has no column basket"),
        ({"order": {"files": "nothing.csv", "by": "order", "key": "id"}}, "no file matches .*check lookups.path"),
    ],
)
def test_what_cannot_be_looked_up_is_named(spark, tmp_path, lookups, said):
    held = {"lines.csv": "order,sku,name\n1,a,A\n", "orders.csv": ORDERS}
    with pytest.raises(ConfigError, match=said):
        ingest_events(make_context(spark, shop(tmp_path, "shop", held, lookups=lookups)), [date(2024, 2, 1)])
