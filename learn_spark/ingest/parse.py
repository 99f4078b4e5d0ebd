"""Turns a line's strings into an event, or into a reason why it gives none: pure column functions."""

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from learn_spark.config.formats import POSITION
from learn_spark.config.ingest import UTC, IngestSettings
from learn_spark.config.mapping import EventTypeMapping, FieldMappings, IngestMapping
from learn_spark.config.sources import SourceSettings
from learn_spark.ingest.csv_lines import CORRUPT
from learn_spark.ingest.fields import (
    mapped,
    mapped_attributes,
    mapped_number,
    mapped_text,
    mapped_time,
    quoted,
    raised,
    unreadable_flags,
)
from learn_spark.ingest.readers import BAD_BYTES, INEXACT, RAW
from learn_spark.ingest.records import REPLACEMENT

FIRST_TIME, LAST_TIME = "1971-01-01", "2100-01-01"
NO_BEHAVIOUR, FILTERED, IGNORED, TOO_EARLY = (
    "no behaviour",
    "left out by where",
    "ignored event type",
    "time before ingest.start",
)
FORGOTTEN = "user or item is forgotten"
UNWANTED = (FILTERED, IGNORED, TOO_EARLY, FORGOTTEN)
NO_FAULTS = (NO_BEHAVIOUR, *UNWANTED)
LOST_DIGITS = "id lost its digits as a float"
SEPARATOR = "\x1f"
NUMBERS = ("value", "price")
TEXTS = ("title", "category", "brand", "keywords")
COLUMNS = ("user_id", "item_id", "event_type", "event_ts", *NUMBERS, *TEXTS, "attributes")
COLUMNS += ("raw", "source_file", "load_day", "reason")


def with_events(lines: DataFrame, settings: IngestSettings, is_one_of_several: bool = False) -> DataFrame:
    """One row per event, and per line that gives none: the contract's columns, `raw`, and `reason`.

    `reason` is null for a usable event, else the first thing that is wrong with the line, or why it is not wanted
    (`NO_FAULTS`). A line with several events gives a row for each of them, a rejected one gives one row.

    Args:
        lines: what `read_lines` returns.
        settings: mapping, known event types, what is too early or late. `load_day` is the file's day; if file names
            have no day, the event's day, or `ingest.start` if the time is unusable or earlier.
        is_one_of_several: whether lines of other sources, with other event types, may have the same values.
    """
    mapping = settings.mapping
    flags = mapping.event_type.flags
    parsed = lines.select(
        _key(mapping).alias("_key"),
        mapped(mapping.user_id).alias("user_id"),
        mapped(mapping.item_id).alias("item_id"),
        mapped_time(mapping.event_ts, settings.has_types(mapping.event_ts.column)).alias("event_ts"),
        raised(flags).alias("_types") if flags else mapped(mapping.event_type).alias("event_type"),
        _ignored(mapping.event_type).alias("_ignored"),
        *described(mapping),
        F.col(RAW).alias("raw"),
        *(column.alias(name) for name, column in problems(settings).items()),
        "source_file",
        "load_day",
    )
    reasoned = _with_reason(parsed, settings)
    if not settings.by_day:
        day = F.when(has_day(settings), F.to_date("event_ts")).otherwise(F.lit(settings.start))
        reasoned = reasoned.withColumn("load_day", day)
    return _one_row_an_event(reasoned, mapping, is_one_of_several)


def described(mapping: FieldMappings) -> list[Column]:
    """The columns that describe the item, and the numeric columns."""
    numbers = [name for name in NUMBERS if name in type(mapping).model_fields]
    return [
        *(mapped_number(getattr(mapping, name)).alias(name) for name in numbers),
        *(mapped_text(getattr(mapping, name)).alias(name) for name in TEXTS),
        mapped_attributes(mapping.attributes).alias("attributes"),
    ]


def problems(settings: SourceSettings) -> dict[str, Column]:
    """Helper columns for problems that only the line itself shows; their names begin with an underscore."""
    mapping = settings.mapping
    numbers = {name: getattr(mapping, name, None) for name in NUMBERS}
    flags = [field.flag_columns() for field in [*mapping.named().values(), *mapping.attributes.values()]]
    return {
        "_malformed": F.col(CORRUPT).isNotNull(),
        "_bytes": F.col(BAD_BYTES),
        "_filtered": ~_is_wanted(settings),
        "_inexact": F.col(INEXACT),
        **{f"_rows_{name}": _rows_of(name) for name in settings.lookups},
        "_flags": unreadable_flags({name: what for each in flags for name, what in each.items()}),
        **{
            f"_{name}": mapped(field).isNotNull() & mapped_number(field).isNull()
            for name, field in numbers.items()
            if field is not None and not field.lenient
        },
    }


def _is_wanted(settings: SourceSettings) -> Column:
    """Whether `where` keeps the line; a lookup's column does not exclude a line for which the lookup has no row."""
    wanted = []
    for name, values in settings.where.items():
        is_one = F.coalesce(F.trim(quoted(name)), F.lit("")).isin(values)
        lookup = settings.lookup_of(name)
        wanted.append(is_one | _rows_of(lookup).isNull() if lookup else is_one)
    return reduce(Column.__and__, wanted, F.lit(True))


def _rows_of(lookup: str) -> Column:
    """How many different rows a lookup has for the line: null for none, 1 for one, 2 for more."""
    return quoted(f"{lookup}.{POSITION}")


def _ignored(event_type: EventTypeMapping) -> Column:
    plain = event_type.model_copy(update={"map": {}, "by_prefix": {}, "default": None})
    return F.coalesce(mapped(plain).isin(event_type.ignore), F.lit(False)) if event_type.ignore else F.lit(False)


