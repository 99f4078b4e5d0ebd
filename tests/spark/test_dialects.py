"""Dialects of csv and JSON: quotes, escapes, line breaks, encodings, compression; each log gives the right events."""

import bz2
import csv
import gzip
import io
import random
import zipfile
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from learn_spark.ingest.check import check_file
from tests.builders.ingest import NOON, events_of_cases, make_config

pytestmark = pytest.mark.spark

HEAD = ["user", "item", "time", "name"]
AWKWARD = [
    'a "quoted" word',
    '"',
    '""',
    'ends in a quote"',
    '"begins with one',
    "a, b; c\td | e",
    "back\\slash",
    "\\",
    "\\N",
    'a\\"b',
    "# no comment",
    "Ünïcode – 静物 🙂",
    "12'5",
]
BROKEN = "two\nlines"


def rows(names=AWKWARD):
    return [(f"u{n}", f"i{n}", NOON + n, name) for n, name in enumerate(names)]


def zipped(*names):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in names:
            archive.writestr(name, "a")
    return held.getvalue()


def rfc(names, delimiter=",", **options):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n", **options).writerows([HEAD, *rows(names)])
    return text.getvalue()


def hive(names, delimiter, quote):
    def value(text):
        special = {"\\", quote or delimiter, delimiter}
        shown = "".join("\\" + each if each in special else each for each in text)
        return f"{quote}{shown}{quote}" if quote else shown

    lines = [[*map(str, row[:3]), value(row[3])] for row in rows(names)]
    return "\n".join(delimiter.join(line) for line in [HEAD, *lines]) + "\n"


def plain_tsv(names):
    return "\n".join("\t".join(map(str, row)) for row in [HEAD, *rows(names)])


def packed(kind, data):
    if kind == "zip":
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/._log.csv", b"\0")
            archive.writestr("log.csv", data)
        return held.getvalue()
    if kind == "zst":
        held = pa.BufferOutputStream()
        with pa.CompressedOutputStream(held, "zstd") as stream:
            stream.write(data)
        return held.getvalue().to_pybytes()
    return {"gz": gzip.compress, "bz2": bz2.compress, "": bytes}[kind](data)


def no_tabs(names):
    return [name.replace("\t", " ") for name in names]


LATIN = ["café", "a, b", 'a "b" c']
DIALECTS = {  # file name: its content, the settings to read it, the item names in it
    "rfc.csv": (rfc(AWKWARD), {}, AWKWARD),
    "all quoted.csv": (rfc(AWKWARD, quoting=csv.QUOTE_ALL), {}, AWKWARD),
    "semicolon.csv": (rfc(AWKWARD, ";"), {"delimiter": ";"}, AWKWARD),
    "single quotes.csv": (rfc(AWKWARD, quotechar="'"), {"quote": "'", "escape": "'"}, AWKWARD),
    "spark.csv": (hive(AWKWARD, ",", '"'), {"escape": "\\"}, AWKWARD),
    "hive.csv": (hive(AWKWARD, "|", None), {"delimiter": "|", "quote": None, "escape": "\\"}, AWKWARD),
    "words.csv": (hive(AWKWARD, "::", '"'), {"delimiter": "::", "escape": "\\"}, AWKWARD),
    "mysql.csv": (
        f"user\titem\ttime\tname\nu0\ti0\t{NOON}\ttab\\tand\\nend\\\\n\n",
        {"delimiter": "\t", "quote": None, "escape": "\\"},
        ["tab\tand\nend\\n"],
    ),
    "never quoted.tsv": (plain_tsv(no_tabs(AWKWARD)), {"delimiter": "\t", "quote": None}, no_tabs(AWKWARD)),
    "lines.csv": (rfc([*AWKWARD, BROKEN, '"\n\n"', "#\n#x"]), {"multiline": True, "comment": "#"}, None),
    "escaped lines.csv": (hive([BROKEN, "x"], ",", '"'), {"multiline": True, "escape": "\\"}, [BROKEN, "x"]),
    "bare lines.csv": (
        hive(["x"], "\t", None) + f"u9\ti9\t{NOON + 9}\ttwo\\\nlines\n",
        {"multiline": True, "delimiter": "\t", "quote": None, "escape": "\\"},
        ["x", BROKEN],
    ),
    "excel.csv": (
        "\ufeffsep=;\r\n" + rfc(AWKWARD, ";").replace("\n", "\r\n"),
        {"delimiter": ";", "skip_lines": 1},
        AWKWARD,
    ),
    "comments.csv": ('# "made by\n\n' + rfc(AWKWARD) + "#end,of,it,x\n", {"comment": "#"}, AWKWARD),
    "glued.csv": (rfc(AWKWARD[:3]) + rfc(AWKWARD[:3]).replace("\nu", "\nv"), {}, None),
    "crs.csv": (rfc(AWKWARD).replace("\n", "\r"), {}, AWKWARD),
}
PACKINGS = {  # under names with no extension or a wrong one
    "gz.csv": "gz",
    "gz": "gz",
    "LOG.CSV.GZ": "gz",
    "bz2.gz": "bz2",
    "plain.gz": "",
    "zip.csv.zip": "zip",
    "zip.csv": "zip",
    "zst.csv.zst": "zst",
    "plain.zst": "",
}
ENCODINGS = {
    "cp1251": "Тихий фонарь",
    "cp1252": "“Café” – €5",
    "gb18030": "静物碗",
    "shift_jis": "ソ能表",  # second bytes are backslashes
    "big5": "功能",
    "euc_kr": "한국",
    "iso-8859-15": "€uro",
    "utf-16": "Ünï, “静”",
    "utf-16-le": "Ünï 静 ਊ",  # holds the byte of a line's end
    "utf-8": "\ufefföäü",
}


