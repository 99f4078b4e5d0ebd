"""The text of a typed value. One id has one text, whatever type a file gives it. Pure column functions."""

import math

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    DataType,
    DecimalType,
    DoubleType,
    FloatType,
    MapType,
    StructType,
    TimestampType,
)

from learn_spark.ingest.parquet_types import NANOS, NANOS_UTC, UUID

_EXACT = {DoubleType: 2.0**53, FloatType: 2.0**24}  # from here on not every whole number has a float of its own
_FLOAT_OF_JSON = r'^(-?\d+\.\d+(E-?\d+)?|"-?(NaN|Infinity)")$'  # as Spark writes one
_UUID_PARTS = r"^(.{8})(.{4})(.{4})(.{4})(.{12})$"


def as_text(column: Column, kind: DataType, stored: str) -> Column:
    """Any value's text; times with a zone end in Z.

    Args:
        column: the value.
        kind: its type in Spark.
        stored: its type in the file, as `spark_types` names it.
    """
    if stored in (NANOS, NANOS_UTC):
        column, kind = F.timestamp_micros(_micros(column)), TimestampType()
        if stored == NANOS:
            return column.cast("string")
    if stored == UUID:
        return F.regexp_replace(F.lower(F.hex(column)), _UUID_PARTS, "$1-$2-$3-$4-$5")
    if isinstance(kind, ArrayType | MapType | StructType):
        return F.to_json(column)
    if isinstance(kind, TimestampType):
        return F.concat(column.cast("string"), F.lit("Z"))
    return column.cast("string")


def _micros(nanos: Column) -> Column:
    """Whole microseconds, rounded down. In integers: doubles step by 256 ns there."""
    return F.call_function("div", nanos, F.lit(1000)) - (nanos % 1000 < 0).cast("bigint")


def id_as_text(column: Column, kind: DataType, stored: str) -> Column:
    """The same, but a whole number has its integer text from any type, and what is no number is null."""
    if isinstance(kind, DoubleType | FloatType):
        return _of_float(column, column.cast("string"))
    if isinstance(kind, DecimalType):
        whole = column.cast(f"decimal({kind.precision},0)").cast("string")
        return F.when(column % 1 == 0, whole).otherwise(column.cast("string"))
    return as_text(column, kind, stored)


def has_lost_digits(column: Column, kind: DataType) -> Column:
    """Whether a value is a float so large that neighbouring numbers have become one: two ids would be one."""
    exact = _EXACT.get(type(kind))
    size = F.abs(column)
    return F.coalesce((size >= exact) & (size < math.inf), F.lit(False)) if exact else F.lit(False)


def json_id(text: Column, number: Column) -> Column:
    """The text of an id in JSON; a string stays as it is.

    Args:
        text: what `from_json` gives as a string: the text of a string, or of a number as Spark writes it.
        number: what it gives as a double: null for strings.
    """
    is_number = text.rlike(_FLOAT_OF_JSON) & number.isNotNull()
    return F.when(is_number, _of_float(number, text)).otherwise(text)


def json_id_has_lost_digits(text: Column, number: Column) -> Column:
    """Of an id in JSON, as `has_lost_digits`; a number that is written as an integer keeps all its digits."""
    is_number = text.rlike(_FLOAT_OF_JSON) & number.isNotNull()
    return F.when(is_number, has_lost_digits(number, DoubleType())).otherwise(F.lit(False))


def _of_float(number: Column, otherwise: Column) -> Column:
    is_one = F.abs(number) < math.inf  # to Spark NaN is the largest number
    is_whole = is_one & (number % 1 == 0) & (F.abs(number) < _EXACT[DoubleType])
    return F.when(is_whole, number.cast("bigint").cast("string")).when(is_one, otherwise)
