"""A wrong ingest section gives an error of one line that names the key; which files belong to which day."""

import bz2
import gzip
import os
import re
import tracemalloc
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from learn_spark.config.load import load_config
from learn_spark.config.sources import SourceSettings
from learn_spark.errors import ConfigError, QualityError
from learn_spark.ingest.check import check_file, csv_fields
from learn_spark.ingest.delivery_gates import stop_above_reject_share, thin_days
from learn_spark.ingest.fields import separator_pattern
from learn_spark.ingest.files import SourceFiles, catalogue_files, day_pattern, source_files
from learn_spark.ingest.line_counts import Lines
from learn_spark.ingest.readers import check_headers
from tests.builders.ingest import FIELDS, make_config
from tests.conftest import CONF

READY = sorted(path.stem for path in CONF.glob("*.yaml"))
TIME = {"column": "t"}


@pytest.mark.parametrize("name", READY)
def test_every_shipped_config_is_valid(name):
    assert load_config(CONF / f"{name}.yaml").ingest.mapping.source_columns()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("user_id", {}, "`ingest.mapping.user_id`: give one of `column`, `constant`"),
        ("user_id", {"column": "a", "constant": "b"}, "give one of"),
        ("user_id", {"column": "a", "flags": {"b": "c"}}, "unknown key `ingest.mapping.user_id.flags`"),
        ("user_id", {"column": "a", "unit": "seconds"}, "unknown key `ingest.mapping.user_id.unit`"),
        ("user_id", {"column": "a", "sql": "upper(a)"}, "unknown key `ingest.mapping.user_id.sql`"),
        ("user_id", {"constant": "a", "map": {"b": "c"}}, "`map` works on a `column`"),
        ("user_id", {"column": "source_file"}, "cannot be called `source_file`"),
        ("user_id", {"column": "ITEM"}, "differ only in case"),
        ("item_id", None, "key `ingest.mapping.item_id` is missing"),
        ("event_ts", TIME | {"unit": "seconds", "format": "yyyy"}, "either `format`"),
        ("event_ts", TIME | {"unit": "years"}, "`ingest.mapping.event_ts.unit`"),
        (
            "event_ts",
            TIME | {"format": "yyyy-MM-dd", "year": 2014},
            "`year` is that of times whose `format` names none",
        ),
        ("event_ts", TIME | {"unit": "days", "year": 2014}, "`year` is that of times whose `format` names none"),
        ("event_ts", TIME | {"unit": "seconds", "timezone": "Europe/Paris"}, "`timezone` says nothing"),
        (
            "event_ts",
            TIME | {"timezone": "Mars/Base"},
            "`ingest.mapping.event_ts.timezone`: 'Mars/Base' is no time zone",
        ),
        ("event_ts", TIME | {"timezone": "../../etc/passwd"}, "is no time zone"),
        ("event_ts", TIME | {"format": "yyyy-MM-dd jj"}, "is not a datetime pattern"),
        ("event_ts", TIME | {"format": "yyyy-MM-dd'T"}, "is not a datetime pattern"),
        ("event_ts", TIME | {"format": "yyyy-MM-ddXXX", "timezone": "Europe/Paris"}, "holds the zone already"),
        ("event_type", {"constant": "veiw"}, "mapping.event_type gives ['veiw']"),
        ("event_type", {"column": "k", "map": {"a": "x"}, "default": "purchase"}, "gives ['x']"),
        ("event_type", {"flags": {"is_x": "x"}, "always": "purchase"}, "gives ['x']"),
        ("event_type", {"column": "k", "always": "purchase"}, "`always` stands beside `flags`"),
        ("event_type", {"column": "k", "map": {"a": "purchase"}, "by_prefix": {"b": "purchase"}}, "either `map`"),
        (
            "event_type",
            {"column": "k", "ignore": ["purchase"]},
            "ignore names ['purchase'], which map or event_types want",
        ),
        ("event_type", {"column": "k", "map": {"p": "purchase"}, "ignore": ["p"]}, "ignore names ['p']"),
        ("event_type", {"constant": "purchase", "ignore": ["x"]}, "`ignore` works on a `column`"),
        ("event_id", {"columns": []}, "`ingest.mapping.event_id.columns`"),
        ("value", {"column": "v", "list": "json"}, "unknown key `ingest.mapping.value.list`"),
        ("title", {"constant": "a", "list": "json"}, "`list` works on a `column`"),
        ("title", None, "mapping.title is missing"),
    ],
)
def test_a_wrong_mapping_is_named(tmp_path, field, value, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_config(tmp_path, {field: value})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "delta"}, "`files` must be null with format delta"),
        ({"files": None}, "`files` is missing"),
        ({"files": "/logs/{day}.csv"}, "must be relative"),
        ({"files": "{date}.csv"}, "only {day}, * and ? match"),
        ({"files": "{day:%d}.csv"}, "write a day as {day}"),
        ({"files": "{day:%Y%m%d%H}.csv"}, "write a day as {day}"),
        ({"format": "json", "columns": ["a"]}, "`columns` names those of a csv"),
        ({"format": "parquet", "encoding": "iso-8859-1"}, "`encoding` must be utf-8"),
        ({"encoding": "klingon"}, "`ingest.encoding`: 'klingon' is no encoding"),
        ({"encoding": "base64"}, "`ingest.encoding`: 'base64' is no encoding"),
        ({"format": "json", "quote": "'"}, "`quote` is a matter of csv"),
        ({"escape": "/"}, "`escape` '/' must be"),
        ({"delimiter": ";", "comment": ";"}, "must differ"),
        ({"quote": None, "multiline": True}, "`multiline` is about values in quotes"),
        ({"explode": {"columns": ["item"], "pattern": "(.+)"}}, "names no group"),
        ({"explode": {"columns": ["item"], "pattern": "(?P<a"}}, "no regular expression"),
        (
            {"sources": [{"files": "{day}.csv"}, {"files": "b.csv"}]},
            "`sources`: either the `files` of all name a {day}",
        ),
        ({"sources": [{"files": "a.csv", "mapping": {}}]}, "key `ingest.sources.0.mapping.user_id` is missing"),
        ({"sources": [{"event_types": ["a"]}]}, "unknown key `ingest.sources.0.event_types`"),
        ({"columns": ["user", "user"]}, "names a column twice"),
        ({"columns": ["user", "item"]}, "mapping names ['time', 'name']"),
        ({"format": "avro"}, "`ingest.format`"),
        ({"late_days": -1}, "`ingest.late_days`"),
        ({"timezone": "Mars/Base"}, "`ingest.timezone`: 'Mars/Base' is no time zone; write one as Europe/London"),
        ({"files": "*.csv", "timezone": "Asia/Tokyo"}, "`files` names no {day}"),
        ({"gates": {"empty_day": "fail"}}, "`ingest.gates.empty_day`"),
        ({"gates": {"min_day_share": 5}}, "`ingest.gates.min_day_share`"),
        ({"event_types": []}, "`ingest.event_types`"),
        ({"where": {"user": []}}, "`ingest.where.user`"),
        ({"where": {"USER": ["1"]}}, "columns `user` and `USER` of `where` differ only in case"),
        ({"where": {"load_day": ["1"]}}, "a column of `where` cannot be called `load_day`"),
        ({"where": {"state": ["1"]}, "columns": ["user", "item", "time", "name"]}, "names ['state']"),
        ({"repeats": "some"}, "`ingest.repeats`"),
        ({"repeats": "keep", "mapping": FIELDS | {"event_id": {"columns": ["id"]}}}, "repeats is keep, but lines with"),
        ({"gates": {"min_catalogue_share": 2}}, "`ingest.gates.min_catalogue_share`"),
        ({"items": {"path": "x", "files": "a", "format": "csv"}}, "key `ingest.items.mapping` is missing"),
        ({"lookups": {"order": {"files": "o.csv"}}}, "key `ingest.lookups.order.by` is missing"),
        ({"lookups": {"a b": {"files": "o.csv", "by": "id"}}}, "`ingest.lookups.a b"),
        ({"lookups": {"order": {"files": "o.csv", "by": "id"}}}, "lookups.order is not used"),
        ({"lookups": {"order": {"by": "id"}}}, "`files` is missing"),
        (
            {"files": "a.csv", "lookups": {"order": {"files": "{day}.csv", "by": "id"}}, "where": {"order.x": ["1"]}},
            "lookups.order.files name a {day}, and those of the lines do not",
        ),
        (
            {
                "lookups": {"a": {"files": "a.csv", "by": "b.id"}, "b": {"files": "b.csv", "by": "id"}},
                "where": {"a.x": ["1"], "b.y": ["1"]},
            },
            "lookups.a.by is b.id, a column of another lookup",
        ),
        (
            {
                "columns": ["item", "time", "name"],
                "where": {"o.x": ["1"]},
                "lookups": {"o": {"files": "o", "by": "id"}},
            },
            "mapping names ['user', 'id']",
        ),
    ],
)
def test_a_wrong_source_is_named(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_config(tmp_path, **changes)


days = st.dates(date(1971, 1, 1), date(2099, 12, 31))
between = st.sampled_from(["", "-", "_", ".", "/"])


@given(
    day=days, order=st.permutations(["%Y", "%m", "%d"]), gap=between, frame=st.sampled_from(["{}", "x/{}*", "?a {}"])
)
def test_a_path_names_the_day_that_it_was_made_for(day, order, gap, frame):
    pattern = frame.replace("{}", "{day:" + gap.join(order) + "}.csv")
    settings = SourceSettings(path="/logs", files=pattern, format="csv")
    assert settings.by_day
    path = "/logs/" + pattern.format(day=day).replace("*", "-1").replace("?", "b")
    assert re.search(day_pattern(settings), path)[1] == day.strftime(gap.join(order))


@given(pattern=st.text("{day}:%YmdH-/.*a", max_size=12))
def test_any_other_pattern_is_refused_or_can_be_used(pattern):
    try:
        settings = SourceSettings(path="/logs", files=pattern, format="csv")
    except ValidationError:
        return
    re.compile(day_pattern(settings))
    assert "{" not in settings.files.format(day=date(2024, 1, 1), **dict.fromkeys(settings.path_parts(), "x"))


def test_a_day_is_made_from_the_deliveries_that_could_hold_its_events(tmp_path):
    logs = tmp_path / "logs"
    for number in range(1, 8):
        (logs / f"2024-01-0{number}").mkdir(parents=True)
        (logs / f"2024-01-0{number}" / "part.csv").write_text("x")
    items = {"path": str(logs), "files": "items.csv", "format": "csv"}
    items["mapping"] = {"item_id": {"column": "a"}, "title": {"column": "b"}}
    (logs / "items.csv").write_text("a,b\n")
    config = make_config(tmp_path, files="{day}/*.csv", late_days=2, items=items)

    seven = [date(2024, 1, day) for day in range(1, 8)]

    def changed_by(change, of=config):
        before = SourceFiles(of, {})
        change()
        after = SourceFiles(of, {})
        return [day.day for day in seven if before.identity(day) != after.identity(day)]

    assert changed_by(lambda: None) == []
    assert changed_by(lambda: os.utime(logs / "2024-01-03" / "part.csv", (1, 1))) == [3, 4, 5]
    assert changed_by(lambda: (logs / "2024-01-07" / "part.csv").write_text("longer")) == [7]
    assert changed_by(lambda: (logs / "2024-01-06" / "more.csv").write_text("x")) == [6, 7]
    assert changed_by(lambda: (logs / "2024-01-06" / "_more.csv").write_text("x")) == []
    assert changed_by(lambda: (logs / "2024-01-02" / "part.csv").rename(logs / "2024-01-01" / "b.csv")) == [1, 2, 3, 4]
    assert changed_by(lambda: (logs / "items.csv").write_text("a,b\n1,2\n")) == [1]
    undated = make_config(tmp_path, files="*/part.csv")
    assert changed_by(lambda: os.utime(logs / "2024-01-03" / "part.csv", (2, 2)), undated) == [1, 2, 3, 4, 5, 6, 7]


def test_files_that_are_gone_count_as_they_were_when_their_day_was_done(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(1, 5):
        (logs / f"2024-01-0{number}.csv").write_text("x")
    (logs / "items.csv").write_text("a,b\n")
    items = {"path": str(logs), "files": "items.csv", "format": "csv"}
    items["mapping"] = {"item_id": {"column": "a"}, "title": {"column": "b"}}
    config = make_config(tmp_path, files="{day}.csv", late_days=1, items=items)
    days = [date(2024, 1, number) for number in range(1, 5)]
    full = SourceFiles(config, {})
    recorded = {day: full.state(day) for day in days[:3]}
    for name in ("2024-01-01.csv", "2024-01-02.csv", "items.csv"):
        (logs / name).unlink()
    later = SourceFiles(config, recorded)
    assert [later.identity(day) for day in days] == [full.identity(day) for day in days]
    assert [later.state(day) for day in days[:3]] == list(recorded.values())
    assert SourceFiles(config, {}).identity(days[0]) != full.identity(days[0]), "nobody knows what it was"
    (logs / "2024-01-01.csv").write_text("another")
    assert SourceFiles(config, recorded).identity(days[0]) != full.identity(days[0])


def test_days_and_their_files(tmp_path):
    logs = tmp_path / "logs"
    first, second, far = date(2024, 1, 1), date(2024, 1, 2), date(2030, 1, 1)
    for name in ("2024-01-01/b.csv", "2024-01-01/a.csv", "2024-01-03/a.csv", "2024-01-99/a.csv", "day/a.csv"):
        (logs / name).parent.mkdir(parents=True, exist_ok=True)
        (logs / name).write_text("x")
    (logs / "2024-01-02" / "folder.csv").mkdir(parents=True)
    items = {"path": str(logs), "files": "{day}/a.csv", "format": "csv"}
    items["mapping"] = {"item_id": {"column": "a"}, "title": {"column": "b"}}
    settings = make_config(tmp_path, files="{day}/*.csv", items=items).ingest
    names = ["2024-01-01/a.csv", "2024-01-01/b.csv"]
    assert source_files(settings, [second, first, far]) == {first: [logs / name for name in names]}
    assert catalogue_files(settings, [first, second]) == {first: [logs / names[0]]}
    undated = make_config(tmp_path, files="2024*/a.csv").ingest
    everything = [logs / name for name in ("2024-01-01/a.csv", "2024-01-03/a.csv", "2024-01-99/a.csv")]
    assert source_files(undated, [second, far]) == {second: everything, far: everything}
    twice = make_config(tmp_path, files="{day}/log_{day}.csv").ingest
    for name in ("log_2024-01-01.csv", "log_2024-01-03.csv"):
        (logs / "2024-01-01" / name).write_text("x")
    assert source_files(twice, [first, date(2024, 1, 3)]) == {first: [logs / "2024-01-01" / "log_2024-01-01.csv"]}
    nowhere = make_config(tmp_path, files="{day}/*.tsv", items=items | {"files": "no.csv"}).ingest
    with pytest.raises(ConfigError, match=r"/logs/\{day\}/\*\.tsv on any day: check ingest\.path and files"):
        source_files(nowhere, [first])
    with pytest.raises(ConfigError, match=r"no\.csv on any day: check ingest\.items\.path and files"):
        catalogue_files(nowhere, [first])


def test_thin_days():
    usual = {date(2024, 1, 1) + timedelta(n): 1000 + n for n in range(7)}
    eighth, ninth = date(2024, 1, 8), date(2024, 1, 9)
    assert thin_days(usual | {eighth: 50}, [eighth], 0.05) == {eighth: 1003}
    assert thin_days(usual | {eighth: 51}, [eighth], 0.05) == {}
    assert thin_days(usual | {eighth: 9, ninth: 9}, [ninth, eighth], 0.05) == {eighth: 1003, ninth: 1002.5}
    assert thin_days(usual, [date(2024, 1, 7)], 0.9999) == {}  # six days are too few to judge by
    assert thin_days(usual | {(late := date(2024, 2, 5)): 1}, [late], 0.05) == {}  # too long ago
    assert thin_days(usual | {eighth: 0}, [eighth], 0.05) == {eighth: 1003}  # lines, but none usable


def test_the_shipped_logs_are_not_thin():
    config = load_config(CONF / "demo.yaml")
    events = {}
    for path in sorted(config.ingest.path.glob("*.csv.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            events[date.fromisoformat(path.name[:10])] = sum(1 for line in lines if line.split(",")[-2] != "") - 1
    assert len(events) == 305
    assert thin_days(events, events, config.ingest.gates.min_day_share) == {}
    assert thin_days(events, events, 5 * config.ingest.gates.min_day_share)


def test_what_a_file_is_found_to_be(tmp_path):
    settings = make_config(tmp_path).ingest
    path = tmp_path / "a.csv"
    for content, problem in ((b"", "empty file"), (b" \n\n", "empty file"), (b"a,\xff\n", "header is not utf-8")):
        path.write_bytes(content)
        assert check_file(str(path), settings, 1 << 20).problem.startswith(problem)
    packed = tmp_path / "a.csv.gz"
    whole = gzip.compress(b"".join(b"%d,%d\n" % (n, n * 7919) for n in range(5000)))
    damages = {"whole": whole, "truncated": whole[: len(whole) // 2], "crc": whole[:-8] + bytes(8), "empty": b""}
    for damage, content in damages.items():
        packed.write_bytes(content)
        wanted = {"whole": "", "empty": "empty file"}.get(damage, "corrupt file")
        assert check_file(str(packed), settings, 1 << 20).problem.split(":")[0] == wanted
    path.write_bytes(b'\xef\xbb\xbfa,"b, c"\r\n1,2\r\n')
    assert check_file(str(path), settings, 1 << 20).columns == ("a", "b, c")
    assert csv_fields('a::"b"::c\n', "::") == ["a", "b", "c"]


LIMIT = 1024


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("place", [0, 1, 500, 3000])
def test_a_line_that_is_too_long_is_named(tmp_path, end, place):
    """It is found wherever it is in the file; a line of exactly the limit is read."""
    settings, path = make_config(tmp_path).ingest, tmp_path / "a.csv"
    for length, problem in ((LIMIT, ""), (LIMIT + 1, "line too long")):
        lines = [b"a,b"] * place + [b"x" * length] + [b"c,d"] * 2000
        path.write_bytes(end.join(lines))
        found = check_file(str(path), settings, LIMIT).problem
        assert found.split(":")[0] == problem
        assert not problem or f": line {place + 1:,} has 1,025 bytes" in found
        assert not problem or found.endswith(", more than the 1,024 of ingest.gates.max_line_bytes")
    path.write_bytes(b"a,b" + end + b"x" * (LIMIT + 1))  # without a line end
    assert check_file(str(path), settings, LIMIT).problem.startswith("line too long")


@pytest.mark.parametrize(("pack", "name"), [(gzip.compress, "a.csv.gz"), (bz2.compress, "a.csv.bz2")])
def test_a_bomb_is_read_up_to_the_limit(tmp_path, pack, name):
    (tmp_path / name).write_bytes(pack(bytes(100 << 20)))
    tracemalloc.start()
    try:
        problem = check_file(str(tmp_path / name), make_config(tmp_path).ingest, 1 << 20).problem
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert problem.startswith("line too long: line 1 has ")


@pytest.mark.parametrize("kind", ["string", "large_binary", "dictionary<values=string, indices=int32>"])
def test_a_parquet_value_that_is_too_long_is_named(tmp_path, kind):
    values = pa.array(["u", None, "x" * (LIMIT + 1)])
    values = values.dictionary_encode() if kind.startswith("dictionary") else values.cast(kind)
    pq.write_table(pa.table({"user": values, "item": [1, 2, 3]}), tmp_path / "a.parquet")
    settings = make_config(tmp_path, format="parquet", files="*.parquet").ingest
    assert check_file(str(tmp_path / "a.parquet"), settings, LIMIT + 1).problem == ""
    found = check_file(str(tmp_path / "a.parquet"), settings, LIMIT).problem
    assert found.startswith("value too long: 1,025 bytes in column user, more than")


def test_links_that_lead_nowhere_and_files_that_go_are_named(tmp_path, monkeypatch, caplog):
    settings = make_config(tmp_path, files="{day}/*.csv").ingest
    day = settings.path / "2024-02-01"
    day.mkdir(parents=True)
    (day / "good.csv").write_text("a,b\n")
    (day / "lost.csv").symlink_to("/nowhere/at/all.csv")
    (day / "circle.csv").symlink_to(day / "circle.csv")
    (day / "folder.csv").mkdir()
    os.mkfifo(day / "pipe.csv")
    (day / "gone.csv").write_text("a,b\n")
    real = os.stat

    def stat(path, **options):
        if str(path).endswith("gone.csv") and os.path.lexists(path):
            os.unlink(path)
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    (found,) = source_files(settings, [date(2024, 2, 1)]).values()
    monkeypatch.undo()
    assert [path.name for path in found] == ["circle.csv", "good.csv", "lost.csv"]
    assert "2024-02-01/gone.csv is gone since it was listed" in caplog.text
    problems = {path.name: check_file(str(path), settings, LIMIT).problem for path in found}
    assert problems["lost.csv"] == "unreadable file: No such file or directory"
    assert problems["circle.csv"].startswith("corrupt file: ") and problems["good.csv"] == ""


SEPARATORS = ("|", ",", ", ", " > ", " ", "\t", "  ", "\t|", "::", " |", "| ", "a", "||", ".", "\n")


@given(st.sampled_from(SEPARATORS), st.lists(st.sampled_from([*" \t\n|,>:ab.", "  ", " | "]), max_size=12).map("".join))
def test_lists_are_cut_as_by_the_plain_pattern(separator, text):
    plain = re.sub(rf"\s*{re.escape(separator)}\s*", ", ", text, flags=re.ASCII)
    assert re.sub(separator_pattern(separator), ", ", text, flags=re.ASCII) == plain


def test_the_documents_examples_are_valid(tmp_path):
    text = (CONF.parent / "docs" / "ingest.md").read_text(encoding="utf-8")
    examples = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    assert len(examples) == 7
    for example in examples:
        ingest = yaml.safe_load(example)["ingest"]
        config = make_config(tmp_path, **ingest)
        assert config.ingest.format == ingest.get("format", "csv")


@pytest.mark.parametrize(("between", "encoding"), [("\t", "utf-16"), (";", "utf-8"), ("|", "cp1251")])
def test_a_header_that_is_one_name_says_which_delimiter_it_seems_to_have(tmp_path, between, encoding):
    config = make_config(tmp_path, encoding=encoding)
    (tmp_path / "a.csv").write_text(between.join(["user", "item", "time", "name"]) + "\n", encoding)
    file = check_file(str(tmp_path / "a.csv"), config.ingest, 1 << 20)
    with pytest.raises(ConfigError, match=rf"has no column user.*: is its `delimiter` {re.escape(repr(between))}\?"):
        check_headers([file], config.ingest)


def test_too_many_rejects_name_the_way_out_of_the_most_frequent_reason():
    day = date(2024, 1, 1)
    counts = [Lines(day, reason, None, True, lines) for reason, lines in (("empty description", 3), ("no such", 2))]
    with pytest.raises(QualityError, match=r"5 of 5 lines .* most for `empty description` \(.*mapping\.title"):
        stop_above_reject_share(counts, 0.3)
    with pytest.raises(QualityError, match=r"most for `no such`; ingest\.gates"):
        stop_above_reject_share(counts[1:], 0.3)
