"""From a line's strings to an event or a reason why not: pure column functions."""

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from learn_spark.core.settings import FieldMapping, IngestMapping, IngestSettings

CORRUPT = "_corrupt_record"
RAW_BYTES = 4096
FIRST_TIME, LAST_TIME = "1971-01-01", "2100-01-01"
REPLACEMENT = "\ufffd"
SEPARATOR = "\x1f"
_NUMBERS = ("value", "price")
_TEXTS = ("category", "brand", "keywords")


def with_events(lines: DataFrame, settings: IngestSettings) -> DataFrame:
    """Adds the contract's columns and `reason`: null for a usable line, else the first thing that is wrong.

    Args:
        lines: string columns of the source, `_corrupt_record`, `source_file`, `file_day`.
        settings: mapping and known event types.
    """
    mapping = settings.mapping
    fields = mapping.named()
    source = {name: _mapped(field) for name, field in fields.items()}
    columns = {
        "event_id": _content_hash(mapping),
        "user_id": source["user_id"],
        "item_id": source["item_id"],
        "event_type": source["event_type"],
        "event_ts": _time(source["event_ts"], mapping.event_ts),
        "title": source["title"],
    }
    for name in _NUMBERS:
        columns[name] = source[name].try_cast("double") if name in source else F.lit(None).cast("double")
    for name in _TEXTS:
        columns[name] = source.get(name, F.lit(None).cast("string"))
    columns["attributes"] = _attributes(mapping)
    raw = F.coalesce(F.col(CORRUPT), F.concat_ws(settings.delimiter, *map(_quoted, mapping.source_columns())))
    given = {name: source[name] for name in _NUMBERS if name in source}
    parsed = lines.select(
        *(column.alias(name) for name, column in columns.items()),
        *(column.alias(f"_{name}") for name, column in given.items()),
        F.substring(raw, 1, RAW_BYTES).alias("raw"),
        F.col(CORRUPT).isNotNull().alias("_malformed"),
        "source_file",
        "file_day",
    )
    reasoned = parsed.withColumn("reason", _reason(settings, list(given)))
    return reasoned.drop("_malformed", *(f"_{name}" for name in given))


def _quoted(name: str) -> Column:
    return F.col(f"`{name}`")


def _mapped(field: FieldMapping) -> Column:
    """The field's raw value: trimmed, null where empty."""
    if field.column is None:
        return F.lit(field.constant)
    text = F.trim(_quoted(field.column))
    if field.strip_suffix:
        length = len(field.strip_suffix)
        text = F.when(text.endswith(field.strip_suffix), text.substr(F.lit(1), F.length(text) - length)).otherwise(text)
    text = F.when(text != "", text)
    if not field.by_prefix:
        return F.coalesce(text, F.lit(field.default)) if field.default else text
    otherwise = F.when(text.isNotNull(), F.lit(field.default))
    branches = sorted(field.by_prefix.items(), key=lambda pair: len(pair[0]))  # the longest prefix is asked first
    return reduce(lambda rest, pair: F.when(text.startswith(pair[0]), pair[1]).otherwise(rest), branches, otherwise)


def _time(text: Column, field: FieldMapping) -> Column:
    return F.try_to_timestamp(text, F.lit(field.format)) if field.format else F.try_to_timestamp(text)


def _attributes(mapping: IngestMapping) -> Column:
    pairs = [part for name, field in mapping.attributes.items() for part in (F.lit(name), _mapped(field))]
    return F.create_map(*pairs) if pairs else F.lit(None).cast("map<string,string>")


def _content_hash(mapping: IngestMapping) -> Column:
    """Names an event by its content: the log has no event id."""
    values = [F.coalesce(_quoted(name), F.lit(REPLACEMENT)) for name in mapping.source_columns()]
    return F.substring(F.sha2(F.concat_ws(SEPARATOR, *values), 256), 1, 32)


def _reason(settings: IngestSettings, numbers: list[str]) -> Column:
    ts = F.col("event_ts")
    wrong = {
        "malformed line": F.col("_malformed"),
        f"bytes that are not {settings.encoding}": F.contains(F.col("raw"), F.lit(REPLACEMENT)),
        "missing user": F.col("user_id").isNull(),
        "missing item": F.col("item_id").isNull(),
        "unparsable time": ts.isNull(),
        "time out of range": (ts < FIRST_TIME) | (ts >= LAST_TIME),
        "time outside the file's day": F.to_date(ts) != F.col("file_day"),
        "unknown event type": F.coalesce(~F.col("event_type").isin(settings.event_types), F.lit(True)),
        "empty description": F.col("title").isNull(),
        **{f"unparsable {name}": F.col(f"_{name}").isNotNull() & F.col(name).isNull() for name in numbers},
    }
    return F.coalesce(*(F.when(condition, reason) for reason, condition in wrong.items()))
