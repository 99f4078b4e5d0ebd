"""Whatever bytes a file holds, each of its lines ends in interactions, in rejects, or as a counted duplicate."""

import json
import re
import tempfile
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learn_spark.ingest.deliveries import DUPLICATE
from learn_spark.ingest.job import ingest_events
from learn_spark.lake.days import DayRange
from tests.builders.contexts import make_context
from tests.builders.ingest import NOON, make_config

pytestmark = [pytest.mark.spark, pytest.mark.long]

EXAMPLES = 2 if settings.get_current_profile_name() == "ci" else 30
NAMES = ("user", "item", "time", "name")
BLANK = bytes(range(0x21))  # bytes that Java's `trim` removes
BOM = b"\xef\xbb\xbf"
ODD = [
    '"',
    '""',
    "\\",
    ",",
    "\t",
    "\x00",
    "\x0b",
    "\x1f",
    "\u0085",
    "\u2028",
    "\ufeff",
    "\ufffd",
    "\U0001f600",
    "e\u0301",
]
FAR = ["1e400", "-0", "NaN", "٣", "9" * 400, "0x10", "", " ", "null", "1,5", str(NOON * 1000), str(NOON * 10**9)]
HUGE = [b"," * 30_000, b"[" * 3000, b'{"user":' * 3000, b'"' * 5000, b"x" * 200_000, b'{"user": ' + b"9" * 3000 + b"}"]

words = st.sampled_from(["u", "i", "A thing", *ODD, *FAR]) | st.text(max_size=5)
times = st.sampled_from([str(NOON), str(NOON), str(NOON + 1), *FAR])
fields = st.tuples(words, words, times, words)
csv_lines = fields.map(lambda values: ",".join(values).encode("utf-8", "surrogatepass"))
json_lines = fields.map(lambda values: json.dumps(dict(zip(NAMES, values, strict=True))).encode())
any_bytes = st.binary(max_size=20) | st.sampled_from(HUGE)


@st.composite
def damaged(draw, lines):
    """A line with some of its bytes cut out, doubled or replaced."""
    line, at = draw(lines), draw(st.integers(0, 40))
    return line[:at] + draw(st.binary(max_size=3)) + line[at + draw(st.integers(-3, 3)) :]


def files(lines):
    one = st.one_of(lines, lines, damaged(lines), any_bytes)
    end = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r", b"\n\n"])
    return st.lists(st.lists(st.tuples(one, end).map(b"".join), max_size=8).map(b"".join), min_size=12, max_size=12)


def lines_in(content):
    """The number of nonblank lines for a reader that ends lines at CR, LF or both."""
    return sum(bool(line.strip(BLANK)) for line in re.split(rb"\r\n|\n|\r", content.removeprefix(BOM)))


@pytest.mark.parametrize(
    ("form", "lines", "header"),
    [
        ("csv", csv_lines, ",".join(NAMES).encode() + b"\n"),
        ("json", json_lines, json.dumps(dict.fromkeys(NAMES, "x")).encode() + b"\n"),
    ],
)
def test_no_line_is_lost(spark, form, lines, header):
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(contents=files(lines))
    def check(contents):
        with tempfile.TemporaryDirectory() as folder:
            contents = {f"{number}.{form}": header + content for number, content in enumerate(contents)}
            expected = {name: lines_in(content) - (form == "csv") for name, content in contents.items()}
            (Path(folder) / "logs").mkdir()
            for name, content in contents.items():
                (Path(folder) / "logs" / name).write_bytes(content)
            config = make_config(Path(folder), format=form, files=f"*.{form}", start="2024-01-01")
            ends_accounted(make_context(spark, config), expected, contents)

    check()


def ends_accounted(context, expected, contents):
    result = ingest_events(context, list(DayRange(context.config.ingest.start, date.today() + timedelta(days=3))))
    rejects = Counter(row.source_file for row in context.tables.read("rejects").collect())
    kept = Counter(row.source_file for row in context.tables.read("interactions").collect())
    gone = result.details["duplicates"]
    assert result.rows_in == sum(expected.values()), contents
    assert result.rows_out + sum(result.details["rejects"].values()) + gone == result.rows_in, contents
    assert (kept.total(), rejects.total()) == (result.rows_out, sum(result.details["rejects"].values())), contents
    assert DUPLICATE not in result.details["rejects"]
    found = kept + rejects
    assert all(found[name] <= expected[name] for name in contents), contents
