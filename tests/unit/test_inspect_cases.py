"""`inspect` on real-world logs: what it takes each file and column for. All cases have occurred in practice."""

import bz2
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learn_spark.cli.main import main
from learn_spark.config.load import Config, load_config
from learn_spark.sequences.counts import ranges
from tests.builders.field_logs import DAYS, SPELLINGS, START, Event, field_events, plain_log, write_lines, write_table

Inspect = Callable[[Path], tuple[Config, str]]


@pytest.fixture
def inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Inspect:
    """A function that runs `inspect` and returns the config that it writes, and its output."""

    def run(path: Path) -> tuple[Config, str]:
        out = tmp_path / "first.yaml"
        code = main(["inspect", "--path", str(path), "--out", str(out)])
        said = capsys.readouterr().err
        assert code == 0, said
        return load_config(out), said

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[Path], str]:
    """A function that returns the one line with which `inspect` fails, with exit code 2."""

    def run(path: Path) -> str:
        assert main(["inspect", "--path", str(path)]) == 2
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("inspect: error: "))
        return line

    return run


def columns(config: Config) -> dict[str, str | None]:
    """The columns that the mapping names, by role."""
    return {name: field.column for name, field in config.ingest.mapping.named().items()}


def item_columns(config: Config) -> dict[str, str | None]:
    """The columns that the catalogue's mapping names, by role."""
    assert config.ingest.items is not None
    return {name: field.column for name, field in config.ingest.items.mapping.named().items()}


PLAIN = {"user_id": "user_id", "item_id": "item_id", "event_ts": "when", "event_type": "action", "title": "title"}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_times_by_how_they_are_spelled(tmp_path: Path, inspect: Inspect, spell: Callable[[datetime], object]) -> None:
    config, said = inspect(plain_log(tmp_path / "in" / "log.csv", spell))
    assert columns(config) == PLAIN
    assert (config.ingest.start, config.windows.end) == (START.date(), START.date() + timedelta(DAYS)), said
    assert "600 events of 30 users and 60 items on 60 days" in said


def test_numbers_that_could_be_times_are_ids_where_they_repeat_in_no_order(tmp_path: Path, inspect: Inspect) -> None:
    rows = ((1_650_000_000 + 831_337 * e.user, int(e.time.timestamp()), e.item, e.title) for e in field_events())
    config, _ = inspect(write_table(tmp_path / "in" / "weblog", None, rows, sep="\t"))
    expected = {"user_id": "column_1", "event_ts": "column_2", "item_id": "column_3", "title": "column_4"}
    assert columns(config) == {**expected, "event_type": None}
    assert config.windows.end == START.date() + timedelta(DAYS)


def test_folder_of_reviews_and_businesses(tmp_path: Path, inspect: Inspect) -> None:
    events = enumerate(field_events())
    write_lines(
        tmp_path / "in" / "review.json",
        (
            {
                "review_id": f"-r{n:06}",
                "user_id": f"_u{e.user}",
                "business_id": f"--b{e.item}",
                "stars": e.item % 5 + 1.0,
            }
            | {"text": f"Nice\n\nno. {n} ü", "date": f"{e.time:%Y-%m-%d %H:%M:%S}"}
            for n, e in events
        ),
    )
    write_lines(
        tmp_path / "in" / "business.json",
        (
            {
                "business_id": f"--b{n}",
                "name": Event(0, n, START, "").title,
                "categories": "Food, Kettle" if n % 7 else None,
            }
            for n in range(60)
        ),
    )
    config, said = inspect(tmp_path / "in")
    assert config.ingest.files == "review.json"
    mapped = columns(config)
    assert (mapped["user_id"], mapped["item_id"], mapped["event_ts"]) == ("user_id", "business_id", "date")
    assert mapped["value"] == "stars"
    assert item_columns(config) == {"item_id": "business_id", "title": "name", "category": "categories"}
    assert config.embedding.template == "brief"
    assert config.ingest.gates.max_reject_share == 0.05
    assert "review_id is a row's own id" in said