def log(folder, name, data, **ingest):
    (folder / name / "logs").mkdir(parents=True)
    (folder / name / "logs" / name).write_bytes(data)
    ingest = {"files": name if name != "{}" else "*"} | ingest
    return make_config(folder / name, **ingest)


def test_every_dialect_gives_its_names(spark, tmp_path):
    cases = {name: log(tmp_path, name, text.encode(), **keys) for name, (text, keys, _) in DIALECTS.items()}
    for name, kind in PACKINGS.items():
        cases[f"packed {name}"] = log(tmp_path / "packed", name, packed(kind, rfc(LATIN).encode()))
    for name, title in ENCODINGS.items():
        text = rfc([title, "b, c"]) if name != "utf-8" else "\ufeff" + rfc([title, "b, c"])
        cases[name] = log(tmp_path / "encoded", name, text.encode(name), encoding=name)
    cases["json"] = log(
        tmp_path,
        "a.json",
        packed("zst", '{"user":1,"item":2,"time":%d,"name":"静"}'.replace("%d", str(NOON)).encode("utf-16")),
        format="json",
        encoding="utf-16",
    )
    found = events_of_cases(spark, cases)
    assert {name: {row.reason for row in rows} for name, rows in found.items()} == dict.fromkeys(cases, {None})
    titles = {name: [row.title for row in rows] for name, rows in found.items()}
    wanted = {name: names for name, (_, _, names) in DIALECTS.items()}
    wanted["lines.csv"] = [*AWKWARD, BROKEN, '"\n\n"', "#\n#x"]
    wanted["glued.csv"] = [name for name in AWKWARD[:3] for _ in range(2)]
    wanted |= {f"packed {name}": LATIN for name in PACKINGS} | {"json": ["静"]}
    wanted |= {name: [title, "b, c"] for name, title in ENCODINGS.items()}
    assert titles == wanted


def test_lines_that_do_not_fit_their_dialect_are_rejected_whole(spark, tmp_path):
    good = f"u,g,{NOON},fine\n"
    bad = {
        "unclosed": (f'u,i,{NOON},"two\nlines"\n', {}, 2),
        "in the middle": (f'u,"i\nj",{NOON},x\n', {}, 2),
        "behind a quote": (f'u,i,{NOON},"a"b\n', {}, 1),
        "never closed": (f'u,i,{NOON},"two\n', {"multiline": True}, 1),
        "behind lines": (f'u,i,{NOON},"two\nlines"x\n', {"multiline": True}, 1),
        "escaped": (f'u,i,{NOON},"a\\"\n', {"escape": "\\"}, 1),
        "doubled": (f'u,i,{NOON},"a""\n', {}, 1),
        "three": (f'u,i,{NOON},"a"""b"\n', {}, 1),
        "words": (f'u,i,{NOON},"a"::b\n', {}, 1),
    }
    head = ",".join(HEAD) + "\n"
    cases = {name: log(tmp_path, name, (head + text + good).encode(), **keys) for name, (text, keys, _) in bad.items()}
    cases |= {
        "sloppy": log(tmp_path, "sloppy", f'{head}u,i,{NOON},12" vinyl\nu,j,{NOON},5\'10"\nu,k,{NOON},"q" \n'.encode()),
        "cp932": log(
            tmp_path, "cp932", f"{head}u,i,{NOON},\n{good}".encode().replace(b",\n", b",\x81\n"), encoding="cp932"
        ),
        "utf-16": log(tmp_path, "utf-16", (head + good).encode("utf-16") + b"\x00\xd8a\x00", encoding="utf-16"),
    }
    found = events_of_cases(spark, cases)
    said = {name: [row.reason for row in rows if row.reason] for name, rows in found.items()}
    assert said == {name: ["malformed line"] * number for name, (_, _, number) in bad.items()} | {
        "sloppy": [],
        "cp932": ["bytes that are not cp932"],
        "utf-16": ["bytes that are not utf-16"],
    }
    assert [row.title for row in found["sloppy"]] == ['12" vinyl', "5'10\"", "q"]
    for name in bad:
        assert [row.item_id for row in found[name] if row.reason is None] == ["g"], name


