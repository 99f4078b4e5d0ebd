"""A copy of Online Retail in which the order of an invoice's lines can be read from their times.

    python -m benchmarks.file_order --path data/online_retail --out build/online_retail_in_file_order

All lines of an invoice have one time there. The protocol shuffles them by a seed; in the order of the file they are an
easier task, as what is packed together stands together. Here a line is a microsecond later than the invoice's line
before it. Repeats of (invoice, item, quantity, time) are dropped, which their times would hide from the ingest's key.
"""

import argparse
import csv
import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

KEY = ("InvoiceNo", "StockCode", "Quantity", "InvoiceDate")


def write_in_file_order(source: Path, out: Path) -> int:
    """Writes the copy, one file per file of the source. Returns the number of lines.

    Raises:
        ValueError: the source holds no *.csv.gz.
    """
    files = sorted(source.glob("*.csv.gz"))
    if not files:
        raise ValueError(f"{source} holds no *.csv.gz")
    out.mkdir(parents=True, exist_ok=True)
    seen, place = set(), Counter()
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8", newline="") as read, _opened(out / file.name) as write:
            rows = csv.DictReader(read)
            copy = csv.DictWriter(write, rows.fieldnames)
            copy.writeheader()
            for row in rows:
                key = tuple(row[name] for name in KEY)
                if key in seen or not row["Description"]:
                    continue
                seen.add(key)
                of_a_time = row["InvoiceNo"], row["InvoiceDate"]
                copy.writerow(row | {"InvoiceDate": f"{row['InvoiceDate']}.{place[of_a_time]:06d}"})
                place[of_a_time] += 1
    return len(seen)


def _opened(path: Path):  # noqa: ANN202 - gzip's own text wrapper
    return gzip.open(path, "wt", encoding="utf-8", newline="", compresslevel=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    print(f"{write_in_file_order(options.path, options.out):,} lines: {options.out}")


if __name__ == "__main__":
    main()
