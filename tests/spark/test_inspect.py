"""`learn-spark inspect`: the config that it proposes for unknown files is valid and ingests them."""

import gzip
import json
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learn_spark.cli.main import main
from learn_spark.config.load import load_config
from learn_spark.config.mapping import TimeMapping
from learn_spark.config.sources import SourceSettings
from learn_spark.ingest.fields import mapped_time
from learn_spark.ingest.files import source_files
from learn_spark.inspect.folder import look_at
from learn_spark.inspect.spellings import spelling
from tests.builders.commands import run_here
from tests.builders.field_logs import SPELLINGS, field_events, write_lines, write_table
from tests.builders.ingest import read_events

START = date(2024, 1, 1)
DAYS = [START + timedelta(n) for n in range(40)]
DAYS_IN_NAMES = [date(2023, 12, 31), *DAYS]
EVENTS = [
    (f"u{(n + more) % 7}", f"i{(n + 2 * more) % 5}", day, ["view", "purchase"][(n + more) % 2])
    for n, day in enumerate(DAYS)
    for more in range(4)
]


def write_csv(folder):
    for day in DAYS:
        own = [event for event in EVENTS if event[2] == day]
        rows = "".join(f"{kind};{item};Ä {item};{user};{day:%d.%m.%Y} 10:30\n" for user, item, _, kind in own)
        path = folder / f"{day:%Y}" / f"log_{day:%Y%m%d}_0.csv.gz"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(gzip.compress(f"action;sku;name;customer;time\n{rows}".encode("cp1252")))


def write_json(folder):
    lines = [
        {
            "user_id": 1_300_000_000 + int(user[1:]),  # as a time in seconds might be
            "parent_asin": item,
            "timestamp": milliseconds(day),
            "title": f"Ä {item}",
            "more": [1],
        }
        for user, item, day, _ in EVENTS
    ]
    (folder / "part-0.jsonl").write_text("\n".join(json.dumps(line) for line in [*lines, {"user_id": None}]))


def write_parquet(folder):
    rows = [
        {"uid": f"{user[1:]}.0", "video_id": item, "ts": datetime(day.year, day.month, day.day, 10, 30, tzinfo=UTC)}
        | {"is_click": int(kind == "view"), "is_like": 1, "description": item}
        for user, item, day, kind in EVENTS
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "log.parquet")


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (
            ["ds=2024-01-01/part-00000-0f8fad5b-d9cb-469f-a165-70867728950e.snappy.csv"],
            "ds={day}/part-*-*.snappy.csv",
        ),
        (["2023/2023_12_31.tsv.bz2", "2024/2024_01_01.tsv.bz2", "2024/README.md"], "*/{day:%Y_%m_%d}.tsv.bz2"),
        (["a 20240101.csv", "a 20240199.csv", "a 20240102.csv"], "a {day:%Y%m%d}.csv"),
        (["one.log.csv.gz", "deep/two.csv.gz", "README.md", "_SUCCESS", ".hidden.csv.gz"], "**/*.csv.gz"),
        (["only.csv", "x.md"], "only.csv"),
        (["log_1.csv", "log_2.csv", "log_10.csv", "other.csv"], "log_*.csv"),
        (["view=a/x.csv", "view=b/y.csv", "items.csv"], "view=*/*.csv"),
    ],
)
def test_the_pattern_of_files(tmp_path, names, files):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        columns = "id,title\n1,2\n" if name in ("other.csv", "items.csv") else "user,item,time\n" + "a,b,c\n" * 9
        (tmp_path / name).write_text(columns)
    table = look_at(tmp_path).tables[0]
    assert (table.folder, table.files) == (tmp_path, files)
    settings = SourceSettings(path=table.folder, files=table.files, format="csv")
    found = source_files(settings, DAYS_IN_NAMES)
    assert {path for day in found for path in found[day]} == set(table.paths)


def milliseconds(day):
    return int(datetime(day.year, day.month, day.day, 10, 30, tzinfo=UTC).timestamp() * 1000)


def inspect(tmp_path, capsys, write):
    folder = tmp_path / "logs"
    folder.mkdir()
    write(folder)
    out = tmp_path / "first.yaml"
    code = main(["inspect", "--path", str(folder), "--out", str(out)])
    said = capsys.readouterr().err
    assert code == 0, said
    return load_config(out), said


@pytest.mark.spark
def test_ingest_reads_every_spelling_as_inspect_does(spark):
    """Reads all spellings in one frame, one column per spelling, with the options that inspect proposes."""
    times = [event.time for event in field_events(40)]
    columns = {name: [str(spell(time)) for time in times] for name, spell in SPELLINGS.items()}
    found = {name: spelling(values) for name, values in columns.items()}
    frame = spark.createDataFrame(list(zip(*columns.values(), strict=True)), [f"c{n}" for n in range(len(columns))])
    fields = [TimeMapping(column=f"c{n}", **how.options) for n, how in enumerate(found.values())]
    read = frame.select(
        *(mapped_time(field, is_typed=False).alias(f"c{n}") for n, field in enumerate(fields))
    ).collect()
    for n, (name, values) in enumerate(columns.items()):
        expected = [found[name].read(value).replace(tzinfo=None) for value in values]
        assert [row[n] for row in read] == expected, name


