"""Day ranges: exclusive ends, holes, SQL."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learn_spark.errors import ConfigError
from learn_spark.lake.days import DayRange, contiguous, days_predicate


def test_the_end_is_exclusive():
    days = DayRange(date(2011, 12, 30), date(2012, 1, 2))
    assert list(days) == [date(2011, 12, 30), date(2011, 12, 31), date(2012, 1, 1)]
    assert len(days) == 3
    assert date(2012, 1, 2) not in days
    assert str(days) == "2011-12-30 .. 2012-01-01"


def test_an_end_before_the_start_is_refused():
    with pytest.raises(ConfigError, match="must come before"):
        DayRange(date(2011, 1, 2), date(2011, 1, 2))


@given(st.lists(st.dates(date(2011, 1, 1), date(2011, 3, 1))))
def test_contiguous_holds_exactly_the_days(days):
    spans = contiguous(days)
    assert [day for span in spans for day in span] == sorted(set(days))
    assert all(a.end < b.start for a, b in zip(spans, spans[1:], strict=False))


def test_no_day_selects_nothing():
    assert days_predicate("ds", []) == "FALSE"
