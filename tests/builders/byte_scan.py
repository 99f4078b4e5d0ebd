"""Finds ids in files by their bytes, also in compressed content. It knows nothing about tables."""

import gzip
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def places_of(ids: Collection[str], *roots: Path) -> dict[str, set[str]]:
    """By id, the files below these folders that hold the id as a whole word, in their content or their name.

    It searches raw bytes, every text in every column of Parquet files, and the content of gzip and zstd files.
    """
    one = "|".join(map(re.escape, sorted(ids, key=len, reverse=True)))
    alone = re.compile(rf"(?<![0-9A-Za-z_])(?:{one})(?![0-9A-Za-z_])".encode())
    found: dict[str, set[str]] = {name: set() for name in ids}
    for root in roots:
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            for data in (str(file.relative_to(root)).encode(), *_contents(file)):
                for hit in set(alone.findall(data)):
                    found[hit.decode()].add(str(file.relative_to(root)))
    return found


def _contents(file: Path) -> Iterator[bytes]:
    data = file.read_bytes()
    yield data
    if data[:4] == b"PAR1":
        for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches():
            for column in batch.columns:
                yield "\n".join(_texts(column)).encode()
    elif data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        yield pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()


def _texts(column: pa.Array) -> Iterator[str]:
    """All texts of a column, however deeply they are nested."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _texts(column.dictionary_decode())
    elif pa.types.is_struct(kind):
        for field in column.flatten():
            yield from _texts(field)
    elif pa.types.is_map(kind):
        yield from _texts(column.keys)
        yield from _texts(column.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _texts(column.flatten())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from (text for text in column.unique().to_pylist() if text)
    elif pa.types.is_binary(kind):
        yield from (value.decode("utf-8", "replace") for value in column.to_pylist() if value)
