"""`inspect` on any input: a config and exit code 0, or one line and exit code 2 (with a config if windows fail)."""

import bz2
import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from learn_spark.cli.main import main

LOG = b"user,item,time,title\n" + b"".join(
    b"u%d,i%d,2024-01-0%d 10:00:00,A thing\n" % (n, n, 1 + n % 9) for n in range(99)
)
LONG = b"user,item,time,title\n" + b"".join(
    b"u%d,i%d,2024-%02d-%02d 10:00:00,A thing\n" % (n % 20, n % 9, 1 + n // 28 % 12, 1 + n % 28) for n in range(2000)
)
PACKED = gzip.compress(LOG)
ROWS = pa.table({name: ["2024-01-01 10:00:00"] for name in ("user", "item", "time", "title")})


def packed_parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(ROWS, sink)
    return sink.getvalue().to_pybytes()


PARQUET = packed_parquet()
FILES: dict[str, tuple[str, bytes]] = {
    "cut gzip": ("log.csv.gz", PACKED[: len(PACKED) // 2]),
    "gzip with a wrong sum": ("log.csv.gz", PACKED[:-8] + bytes(8)),
    "no gzip": ("log.csv.gz", LOG),
    "no bzip2": ("log.csv.bz2", LOG),
    "cut bzip2": ("log.csv.bz2", bz2.compress(LOG)[:-9]),
    "a bomb": ("log.json.gz", gzip.compress(bytes(64 << 20))),
    "zeros": ("log.csv", bytes(1 << 20)),
    "zeros without a name": ("log", bytes(300_000)),
    "binary": ("log.csv", random.Random(1).randbytes(200_000)),
    "binary as JSON": ("log.json", random.Random(2).randbytes(200_000)),
    "deep JSON": ("log.json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "JSON that is no object": ("log.json", b"[1, 2]\n3\n"),
    "JSON with odd keys": ("log.json", b'{"\\ud800": "2024-01-01", "": "\\ud800", "c": 1}\n'),
    "a false Parquet": ("log", b"PAR1" + bytes(100)),
    "Parquet by its name": ("log.parquet", LOG),
    "cut Parquet": ("log.parquet", PARQUET[:-20]),
    "Parquet without rows": ("log.parquet", PARQUET[:4] + PARQUET[4:-4][::-1] + PARQUET[-4:]),
    "blank lines": ("log.csv", b"\n \n\r\n" * 100),
    "one quote": ("log.csv", b'"' * 5000),
    "a huge cell": ("log.csv", b"user,item,time\n" + b"x" * 200_000 + b",i,2024-01-01\n"),
    "a line without an end": ("log.csv", b"user,item,time\n" + b"x" * (3 << 20)),
    "delimiters": ("log.csv", b"," * 20_000 + b"\n"),
    "times at the end of time": ("log.csv", b"user,item,time\n" + b"a,b,9999-12-31 23:59:59\n" * 9),
    "times before time": ("log.csv", b"user,item,time\n" + b"a,b,0001-01-01 00:00:00+14:00\n" * 9),
    "times that are no numbers": ("log.csv", b"user,item,time\n" + b"a,b,nan\na,b,inf\na,b,1e400\n" * 9),
    "utf-16 cut in a character": ("log.csv", LOG.decode().encode("utf-16")[:-1]),
    "utf-16 without an end": ("log.csv", b"\xff\xfe" + b"x\0" * (1 << 20)),
    "an empty zip": ("log.csv.zip", b"PK\x05\x06" + bytes(18)),
    "a cut zip": ("log.csv.zip", b"PK\x03\x04" + bytes(100)),
    "a cut zst": ("log.csv.zst", b"\x28\xb5\x2f\xfd" + bytes(9)),
    "a line of brackets": ("log.csv", b"[" * 100_000),
    "a deep Python literal": ("log.json", b"{'a': " + b"(" * 50_000),
    "quotes that never end": ("log.csv", b'a,b,c\n"' + b"x,y\n" * 50_000),
    "backslashes": ("log.csv", b'a,b,c\n"\\' + b'\\\\"' * 20_000 + b"\n"),
    "lists of lists": ("log.json", b'{"events": [{"a": [{"b": [{"c": 1}]}]}]}\n' * 99),
    "a column of lists of different things": ("log.json", b'{"u": 1, "e": [1, {"t": 2}]}\n{"u": 2, "e": [{}]}\n' * 99),
    "a day at the end of time": ("9999-12-31.csv", b"user,item,time,title\n" + b"a,b,2024-01-01,c\n" * 9),
}


def link_to_nowhere(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


PATHS: dict[str, Callable[[Path], object]] = {
    "an empty folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to nowhere": link_to_nowhere,
    "a link to itself": lambda path: path.symlink_to(path),
    "a folder of a file's name, with nothing that is a log": lambda path: (path / "log.csv").mkdir(parents=True),
    "a folder of pipes and links": lambda path: (
        path.mkdir(),
        os.mkfifo(path / "a.csv"),
        link_to_nowhere(path / "b.csv"),
    ),
    "no table": lambda path: (path / "_delta_log").mkdir(parents=True),
    "nothing": lambda path: None,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


def ends_well(path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> int:
    code = main(["inspect", "--path", str(path), "--out", str(out)])
    said = capsys.readouterr()
    assert "Traceback" not in said.err and not said.out
    if out.exists():
        assert yaml.safe_load(out.read_text(encoding="utf-8"))["ingest"]["mapping"]
    if code != 0:
        (line,) = (line for line in said.err.splitlines() if "error" in line)
        assert code == 2 and line.startswith("inspect: error: ") and len(line) < 1000, said.err
    return code


@pytest.mark.parametrize(("name", "content"), FILES.values(), ids=FILES)
def test_a_file_that_holds_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / name).write_bytes(content)
    codes = {
        ends_well(path, tmp_path / f"{path.name}.yaml", capsys)
        for path in (tmp_path / "logs" / name, tmp_path / "logs")
    }
    assert codes == {2}


def test_a_name_that_is_too_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_well(tmp_path / ("x" * 300), tmp_path / "out.yaml", capsys) == 2


@pytest.mark.parametrize("make", PATHS.values(), ids=PATHS)
def test_a_path_that_is_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], object]
) -> None:
    make(tmp_path / "x.csv")
    assert ends_well(tmp_path / "x.csv", tmp_path / "out.yaml", capsys) == 2


def test_a_folder_of_anything_beside_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unreadable files are named and left out, and the log is still found."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "log.csv").write_bytes(LONG)
    for number, (name, content) in enumerate(FILES.values()):
        (folder / f"odd{number}{name}").write_bytes(content)
    os.mkfifo(folder / "pipe.csv")
    link_to_nowhere(folder / "nowhere.csv")
    assert main(["inspect", "--path", str(folder), "--out", str(tmp_path / "out.yaml")]) == 0
    said = capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "out.yaml").read_text())["ingest"]["files"] == "log.csv"
    assert said.count("left out: odd") >= 10 and "Traceback" not in said


def test_damage_at_any_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cuts out, doubles and replaces bytes, in each format."""
    chance = random.Random(3)
    event = {"user": "u", "item": "i", "time": "2024-01-01 10:00:00", "title": "A"}
    lines = b"".join(json.dumps(event | {"user": str(user)}).encode() + b"\n" for user in range(20))
    whole = {"a.csv": LOG, "a.csv.gz": PACKED, "a.parquet": PARQUET, "a.json": lines}
    for number in range(120):
        name = chance.choice(sorted(whole))
        content = bytearray(whole[name])
        for _ in range(chance.randint(1, 5)):
            at, size = chance.randrange(len(content) + 1), chance.choice((0, 1, 3, 40))
            content[at : at + size] = chance.randbytes(chance.choice((0, 1, 8)))
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / name).write_bytes(content)
        ends_well(tmp_path / str(number) / name, tmp_path / f"{number}.yaml", capsys)