def test_newcomers_folder_of_a_log_a_catalogue_and_test_rows(tmp_path: Path, inspect: Inspect) -> None:
    rows = ((f"c{e.user}", f"{e.item:05}", f"{e.time:%Y-%m-%dT%H:%M:%SZ}", "train", e.kind) for e in field_events())
    write_table(tmp_path / "in" / "events.csv", ("customer", "sku", "time", "split", "action"), rows)
    items = ({"sku": f"{n:05}", "title": f"Lamp no. {n}", "brand": "Ember", "price": f"${n}.50"} for n in range(60))
    write_lines(tmp_path / "in" / "items.jsonl", items)
    write_table(
        tmp_path / "in" / "test.csv", ("customer", "history", "target"), ((f"c{n}", "1 2", n) for n in range(30))
    )
    (tmp_path / "in" / "README.md").write_text("about, these, files\n")
    config, said = inspect(tmp_path / "in")
    assert config.ingest.files == "events.csv"
    assert columns(config) == {"user_id": "customer", "item_id": "sku", "event_ts": "time", "event_type": "action"}
    assert item_columns(config) == {"item_id": "sku", "title": "title", "brand": "brand", "price": "price"}
    assert config.ingest.items is not None and config.ingest.items.mapping.price is not None
    assert (config.ingest.items.mapping.price.strip_prefix, config.ingest.items.mapping.price.lenient) == ("$", False)
    assert config.sequences.target_events == ["purchase"]
    assert "left out: test.csv: rows of somebody's own split" in said
    assert "left out: README.md: no table by its name" in said
    assert "split is a split of somebody's own" in said
    assert config.lake.root == tmp_path / "first-run" / "lake", "beside the config, and named as it is"


def test_properties_of_items_line_by_line_are_no_catalogue(tmp_path: Path, inspect: Inspect) -> None:
    rows = ((int(e.time.timestamp() * 1000), e.user, e.kind, e.item, "") for e in field_events())
    write_table(tmp_path / "in" / "events.csv", ("timestamp", "visitorid", "event", "itemid", "transactionid"), rows)
    for part in (1, 2):
        rows = ((int(e.time.timestamp() * 1000), e.item, e.item % 9, "n277.200 1116713") for e in field_events(900))
        write_table(
            tmp_path / "in" / f"item_properties_part{part}.csv", ("timestamp", "itemid", "property", "value"), rows
        )
    write_table(tmp_path / "in" / "category_tree.csv", ("categoryid", "parentid"), [(1016, 213), (809, 169)])
    config, said = inspect(tmp_path / "in")
    assert config.ingest.files == "events.csv" and config.ingest.items is None
    assert columns(config)["user_id"] == "visitorid"
    assert set(config.ingest.event_types) == {"view", "cart", "purchase"}
    assert "left out: item_properties_part*.csv: a property of an item per line" in said
    assert "no title was found" in said


def test_catalogue_of_other_ids_is_named_with_ids_of_both(tmp_path: Path, inspect: Inspect) -> None:
    rows = ((f"{e.time:%Y-%m-%d}", f"{e.user:032x}", 108775000 + e.item, "0.05") for e in field_events())
    write_table(tmp_path / "in" / "transactions.csv", ("t_dat", "customer_id", "article_id", "price"), rows)
    rows = ((f"0{108775000 + n}", Event(0, n, START, "").title, "Trousers") for n in range(60))
    write_table(tmp_path / "in" / "articles.csv", ("article_id", "prod_name", "product_type_name"), rows)
    write_table(tmp_path / "in" / "customers.csv", ("customer_id", "age"), ((f"{n:032x}", n) for n in range(40)))
    config, said = inspect(tmp_path / "in")
    assert "0% of the items that were seen in the log are in it" in said
    assert "no id is in both: log 1087750" in said
    assert "left out: customers.csv: a row per user" in said
    assert columns(config)["item_id"] == "article_id"