def test_packed_files_that_cannot_be_read_are_one_line(tmp_path):
    settings = make_config(tmp_path).ingest
    whole = packed("zip", rfc(AWKWARD * 500).encode())
    damaged = {
        "two": (zipped("a.csv", "b.csv"), "packed file: a zip of 2 files (a.csv, b.csv), where one is read: unpack it"),
        "none": (b"PK\x05\x06" + bytes(18), "packed file: a zip of 0 files"),
        "cut": (whole[: len(whole) // 2], "corrupt file: BadZipFile"),
        "zstd": (packed("zst", rfc(AWKWARD * 500).encode())[:-20], "corrupt file"),
        "utf-16": (rfc(AWKWARD).encode("utf-16"), "header is not utf-8"),
    }
    for name, (data, problem) in damaged.items():
        (tmp_path / name).write_bytes(data)
        assert check_file(str(tmp_path / name), settings, 1 << 20).problem.startswith(problem), name


@pytest.mark.parametrize(
    ("wanted", "data", "problem"),
    [
        ("csv", b"PAR1\x15\x04", "wrong format: holds Parquet, not csv: set `format: parquet`"),
        ("json", b"ORC\x0a\x1c\x08", "wrong format: holds ORC, not json: make csv, JSON lines or Parquet of it"),
        ("csv", b"Obj\x01\x04", "wrong format: holds Avro, not csv"),
        ("csv", b"SQLite format 3\x00", "wrong format: holds SQLite, not csv"),
        ("csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0", "wrong format: holds an Office document, not csv"),
        ("csv", zipped("[Content_Types].xml", "xl/workbook.xml"), "packed file: an Office document, as Excel's xlsx"),
        ("parquet", b"user,sku,time\n", "wrong format: no Parquet, it begins with b'user,sku': say in `format`"),
        ("parquet", b"PAR1 and nothing else", "corrupt file: "),
        ("csv", b"ORCHID,item_id,event_ts\n", ""),
    ],
)
def test_a_file_of_another_format_says_so(tmp_path, wanted, data, problem):
    settings = make_config(tmp_path, format=wanted).ingest
    (tmp_path / "log").write_bytes(data)
    found = check_file(str(tmp_path / "log"), settings, 1 << 20).problem
    assert found.startswith(problem) and bool(found) == bool(problem), found


def test_random_logs_come_out_equal_whatever_the_dialect(spark, tmp_path):
    """The same events in twelve dialects: no value loses anything or takes anything from the next line."""
    random.seed(20240201)
    letters = "ab ,;|\t\"\\'#\n:é静🙂0N"
    names = ["".join(random.choices(letters, k=random.randint(1, 12))).strip() or "x" for _ in range(60)]
    names = [name for name in names if name.strip(" ")]
    whole, flat = names, [name.replace("\n", " ") for name in names]
    latin = [name.encode("cp1252", "replace").decode("cp1252") for name in flat]
    lines = {"multiline": True}
    ways = {
        "rfc": (rfc(flat).encode(), {}, flat),
        "all": (rfc(whole, quoting=csv.QUOTE_ALL).encode(), lines, whole),
        "lines": (rfc(whole).encode(), lines, whole),
        "tab": (rfc(whole, "\t").encode(), lines | {"delimiter": "\t"}, whole),
        "pipe": (packed("gz", rfc(flat, "|").encode()), {"delimiter": "|"}, flat),
        "single": (rfc(whole, quotechar="'").encode(), lines | {"quote": "'", "escape": "'"}, whole),
        "spark": (hive(flat, ",", '"').encode(), {"escape": "\\"}, flat),
        "spark lines": (hive(whole, ",", '"').encode(), lines | {"escape": "\\"}, whole),
        "bare": (hive(flat, "\t", None).encode(), {"escape": "\\", "quote": None, "delimiter": "\t"}, flat),
        "utf-16": (rfc(whole).encode("utf-16"), lines | {"encoding": "utf-16"}, whole),
        "cp1252": (packed("zip", rfc(latin).encode("cp1252")), {"encoding": "cp1252"}, latin),
        "gb18030": (rfc(whole, ";").encode("gb18030"), lines | {"encoding": "gb18030", "delimiter": ";"}, whole),
    }
    cases = {name: log(tmp_path, name, data, **keys) for name, (data, keys, _) in ways.items()}
    found = events_of_cases(spark, cases)
    for name, (_, _, wanted) in ways.items():
        assert [row.reason for row in found[name] if row.reason] == [], name
        assert [row.title for row in found[name]] == [each.strip(" ") for each in wanted], name
        times = [
            datetime.fromtimestamp(NOON, UTC).replace(tzinfo=None) + timedelta(seconds=n) for n in range(len(wanted))
        ]
        assert [(row.user_id, row.event_ts) for row in found[name]] == [(f"u{n}", t) for n, t in enumerate(times)], name
