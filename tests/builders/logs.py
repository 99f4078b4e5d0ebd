"""Small log files, in the format of the shipped logs or with any content."""

import csv
import gzip
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Windows for a week of files from 2011-11-01 on.
WEEK = {
    "first_as_of": "2011-11-02",
    "towers_end": "2011-11-04",
    "cvr_end": "2011-11-05",
    "ranker_train_end": "2011-11-06",
    "end": "2011-11-07",
}
HEADER = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"]


def line(**changes: str) -> dict[str, str]:
    """A valid invoice line, with changes."""
    usable = {
        "InvoiceNo": "536365",
        "StockCode": "85123A",
        "Description": "WHITE HANGING HEART",
        "Quantity": "6",
        "InvoiceDate": "2011-11-01 08:26:00",
        "UnitPrice": "2.55",
        "CustomerID": "17850.0",
        "Country": "United Kingdom",
    }
    return usable | changes


def write_files(folder: Path, held: Mapping[str, str | bytes | pa.Table]) -> None:
    """Writes files by their paths below a folder, from texts, bytes, or tables (as Parquet)."""
    for name, content in held.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_day(folder: Path, day: str, lines: list[dict[str, str]], header: list[str] = HEADER) -> Path:
    """Writes `<day>.csv.gz`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{day}.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, header, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    return path