@pytest.mark.spark
@pytest.mark.parametrize("write", [write_csv, write_json, write_parquet])
def test_the_first_config_ingests_the_files(spark, tmp_path, capsys, write):
    config, said = inspect(tmp_path, capsys, write)
    rows = read_events(spark, config, *DAYS).collect()
    usable = [row for row in rows if row.reason is None]
    assert {row.event_ts for row in usable} == {datetime(day.year, day.month, day.day, 10, 30) for day in DAYS}
    assert config.windows.end == DAYS[-1] + timedelta(1)
    assert "event_ts is" in said
    mapping = config.ingest.mapping
    if write is write_csv:
        assert len(rows) == len(usable) == 160
        assert config.ingest.encoding == "cp1252"
        assert config.ingest.files == "*/log_{day:%Y%m%d}_*.csv.gz"
        assert (config.ingest.delimiter, mapping.event_ts.format) == (";", "d.M.yyyy H:mm")
        assert {(row.user_id, row.item_id, row.load_day, row.event_type) for row in usable} == set(EVENTS)
        assert config.sequences.target_events == ["purchase"]
        assert {row.title for row in usable} == {f"Ä i{n}" for n in range(5)}
    elif write is write_json:
        assert len(usable) == 160
        assert [row.reason for row in rows if row.reason] == ["missing user"]
        assert {row.user_id for row in usable} == {f"130000000{n}" for n in range(7)}
        assert (mapping.item_id.column, mapping.event_ts.unit) == ("parent_asin", "milliseconds")
        assert "more: [1]" in said
    else:
        assert {row.user_id for row in usable} == {str(n) for n in range(7)}
        assert sorted({row.event_type for row in usable}) == ["click", "impression", "like"]
        assert len(rows) == len(usable) == 160 + 80 + 160


@pytest.mark.spark
def test_init_leads_to_the_lake(spark, tmp_path, capsys):
    """Runs the real commands on a folder with a log and a catalogue: `init`, ingest, then a plan on the lake."""
    events, shop, out = field_events(300), tmp_path / "shop", tmp_path / "mine.yaml"
    rows = ((f"c{e.user}", f"{e.item:05}", f"{e.time:%b %d, %Y}", e.kind) for e in events)
    write_table(shop / "events.tsv", ("customer", "sku", "time", "action"), rows, sep="\t")
    items = ({"sku": f"{e.item:05}", "title": e.title} for e in {e.item: e for e in events}.values())
    write_lines(shop / "items.jsonl", items)
    assert main(["init", "--yes", "--path", str(shop), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "300 events of 30 users" in told and told.endswith(f"learn-spark run_pipeline --config {out}\n")
    done = run_here(tmp_path, "ingest_events", "--config", str(out))
    assert done.code == 0, done.err
    lake = tmp_path / "lake"
    found = spark.read.format("delta").load(str(lake / "interactions")).collect()
    expected = {(f"c{e.user}", f"{e.item:05}", e.time.date(), e.kind) for e in events}
    assert {(row.user_id, row.item_id, row.ds, row.event_type) for row in found} == expected
    titles = spark.read.format("delta").load(str(lake / "items")).select("item_id", "title").distinct().collect()
    assert {(row.item_id, row.title) for row in titles} == {(f"{e.item:05}", e.title) for e in events}
    assert spark.read.format("delta").load(str(lake / "rejects")).count() == 0
    plan = run_here(tmp_path, "run_pipeline", "--config", str(out), "--dry-run")
    assert plan.code == 0 and "ingest_events" not in plan.out and "1. build_sequences" in plan.out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n", "no column of times"),
        (None, "does not exist"),
    ],
)
def test_what_cannot_be_guessed_exits_2(tmp_path, capsys, content, said):
    path = tmp_path / "log.csv"
    if content is not None:
        path.write_bytes(content)
    assert main(["inspect", "--path", str(path)]) == 2
    assert said in capsys.readouterr().err


def test_a_short_log_without_header_to_stdout(tmp_path, capsys):
    (tmp_path / "log").write_bytes(
        "1::7::café::2024-01-01 10:00:00\n2::8::thé::2024-01-02 11:00:00\n".encode("latin-1")
    )
    assert main(["inspect", "--path", str(tmp_path / "log")]) == 2
    streams = capsys.readouterr()
    assert "events lie on 2 of 2 days (2024-01-01 .. 2024-01-02), and each range needs some" in streams.err
    (tmp_path / "first.yaml").write_text(streams.out)
    ingest = load_config(tmp_path / "first.yaml").ingest
    assert (ingest.delimiter, ingest.encoding, len(ingest.columns)) == ("::", "cp1252", 4)
    assert main(["inspect", "--path", str(tmp_path / "log"), "--out", str(tmp_path / "log")]) == 2
