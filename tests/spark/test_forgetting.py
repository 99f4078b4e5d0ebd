"""Forgetting users and items: later deliveries, tables, artifacts, and what is told of it."""

from datetime import date

import pytest

from learn_spark.config.load import load_config
from learn_spark.ingest.job import ingest_events
from learn_spark.ingest.parse import FORGOTTEN
from learn_spark.lake.tombstones import ITEM, USER, add_tombstones, hash_of
from tests.builders.contexts import make_context
from tests.builders.logs import line, write_day
from tests.conftest import CONF

pytestmark = pytest.mark.spark

DAY = date(2011, 11, 1)
SALT = "salt of this lake"
GONE = {USER: ("17850", "a b@shop.example"), ITEM: ("85123A",)}


@pytest.fixture
def context(spark, tmp_path):
    places = [f"lake.root={tmp_path}/lake", f"output.dir={tmp_path}/out", f"ingest.path={tmp_path}/logs"]
    return make_context(spark, load_config(CONF / "test.yaml", places))


def test_lines_of_the_forgotten_are_counted_and_leave_nothing(context, tmp_path):
    """Ids that hold a forgotten one, or are held by one, stay; so do equal numbers in other columns."""
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
        line(CustomerID="", StockCode="85123A"),
        line(CustomerID="", StockCode="other"),
    ]
    write_day(tmp_path / "logs", str(DAY), [*kept, *gone, *odd])
    hashes = [(kind, hash_of(SALT, name)) for kind, names in GONE.items() for name in names]
    assert add_tombstones(context.tables, SALT, "r1", hashes) == 3
    assert add_tombstones(context.tables, SALT, "r2", hashes) == 0
    for _ in range(2):  # as of a redelivery
        result = ingest_events(context, [DAY])
        assert result.rows_out == len(kept)
        assert result.details["not_wanted"] == {FORGOTTEN: 6}
        assert result.details["rejects"] == {"unparsable time": 2, "missing user": 1}
        events = context.tables.read("interactions").collect()
        assert {row.user_id for row in events} == {"178500", "1785", "117850", "42", "43"}
        assert {row.item_id for row in context.tables.read("item_index").collect()} == {
            *("k1", "k2", "85123AB", "17850", "85123a")
        }
        raw = {row.raw for row in context.tables.read("rejects").collect()}
        assert len(raw) == 3 and None in raw, raw
        assert any("178501" in text for text in raw if text) and any("other" in text for text in raw if text)
