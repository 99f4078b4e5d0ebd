"""The text of a typed value. One id has one text, whatever type a file gives it. Pure column functions."""

import math

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    DecimalType,
    DoubleType,
    FloatType,
    MapType,
    StructType,
    TimestampType,
)

from learn_spark.ingest.parquet_types import NANOS, NANOS_UTC, UUID
from learn_spark.ingest.shapes import Value

_EXACT = {DoubleType: 2.0**53, FloatType: 2.0**24}  # from here on, some whole numbers share a float
_FLOAT_OF_JSON = r'^(-?\d+\.\d+(E-?\d+)?|"-?(NaN|Infinity)")$'  # as Spark writes one
_UUID_PARTS = r"^(.{8})(.{4})(.{4})(.{4})(.{12})$"


def as_text(value: Value) -> Column:
    """Any value's text; times with a zone end in Z."""
    column, kind = value.column, value.kind
    if value.stored in (NANOS, NANOS_UTC):
        column, kind = F.timestamp_micros(_micros(column)), TimestampType()
        if value.stored == NANOS:
            return column.cast("string")
    if value.stored == UUID:
        return F.regexp_replace(F.lower(F.hex(column)), _UUID_PARTS, "$1-$2-$3-$4-$5")
    if isinstance(kind, ArrayType | MapType | StructType):
        return F.to_json(column)
    if isinstance(kind, TimestampType):
        return F.concat(column.cast("string"), F.lit("Z"))
    return column.cast("string")


def _micros(nanos: Column) -> Column:
    """Whole microseconds, rounded down. In integers, because doubles of this size have steps of 256 ns."""
    return F.call_function("div", nanos, F.lit(1000)) - (nanos % 1000 < 0).cast("bigint")


def id_as_text(value: Value) -> Column:
    """As `as_text`, but a whole number of any numeric type gets its integer text, and NaN and infinity become null.

    A string stays as it is, in JSON, too: there `"5.2E7"` is a string, and 5.2E7 a number.
    """
    column, kind, text = value.column, value.kind, as_text(value)
    if isinstance(kind, DoubleType | FloatType):
        return _of_float(column, text)
    if isinstance(kind, DecimalType):
        return F.when(column % 1 == 0, column.cast(f"decimal({kind.precision},0)").cast("string")).otherwise(text)
    if value.number is not None:
        return F.when(_is_float_of_json(value), _of_float(value.number, text)).otherwise(text)
    return text


def has_lost_digits(value: Value) -> Column:
    """Whether a value is a float so large that neighbouring whole numbers, so two ids, would be equal."""
    if value.number is not None:
        return F.when(_is_float_of_json(value), _is_beyond(value.number, _EXACT[DoubleType])).otherwise(F.lit(False))
    exact = _EXACT.get(type(value.kind))
    return _is_beyond(value.column, exact) if exact else F.lit(False)


def _is_float_of_json(value: Value) -> Column:
    """Whether JSON has a number here that is not written as an integer (an integer has all its digits)."""
    is_one = F.lit(False) if value.number is None else value.number.isNotNull()
    return F.when(value.column.rlike(_FLOAT_OF_JSON), is_one).otherwise(F.lit(False))


def _is_beyond(number: Column, exact: float) -> Column:
    return F.coalesce((F.abs(number) >= exact) & (F.abs(number) < math.inf), F.lit(False))


def _of_float(number: Column, otherwise: Column) -> Column:
    is_one = F.abs(number) < math.inf  # Spark takes NaN for the largest number
    is_whole = is_one & (number % 1 == 0) & (F.abs(number) < _EXACT[DoubleType])
    return F.when(is_whole, number.cast("bigint").cast("string")).when(is_one, otherwise)
