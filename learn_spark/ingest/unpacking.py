"""Packed files, told by their first bytes and opened as what they hold, whatever they are called."""

import bz2
import gzip
import io
import zipfile
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from learn_spark.storage import Place

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}
_PARQUET = b"PAR1"
_OTHERS = {
    _PARQUET: "Parquet",
    b"ORC": "ORC",
    b"Obj\x01": "Avro",
    b"ARROW1": "Arrow",
    b"SQLite format 3": "SQLite",
    b"\x89HDF": "HDF5",
    b"\xd0\xcf\x11\xe0": "an Office document",
}
_FIRST = 16
_NO_TEXT = set(range(32)) - set(b"\t\n\r")
_BY_SUFFIX = {".gz": "gzip", ".bz2": "bzip2"}
# Spark unpacks by the suffix alone, or fails: whatever lies in the file.
_TAKEN_BY_SUFFIX = {*_BY_SUFFIX, ".deflate", ".snappy", ".lz4", ".zst", ".zstd"}


class PackingError(Exception):
    """A packed file that does not hold one file."""


class OtherFormatError(Exception):
    """A file that its first bytes call another format than the config does."""


def first_bytes(path: Place) -> bytes:
    """What tells how a file is packed and what it holds; all of a shorter file."""
    with path.open("rb") as stream:
        return stream.read(_FIRST)


def require_format(first: bytes, wanted: str) -> None:
    """Holds a file's first bytes against `format`.

    Raises:
        OtherFormatError: says what it is, and the way out.
    """
    if wanted == "parquet":
        if not first.startswith(_PARQUET):
            raise OtherFormatError(f"no Parquet, it begins with {first[:8]!r}: say in `format` what it is")
        return
    kind = next((kind for magic, kind in _OTHERS.items() if first.startswith(magic)), None)
    if kind and any(byte in _NO_TEXT for byte in first):  # a column may be called ORCHID
        way = "set `format: parquet`" if first.startswith(_PARQUET) else "make csv, JSON lines or Parquet of it"
        raise OtherFormatError(f"holds {kind}, not {wanted}: {way}")


def packing_of(first: bytes) -> str:
    """gzip, bzip2, zstd or zip; empty of a plain file."""
    return next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), "")


def is_spark_able(path: str, packing: str) -> bool:
    """Whether Spark itself unpacks the file as what it is."""
    suffix = Path(path).suffix
    return _BY_SUFFIX.get(suffix) == packing if packing else suffix not in _TAKEN_BY_SUFFIX


def open_file(path: Place) -> BinaryIO:
    """A file's bytes, unpacked where its first bytes say that they are packed.

    Raises:
        PackingError: of a zip that does not hold exactly one file, or holds it encrypted.
    """
    stream = cast("BinaryIO", path.open("rb"))
    packing = packing_of(stream.read(_FIRST))
    stream.seek(0)
    if packing == "zip":
        return _open_member(stream)
    if packing == "zstd":
        return cast("BinaryIO", io.BufferedReader(_Stream(pa.CompressedInputStream(pa.PythonFile(stream), "zstd"))))
    if packing == "gzip":
        return cast("BinaryIO", gzip.open(stream, "rb"))
    return cast("BinaryIO", bz2.open(stream, "rb")) if packing == "bzip2" else stream


def _open_member(stream: BinaryIO) -> BinaryIO:
    archive = zipfile.ZipFile(stream)
    members = [each for each in archive.infolist() if not each.is_dir() and not each.filename.startswith("__MACOSX/")]
    if any(each.filename == "[Content_Types].xml" for each in members):
        raise PackingError("an Office document, as Excel's xlsx: save its sheet as csv")
    if len(members) != 1:
        names = ", ".join(each.filename for each in members[:3])
        raise PackingError(f"a zip of {len(members)} files ({names}), where one is read: unpack it")
    if members[0].flag_bits & 1:
        raise PackingError(f"a zip that is encrypted ({members[0].filename}): unpack it")
    return cast("BinaryIO", archive.open(members[0]))


class _Stream(io.RawIOBase):
    """An Arrow stream as one of Python's."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        read = self._stream.read(len(buffer))
        buffer[: len(read)] = read
        return len(read)

    def close(self) -> None:
        self._stream.close()
        super().close()
