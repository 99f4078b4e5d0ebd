"""The Spark types of a Parquet file's columns, found from the file alone.

Spark's own inference fails for the whole file because of one column, even an unmapped one: a time of day, or two names
that differ only in case. And pyarrow's types do not say how Spark reads a column: two different things are nanoseconds
to pyarrow.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NANOS, NANOS_UTC, UUID = "nanoseconds", "nanoseconds utc", "uuid"
_STORED = {NANOS: "bigint", NANOS_UTC: "bigint", UUID: "binary"}
_SIMPLE = {
    **{pa.int8(): "tinyint", pa.int16(): "smallint", pa.int32(): "int", pa.int64(): "bigint"},
    **{pa.uint8(): "smallint", pa.uint16(): "int", pa.uint32(): "bigint", pa.uint64(): "decimal(20,0)"},
    **{pa.float32(): "float", pa.float64(): "double", pa.bool_(): "boolean", pa.null(): "int"},
    **{pa.string(): "string", pa.large_string(): "string", pa.binary(): "binary", pa.large_binary(): "binary"},
    **{pa.date32(): "date", pa.date64(): "date"},
}
_UUID_BYTES, _MOST_DIGITS = 16, 38


def spark_types(file: pq.ParquetFile) -> list[str]:
    """A type per column: one of Spark SQL, `NANOS`, `NANOS_UTC` or `UUID`; empty if Spark cannot read the column."""
    leaves = (file.schema.column(number) for number in range(len(file.schema)))
    return [_named(kind, leaves, is_inner=False) for kind in file.schema_arrow.types]


def stored_as(kind: str) -> str:
    """The Spark SQL type by which Spark reads a column whose type in `spark_types` is `kind`."""
    return _STORED.get(kind, kind)


def _named(kind: pa.DataType, leaves: Iterator[Any], is_inner: bool) -> str:
    """The Spark type; consumes the type's physical columns (`leaves`) in order, whether or not Spark can read them."""
    if isinstance(kind, pa.BaseExtensionType):
        return _named(kind.storage_type, leaves, is_inner)
    if pa.types.is_dictionary(kind):
        return _named(kind.value_type, leaves, is_inner)
    if pa.types.is_map(kind):
        return _nested("map<{},{}>", [kind.key_type, kind.item_type], leaves)
    if pa.types.is_struct(kind):
        names = [kind.field(number).name.replace("`", "``") for number in range(kind.num_fields)]
        form = ",".join(f"`{name.replace('{', '{{').replace('}', '}}')}`:{{}}" for name in names)
        return _nested(f"struct<{form}>", [kind.field(number).type for number in range(kind.num_fields)], leaves)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _nested("array<{}>", [kind.value_type], leaves)
    leaf = _leaf(kind, next(leaves).physical_type)
    return stored_as(leaf) if is_inner else leaf


def _nested(form: str, kinds: list[pa.DataType], leaves: Iterator[Any]) -> str:
    inner = [_named(kind, leaves, is_inner=True) for kind in kinds]
    return form.format(*inner) if all(inner) else ""


def _leaf(kind: pa.DataType, physical: str) -> str:
    if pa.types.is_timestamp(kind):
        if kind.unit == "ns" and physical != "INT96":
            return NANOS_UTC if kind.tz else NANOS
        return "timestamp" if kind.tz or physical == "INT96" else "timestamp_ntz"
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})" if kind.precision <= _MOST_DIGITS else ""
    if pa.types.is_fixed_size_binary(kind):
        return UUID if kind.byte_width == _UUID_BYTES else "binary"
    return "bigint" if pa.types.is_duration(kind) else _SIMPLE.get(kind, "")