def test_values_in_nested_objects(tmp_path: Path, inspect: Inspect) -> None:
    for day in range(DAYS):
        events = [e for e in field_events() if (e.time - START).days == day]
        lines = (
            {"messageId": f"{day}-{n}", "event": "Product Viewed", "timestamp": f"{e.time:%Y-%m-%dT%H:%M:%S}.123Z"}
            | {"context": {"traits": {"user.id": "no"}, "ip": "0.0.0.0"}, "user": {"id": f"u{e.user}", "name": "A B"}}
            | {"properties": {"product_id": f"p{e.item}", "name": e.title, "price": e.item + 0.5}}
            for n, e in enumerate(events)
        )
        write_lines(tmp_path / "in" / f"{(START + timedelta(day)):%Y-%m-%d}.jsonl", lines)
    config, said = inspect(tmp_path / "in")
    assert config.ingest.files == "{day}.jsonl"
    expected = {
        "user_id": "user.id",
        "item_id": "properties.product_id",
        "event_ts": "timestamp",
        "event_type": "event",
    }
    assert columns(config) == {**expected, "title": "properties.name", "price": "properties.price"}
    assert config.ingest.event_types == ["Product Viewed"]
    assert "messageId is a row's own id" in said


def test_sessions_with_lists_of_events(tmp_path: Path, inspect: Inspect) -> None:
    by_user: dict[int, list[dict[str, object]]] = {}
    for e in field_events():
        own = by_user.setdefault(e.user, [])
        own.append({"aid": 1500000 + e.item, "ts": int(e.time.timestamp() * 1000), "type": f"{e.kind}s"})
    lines = ({"session": user, "events": events} for user, events in by_user.items())
    config, _ = inspect(write_lines(tmp_path / "in" / "train.jsonl", lines))
    assert config.ingest.exploded() == ["events"]
    mapped = columns(config)
    assert (mapped["user_id"], mapped["item_id"]) == ("session", "events.aid")
    assert (mapped["event_ts"], mapped["event_type"]) == ("events.ts", "events.type")
    assert config.sequences.target_events == ["purchases"]


def test_lists_of_shown_items_with_their_labels(tmp_path: Path, inspect: Inspect) -> None:
    """MIND: no header; a line per page with the articles read before and those shown; the news are in another table."""
    rows = (
        (n, f"U{e.user}", f"{e.time.month}/{e.time.day}/{e.time.year} {e.time:%I:%M:%S %p}", "N1 N2")
        + (f"N{e.item}-1 N{(e.item + 7) % 60}-0 N{(e.item + 9) % 60}-0",)
        for n, e in enumerate(field_events())
    )
    write_table(tmp_path / "in" / "behaviors.tsv", None, rows, sep="\t")
    news = ((f"N{n}", "sports", "golf", Event(0, n, START, "").title, "An abstract of words") for n in range(60))
    write_table(tmp_path / "in" / "news.tsv", None, news, sep="\t")
    config, said = inspect(tmp_path / "in")
    mapped = columns(config)
    assert (mapped["user_id"], mapped["item_id"], mapped["event_ts"]) == ("column_2", "column_5.item", "column_3")
    assert config.ingest.explode is not None and config.ingest.explode.separator == " "
    assert config.ingest.mapping.event_type.map == {"0": "impression", "1": "click"}
    assert config.sequences.target_events == ["click"]
    assert item_columns(config)["item_id"] == "column_1"
    assert "1,800 events of 30 users and 60 items" in said


