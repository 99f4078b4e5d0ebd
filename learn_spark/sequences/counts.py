"""The ranges that the windows define, how many rows each one has, and the error about empty ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column
from pyspark.sql import functions as F

from learn_spark.config.load import Config
from learn_spark.errors import ConfigError
from learn_spark.runs.steps import BUILD_SEQUENCES, Context
from learn_spark.sequences.windows import as_of_dates, sample_windows

_SPLITS = {
    "train": ("windows.first_as_of", "windows.towers_end", "sequences.target_days"),
    "val": ("windows.towers_end", "sequences.target_days"),
    "test": ("windows.towers_end", "windows.end", "sequences.target_days"),
}
_STAGES = {
    "cvr train": ("windows.towers_end", "windows.cvr_end", "cvr.validation_days"),
    "cvr validation": ("windows.cvr_end", "cvr.validation_days"),
    "cvr": ("windows.towers_end", "windows.cvr_end"),
    "ranker_train": ("windows.cvr_end", "windows.ranker_train_end"),
    "ranker_test": ("windows.ranker_train_end", "windows.end"),
}


@dataclass(frozen=True)
class Range:
    """Days from which one stage learns, or on which it is tested.

    Attributes:
        name: a split of `sequences`, or a stage of `samples`; the conversion model's has two parts.
        start, end: of the events that are its targets or its samples; `end` is exclusive.
        as_of: the as-of dates, if it is a split.
        keys: the config keys that move it.
    """

    name: str
    start: date
    end: date
    keys: Sequence[str]
    as_of: Sequence[date] = ()


def ranges(config: Config) -> list[Range]:
    """Every range of the protocol `time`, splits first."""
    windows, reach = config.windows, timedelta(days=config.sequences.target_days)
    by_split: dict[str, list[date]] = {}
    for day, split in as_of_dates(config).items():
        by_split.setdefault(split, []).append(day)
    found = [Range(name, days[0], days[-1] + reach, _SPLITS[name], days) for name, days in by_split.items()]
    validation = windows.cvr_end - timedelta(days=config.cvr.validation_days)
    cvr, *others = sample_windows(config)
    spans = {"cvr train": (cvr.start, validation), "cvr validation": (validation, cvr.end)}
    if validation <= cvr.start:  # nothing can be trained, but nights need no training
        spans = {"cvr": (cvr.start, cvr.end)}
    spans |= {window.stage: (window.start, window.end) for window in others}
    return found + [Range(name, *span, _STAGES[name]) for name, span in spans.items()]


def require_training_days(config: Config) -> None:
    """Refuses windows in which the conversion model's validation leaves no day for training.

    Raises:
        ConfigError: there is no day to train on.
    """
    windows, held = config.windows, config.cvr.validation_days
    days = (windows.cvr_end - windows.towers_end).days
    if held >= days:
        raise ConfigError(
            f"cvr.validation_days ({held}) leaves no day to train on: windows.towers_end ({windows.towers_end}) to"
            f" cvr_end ({windows.cvr_end}) are {days} day{'s' if days > 1 else ''}"
        )


def refusal(asked: Iterable[Range], rows: Mapping[str, int], spread: str) -> str | None:
    """Why a run with these rows would learn or measure nothing, and what to change; None if each range has rows.

    Args:
        asked: ranges that should have rows.
        rows: how many there are, by a range's name.
        spread: in words, on which days there are events at all.
    """
    asked = list(asked)
    empty = [each for each in asked if not rows.get(each.name)]
    if not empty:
        return None
    keys = dict.fromkeys(key for each in empty for key in each.keys)
    told = "; ".join(_told(each, rows.get(each.name, 0)) for each in asked)
    return f"no rows for {', '.join(each.name for each in empty)}: {told}; {spread}: change {', '.join(keys)}"


def _told(each: Range, rows: int) -> str:
    if not each.as_of:
        return f"{each.name} {rows:,} samples of {each.start} .. {each.end - timedelta(days=1)}"
    first, last = each.as_of[0], each.as_of[-1]
    dates = f"{len(each.as_of)} as-of dates {first} .. {last}" if first < last else f"as-of date {first}"
    return f"{each.name} {rows:,} rows from {dates}"


def spread(days: Sequence[date]) -> str:
    """`events lie on 5 of 61 days (2018-01-01 .. 2018-03-02)`."""
    if not days:
        return "there are no events"
    first, last = min(days), max(days)
    return f"events lie on {len(days):,} of {(last - first).days + 1:,} days ({first} .. {last})"


def require_rows(context: Context, days: Sequence[date]) -> dict[str, int]:
    """Counts the rows of the ranges that are complete with these days, over all that is written.

    Returns:
        Rows by range.

    Raises:
        ConfigError: a range is empty.
    """
    config, done = context.config, set(days)
    if config.sequences.protocol == "leave_one_out":
        rows = _rows(context, "sequences", "split")
        lacking = [name for name in _SPLITS if not rows.get(name)]
        if lacking:
            counted = ", ".join(f"{name} {rows.get(name, 0):,}" for name in _SPLITS)
            raise ConfigError(
                f"no rows for {', '.join(lacking)}: {counted}; {_spread(context)}: each user needs three events of"
                f" sequences.target_events after sequences.k_core ({config.sequences.k_core}) has dropped the rare ones"
            )
        return rows
    ends = {"cvr train": config.windows.cvr_end}
    built = done | {day for step, day in context.ledger.recorded() if step == BUILD_SEQUENCES}

    def is_whole(each: Range) -> bool:
        if each.as_of:
            return bool(done & set(each.as_of)) and built >= set(each.as_of)
        return ends.get(each.name, each.end) in done

    asked = [each for each in ranges(config) if is_whole(each)]
    rows = {}
    if any(each.as_of for each in asked):
        rows |= _rows(context, "sequences", "split")
    if any(not each.as_of for each in asked):
        parts = [each for each in asked if each.name == "cvr validation"]
        part = F.lit("cvr")
        if parts:
            part = F.when(F.col("ds") >= F.lit(parts[0].start), "cvr validation").otherwise("cvr train")
        rows |= _rows(context, "samples", F.when(F.col("stage") == "cvr", part).otherwise(F.col("stage")))
    if any(not rows.get(each.name) for each in asked):
        raise ConfigError(refusal(asked, rows, _spread(context)))
    return {each.name: rows[each.name] for each in asked}


def _rows(context: Context, table: str, by: str | Column) -> dict[str, int]:
    counted = context.tables.read(table).groupBy((F.col(by) if isinstance(by, str) else by).alias("part")).count()
    return {row["part"]: row["count"] for row in counted.collect()}


def _spread(context: Context) -> str:
    sides = {*context.config.sequences.history_events, *context.config.sequences.target_events}
    events = context.tables.read("interactions").where(F.col("event_type").isin(*sides))
    return spread([row.ds for row in events.select("ds").distinct().collect()])