def line_reasons(settings: SourceSettings) -> dict[str, Column]:
    """The reasons that make a line unreadable or unwanted, whatever else it holds, and their conditions."""
    return {
        f"bytes that are not {settings.encoding}": F.col("_bytes"),
        "malformed line": F.col("_malformed"),
        FILTERED: F.col("_filtered"),
        **{f"no row of {name}": F.col(f"_rows_{name}").isNull() for name in settings.lookups},
        **{f"several rows of {name}": F.col(f"_rows_{name}") > 1 for name in settings.lookups},
    }


def value_reasons(mapping: FieldMappings, is_described: bool) -> dict[str, Column]:
    """The reasons for what is wrong with a description, a flag or a number, and their conditions."""
    numbers = [name for name in NUMBERS if getattr(mapping, name, None) and not getattr(mapping, name).lenient]
    return {
        **({"empty description": F.col("title").isNull()} if is_described else {}),
        **{f"unparsable {name}": F.col(f"_{name}") for name in numbers},
        "unparsable flag": F.col("_flags"),
    }


def first_of(reasons: dict[str, Column]) -> Column:
    """The first reason whose condition holds, else null."""
    return F.coalesce(*(F.when(condition, reason) for reason, condition in reasons.items()))


def delivery_day(time: Column, settings: IngestSettings) -> Column:
    """The day whose delivery an event of this time is part of if it is not late; its `ds` is always the UTC day."""
    return F.to_date(time if settings.timezone == UTC else F.from_utc_timestamp(time, settings.timezone))


def time_out_of_range(time: Column) -> Column:
    """Whether a time is before 1971 or after 2099: its unit is wrong, or it is no time at all."""
    return (time < FIRST_TIME) | (time >= LAST_TIME)


def has_day(settings: IngestSettings) -> Column:
    """Whether the time of an event names a day that can be loaded."""
    time = F.col("event_ts")
    return F.coalesce((time < _latest()) & (F.to_date(time) >= F.lit(settings.start)), F.lit(False))


def is_dated(settings: IngestSettings) -> Column:
    """Whether `load_day` is the line's own: that of its file, else of its time."""
    return F.lit(True) if settings.by_day else has_day(settings)


def num_lines(lines: DataFrame) -> int:
    """The number of lines of a whole log that are wanted, or only too early; rejects count, too."""
    return lines.where(
        F.col("reason").isNull() | ~F.col("reason").isin(NO_BEHAVIOUR, FILTERED, IGNORED, FORGOTTEN)
    ).count()


def _latest() -> Column:
    return F.current_timestamp() + F.expr("INTERVAL 1 DAY")


def _key(mapping: IngestMapping) -> Column:
    """What identifies the line: its given id, else its content."""
    columns = mapping.event_id.columns if mapping.event_id else mapping.source_columns()
    return F.concat_ws(SEPARATOR, *(F.coalesce(quoted(name), F.lit(REPLACEMENT)) for name in columns))


def _with_reason(parsed: DataFrame, settings: IngestSettings) -> DataFrame:
    mapping, time = settings.mapping, F.col("event_ts")
    is_early = (delivery_day(time, settings) < F.lit(settings.start)) & ~time_out_of_range(time)
    reasons = {
        **line_reasons(settings),
        IGNORED: F.col("_ignored"),
        **({} if settings.by_day else {TOO_EARLY: is_early}),
        LOST_DIGITS: F.col("_inexact"),
        "missing user": F.col("user_id").isNull(),
        "missing item": F.col("item_id").isNull(),
        **_time_reasons(settings),
        **({TOO_EARLY: is_early} if settings.by_day else {}),
    }
    if mapping.event_id:
        nothing = SEPARATOR.join([REPLACEMENT] * len(mapping.event_id.columns))
        reasons["missing event id"] = F.col("_key") == nothing
    if not mapping.event_type.flags:
        reasons["unknown event type"] = F.coalesce(~F.col("event_type").isin(settings.event_types), F.lit(True))
    reasons |= value_reasons(mapping, is_described=settings.items is None)
    if mapping.event_type.flags and not mapping.event_type.always:
        reasons[NO_BEHAVIOUR] = F.size("_types") == 0
    return parsed.withColumn("reason", first_of(reasons))


def _time_reasons(settings: IngestSettings) -> dict[str, Column]:
    time, load_day = F.col("event_ts"), F.col("load_day")
    day = delivery_day(time, settings)
    reasons = {"unparsable time": time.isNull(), "time out of range": time_out_of_range(time)}
    if settings.by_day:
        earliest = F.date_sub(load_day, settings.late_days)
        reasons |= {"time after the delivery's day": day > load_day, "too late": day < earliest}
    else:
        reasons["time in the future"] = time > _latest()
    return reasons


def _one_row_an_event(reasoned: DataFrame, mapping: IngestMapping, is_one_of_several: bool) -> DataFrame:
    key = F.col("_key")
    if mapping.event_type.flags:
        always = mapping.event_type.always
        types = F.concat(F.array(F.lit(always)), "_types") if always else F.col("_types")
        one = F.array(F.lit(None).cast("string"))
        reasoned = reasoned.withColumn("event_type", F.explode(F.when(F.col("reason").isNull(), types).otherwise(one)))
    if mapping.event_type.flags or is_one_of_several:
        key = F.concat_ws(SEPARATOR, key, "event_type")
    return reasoned.select(F.xxhash64(key).alias("event_id"), *COLUMNS)