def test_files_named_by_their_kind_of_event_are_sources_of_one_log(tmp_path: Path, inspect: Inspect) -> None:
    events = field_events(1500)
    for name, kinds, more in (("clicks", ("view", "cart"), ("0",)), ("buys", ("purchase",), ("113", "1"))):
        rows = ((e.user, f"{e.time:%Y-%m-%dT%H:%M:%S}.474Z", e.item, *more) for e in events if e.kind in kinds)
        write_table(tmp_path / "in" / f"shop-{name}.dat", None, rows)
    config, said = inspect(tmp_path / "in")
    clicks, buys = config.ingest.each()
    assert (clicks.files, buys.files) == ("shop-clicks.dat", "shop-buys.dat")
    assert [len(each.columns or ()) for each in (clicks, buys)] == [4, 5]
    assert config.ingest.event_types == ["clicks", "buys"]
    assert config.sequences.target_events == ["buys"]
    assert "event_type is buys, as the name of shop-buys.dat says" in said


def test_folders_named_by_their_kind_of_event(tmp_path: Path, inspect: Inspect) -> None:
    """Daily files with the same columns: their times must not be taken for ids that join the files."""
    for day in range(DAYS):
        for folder, kinds in (("views", ("view", "cart")), ("orders", ("purchase",))):
            own = [e for e in field_events() if (e.time - START).days == day and e.kind in kinds]
            rows = ((f"u{e.user}", f"i{e.item}", f"{e.time:%Y-%m-%d %H:%M:%S}", e.title) for e in own)
            path = tmp_path / "in" / folder / f"{(START + timedelta(day)):%Y-%m-%d}.csv"
            write_table(path, ("user_id", "item_id", "event_ts", "title"), rows)
    config, _ = inspect(tmp_path / "in")
    assert {each.files for each in config.ingest.each()} == {"views/{day}.csv", "orders/{day}.csv"}
    assert set(config.ingest.event_types) == {"views", "orders"}
    assert config.sequences.target_events == ["orders"]


def test_kinds_of_event_in_folders_names(tmp_path: Path, inspect: Inspect) -> None:
    for day in range(DAYS):
        for kind in ("view", "purchase"):
            own = [e for e in field_events() if (e.time - START).days == day and e.kind == kind]
            folder = tmp_path / "in" / f"dt={(START + timedelta(day)):%Y-%m-%d}" / f"event_type={kind}"
            folder.mkdir(parents=True)
            table = {"user_id": [f"u{e.user}" for e in own], "item_id": [f"i{e.item}" for e in own]}
            table |= {"title": [e.title for e in own], "ts": [e.time.replace(tzinfo=None) for e in own]}
            schema = [("user_id", pa.string()), ("item_id", pa.string()), ("title", pa.string())]
            pq.write_table(pa.table(table, pa.schema([*schema, ("ts", pa.timestamp("us"))])), folder / "part-0.parquet")
    config, said = inspect(tmp_path / "in")
    assert config.ingest.files == "dt={day}/event_type=*/part-*.parquet"
    assert columns(config)["event_type"] == "event_type"
    assert set(config.ingest.event_types) == {"view", "purchase"}
    assert "120 files" in said and "from the files' paths: event_type" in said


def test_columns_that_came_later(tmp_path: Path, inspect: Inspect) -> None:
    for day in range(DAYS):
        rows = [[f"u{e.user}", f"i{e.item}", f"{e.time:%Y-%m-%d %H:%M:%S}", e.title] for e in field_events()]
        rows = [row for row in rows if row[2].startswith(f"{(START + timedelta(day)):%Y-%m-%d}")]
        names = ["user_id", "item_id", "event_ts", "title"]
        if day >= 20:
            names, rows = [*names, "brand", "price"], [[*row, row[3].split()[0], 2.5] for row in rows]
        write_table(tmp_path / "in" / f"{(START + timedelta(day)):%Y-%m-%d}.csv", names, rows)
    config, said = inspect(tmp_path / "in")
    assert (columns(config)["brand"], columns(config)["price"]) == ("brand", "price")
    assert "some of the files lack brand, price" in said


