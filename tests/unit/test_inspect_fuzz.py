"""`inspect` on anything: a config and exit code 0, or one line and exit code 2."""

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
    if code == 0:
        assert yaml.safe_load(out.read_text(encoding="utf-8"))["ingest"]["mapping"]
    else:
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
    assert codes == ({0} if name.startswith("9999") else {2})


@pytest.mark.parametrize("make", PATHS.values(), ids=PATHS)
def test_a_path_that_is_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], object]
) -> None:
    make(tmp_path / "x.csv")
    assert ends_well(tmp_path / "x.csv", tmp_path / "out.yaml", capsys) == 2


def test_damage_at_any_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes cut out, doubled and replaced, in each format."""
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