TITLES = {
    "cp1251": "Тихий фонарь",
    "koi8-r": "Медный чайник с крышкой",
    "cp1252": "Jolly’s “Ladder” – 5 €",
    "cp1250": "Żółta łódka świeci",
    "gb18030": "静 灯笼 双卡双待（官方标配）",
    "big5": "安靜的燈籠與茶壺",
    "shift_jis": "静かな灯台の写真とランプ",
    "euc_jp": "静かな灯台の写真とランプ",
    "euc_kr": "조용한 등불과 나침반",
    "utf-16": "Тихий “фонарь”",
    "utf-8": "Тихий “фонарь”",
}


@pytest.mark.parametrize(("encoding", "title"), TITLES.items(), ids=TITLES)
def test_encodings_by_what_the_bytes_spell(tmp_path: Path, inspect: Inspect, encoding: str, title: str) -> None:
    log = plain_log(tmp_path / "in" / "log.csv")
    text = log.read_text(encoding="utf-8").replace("Amber", title)
    log.write_bytes(text.encode(encoding))
    config, said = inspect(log)
    assert config.ingest.encoding == encoding
    assert columns(config) == PLAIN
    assert title[:12] in said, "the person sees the words as they are"


def packed_zip(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", content)
    return stream.getvalue()


PACKED = {
    "part-00000": gzip.compress,
    "LOG.CSV.GZ": gzip.compress,
    "log.csv.gz": bz2.compress,
    "log.csv.zip": packed_zip,
    "log.csv.zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}


@pytest.mark.parametrize(
    ("name", "pack"), PACKED.items(), ids=["gz without suffix", "upper", "bz2 as gz", "zip", "zst"]
)
def test_packed_files_by_their_first_bytes(
    tmp_path: Path, inspect: Inspect, name: str, pack: Callable[[bytes], bytes]
) -> None:
    log = plain_log(tmp_path / "log.csv")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(pack(log.read_bytes()))
    config, _ = inspect(tmp_path / "in")
    assert config.ingest.files == name and columns(config) == PLAIN


def test_null_markers_are_named(tmp_path: Path, inspect: Inspect) -> None:
    rows = (
        ("\\N" if n % 5 == 0 else e.user, e.item, f"{e.time:%Y-%m-%d %H:%M:%S}", "NA" if n % 9 == 0 else e.title)
        for n, e in enumerate(field_events())
    )
    log = write_table(tmp_path / "in" / "dump.tsv", ("user_id", "item_id", "event_time", "title"), rows, sep="\t")
    config, said = inspect(log)
    assert sorted(config.ingest.nulls) == ["NA", "\\N"]
    assert "user_id: 20% of the values are '\\\\N', which means none" in said
    assert "missing user 120" in said
    assert config.ingest.gates.max_reject_share > 0.2


def test_excel_in_europe(tmp_path: Path, inspect: Inspect) -> None:
    rows = (
        (f"{e.user:05}", f"{e.item:06}", f"{e.time:%d.%m.%Y %H:%M}", e.title, f"{e.item},5") for e in field_events()
    )
    log = write_table(tmp_path / "in" / "verkauf.csv", ("Kunde", "Artikel", "Datum", "Bezeichnung", "Preis"), rows, ";")
    log.write_bytes(b"\xef\xbb\xbfsep=;\r\n" + log.read_bytes().replace(b"\n", b"\r\n"))
    config, _ = inspect(log)
    assert (config.ingest.skip_lines, config.ingest.delimiter) == (1, ";")
    expected = {"user_id": "Kunde", "item_id": "Artikel", "event_ts": "Datum", "title": "Bezeichnung", "price": "Preis"}
    assert columns(config) == {**expected, "event_type": None}
    assert config.ingest.mapping.price is not None and config.ingest.mapping.price.decimal == ","


def test_csv_dialects(tmp_path: Path, inspect: Inspect) -> None:
    """csv as Spark and Hive write it, common TSV, and csv with line breaks within quotes."""
    events = field_events()
    names = ("user", "item", "time", "title")

    def row(e: Event, title: str) -> tuple[object, ...]:
        return (f"u{e.user}", f"i{e.item}", f"{e.time:%Y-%m-%d %H:%M:%S}", title)

    spark = write_table(tmp_path / "a" / "a.csv", names, (row(e, f'"{e.title}\\", \\"new\\""') for e in events))
    config, _ = inspect(spark)
    assert (config.ingest.quote, config.ingest.escape) == ('"', "\\")
    (tmp_path / "first.yaml").unlink()
    tsv = write_table(tmp_path / "b" / "b.tsv", names, (row(e, f'"{e.title}" 7" disc') for e in events), sep="\t")
    config, _ = inspect(tsv)
    assert (config.ingest.quote, config.ingest.multiline) == (None, False)
    (tmp_path / "first.yaml").unlink()
    broken = write_table(tmp_path / "c" / "c.csv", names, (row(e, f'"{e.title}\nof brass"') for e in events))
    config, said = inspect(broken)
    assert config.ingest.multiline and "600 events" in said


def test_date_and_clock_in_two_columns(tmp_path: Path, inspect: Inspect) -> None:
    rows = ((f"u{e.user}", f"i{e.item}", f"{e.time:%Y-%m-%d}", f"{e.time:%H:%M:%S}", e.title) for e in field_events())
    config, said = inspect(write_table(tmp_path / "in" / "log.csv", ("user", "item", "date", "clock", "title"), rows))
    assert (config.ingest.mapping.event_ts.column, config.ingest.mapping.event_ts.clock) == ("date", "clock")
    assert "600 events" in said


def test_ids_without_names_by_how_they_repeat(tmp_path: Path, inspect: Inspect) -> None:
    """The first column is a row id; artist ids and track ids determine names. The track is the item."""
    rows = (
        (f"r{n:06}", f"user_{e.user:03}", f"{e.time:%Y-%m-%dT%H:%M:%SZ}", f"a{e.item % 8}", FIRST_NAMES[e.item % 8])
        + (f"t{e.item:04}", e.title)
        for n, e in enumerate(field_events())
    )
    config, _ = inspect(write_table(tmp_path / "in" / "plays.tsv", None, rows, sep="\t"))
    expected = {"user_id": "column_2", "event_ts": "column_3", "item_id": "column_6", "title": "column_7"}
    assert {role: columns(config)[role] for role in expected} == expected


FIRST_NAMES = [f"{name} and the Lamps" for name in "ABCDEFGH"]


def test_kinds_of_event_by_their_values(tmp_path: Path, inspect: Inspect) -> None:
    kinds = {"view": "pv", "cart": "cart", "purchase": "buy"}
    rows = ((e.user, e.item, e.item % 7, kinds[e.kind], int(e.time.timestamp())) for e in field_events())
    config, _ = inspect(write_table(tmp_path / "in" / "UserBehavior.csv", None, rows))
    mapped = columns(config)
    assert (mapped["event_type"], mapped["event_ts"], mapped["user_id"]) == ("column_4", "column_5", "column_1")
    assert config.sequences.target_events == ["buy"]


def test_a_stray_date_moves_no_window(tmp_path: Path, inspect: Inspect) -> None:
    log = plain_log(tmp_path / "in" / "log.csv")
    with log.open("a") as file:
        file.write("u1|i1|2037-01-01 00:00:00|view|Amber Lantern\n")
    config, said = inspect(log)
    assert config.windows.end == START.date() + timedelta(DAYS)
    assert "1 events lie far from all others" in said


@pytest.mark.parametrize("days", [range(DAYS), range(0, DAYS, 5), [0, 31, 32, 33, 40, 41, 42, 50, 51, 52, 53]])
def test_windows_hold_events_or_are_refused(tmp_path: Path, inspect: Inspect, days: range | list[int]) -> None:
    rows = (
        (f"u{e.user}", f"i{e.item}", f"{START + timedelta(list(days)[n % len(days)]):%Y-%m-%d} 10:00:00", e.title)
        for n, e in enumerate(field_events())
    )
    config, said = inspect(write_table(tmp_path / "in" / "log.csv", ("user", "item", "time", "title"), rows))
    lines = [line for line in said.splitlines() if " .. 20" in line and "events," in line]
    assert len(lines) == len(ranges(config)) == 7
    assert not any(", 0 se" in line or ", 0 sa" in line for line in lines), said


def test_events_on_five_of_61_days_are_refused_and_the_config_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = [date(2018, 1, 1), date(2018, 2, 1), date(2018, 2, 2), date(2018, 3, 1), date(2018, 3, 2)]
    rows = ((f"u{e.user}", f"i{e.item}", f"{days[n % 5]} 10:00:00", e.title) for n, e in enumerate(field_events()))
    log = write_table(tmp_path / "in" / "log.csv", ("user", "item", "time", "title"), rows)
    out = tmp_path / "shop.yaml"
    assert main(["inspect", "--path", str(log), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "events lie on 5 of 61 days (2018-01-01 .. 2018-03-02), and each range needs some: 7 days" in said
    assert load_config(out).ingest.mapping.title is not None


def test_what_inspect_cannot_read_ends_in_one_line_with_the_way_out(
    tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    events = field_events()
    literals = tmp_path / "steam.json"
    literals.write_text("".join(f"{{'user': 'it\\'s {e.user}', 'item': {e.item}}}\n" for e in events))
    assert "Python's own literals" in refused(literals)
    array = tmp_path / "array.json"
    array.write_text(json.dumps([{"user": e.user, "item": e.item} for e in events]))
    assert "is one JSON array: write an object per line" in refused(array)
    relative = tmp_path / "listens.csv"
    write_table(relative, ("uid", "timestamp", "item_id"), ((e.user, 5 * n, e.item) for n, e in enumerate(events)))
    assert "timestamp (0 .. 2995) counts from a beginning of its own" in refused(relative)
    orders = tmp_path / "orders.csv"
    write_table(
        orders, ("order_id", "product_id", "add_to_cart_order"), ((n, e.item, n % 4) for n, e in enumerate(events))
    )
    assert "has no column of times" in refused(orders)
    packed = tmp_path / "log.csv.xz"
    packed.write_bytes(b"\xfd7zXZ\x00 and more")
    assert "packed by xz" in refused(packed)
    many = tmp_path / "two.zip"
    with zipfile.ZipFile(many, "w") as archive:
        archive.writestr("a.csv", "a,b\n")
        archive.writestr("b.csv", "a,b\n")
    assert "zip of 2 files" in refused(many)


def test_kinds_of_event_without_items_are_not_wanted(tmp_path: Path, inspect: Inspect) -> None:
    """An app's event stream, half without items: these kinds are ignored, so the gate for rejects stays strict."""
    rows = [(f"u{e.user}", f"i{e.item}", f"{e.time:%Y-%m-%dT%H:%M:%SZ}", e.kind, e.title) for e in field_events()]
    rows += [(user, "", time, ("page_view", "login")[n % 2], "") for n, (user, _, time, *_) in enumerate(rows)]
    names = ("user_id", "item_id", "ts", "event", "title")
    rows.sort(key=lambda row: row[2])
    config, said = inspect(write_table(tmp_path / "in" / "app.csv", names, rows))
    assert sorted(config.ingest.mapping.event_type.ignore) == ["login", "page_view"]
    assert set(config.ingest.event_types) == {"view", "cart", "purchase"}
    assert config.ingest.gates.max_reject_share == 0.05
    assert "not wanted 600 of 1,200 rows" in said


def test_equal_rows_are_named(tmp_path: Path, inspect: Inspect) -> None:
    rows = [(f"{e.time:%Y-%m-%d}", f"c{e.user}", f"a{e.item}", e.title) for e in field_events()]
    log = write_table(
        tmp_path / "in" / "t.csv", ("t_dat", "customer_id", "article_id", "prod_name"), [*rows, *rows[:30]]
    )
    config, said = inspect(log)
    assert "of the rows are equal to another: copies, unless `repeats: keep`" in said
    assert config.ingest.repeats == "drop"
