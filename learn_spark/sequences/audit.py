"""The leakage audit: nothing that was computed for a day may come from it or after it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from learn_spark.config.load import Config
from learn_spark.errors import QualityError
from learn_spark.lake.days import DayRange, days_predicate
from learn_spark.lake.frames import only_row
from learn_spark.lake.tables import Tables
from learn_spark.sequences.samples import is_mature
from learn_spark.sequences.windows import as_of_dates, sample_windows


@dataclass(frozen=True)
class AuditFigure:
    """One rule: how many rows were checked, and how many break it."""

    rule: str
    rows: int
    leaks: int

    def __str__(self) -> str:
        return f"{self.leaks:>10,} leaks in {self.rows:>14,} rows: {self.rule}"


def audit_sequences(tables: Tables, config: Config, days: Sequence[date] | None = None) -> list[AuditFigure]:
    """Audits histories, targets, samples and windows: all rows, or only what a build of these days writes."""
    if config.sequences.protocol == "leave_one_out":
        rows = _rows(tables, "sequences", "as_of", days)
        return _figures(_with_neighbours(rows), _leave_one_out_rules(config))
    dates = covered = None
    if days is not None:
        dates = [day for day in as_of_dates(config) if day in set(days)]
        windows = [window for window in sample_windows(config) if window.end in set(days)]
        covered = [day for window in windows for day in DayRange(window.start, window.end)]
    return [
        *_figures(_rows(tables, "sequences", "as_of", dates), _sequence_rules(config)),
        *_figures(_rows(tables, "user_history", "ds", days), _history_rules(config)),
        *_figures(_rows(tables, "samples", "ds", covered), _sample_rules(config)),
    ]


def require_no_leak(figures: Sequence[AuditFigure]) -> list[dict[str, object]]:
    """The figures as JSON values.

    Raises:
        QualityError: a rule is broken.
    """
    broken = [figure for figure in figures if figure.leaks]
    if broken:
        named = "; ".join(f"{figure.rule}: {figure.leaks} of {figure.rows} rows" for figure in broken)
        raise QualityError(f"leakage audit failed: {named}")
    return [asdict(figure) for figure in figures]


def _rows(tables: Tables, table: str, day_column: str, days: Sequence[date] | None) -> DataFrame | None:
    """The rows of these days, or all if `days` is None; None if `days` is empty."""
    if days is None:
        return tables.read(table)
    return tables.read(table).where(days_predicate(day_column, days)) if days else None


def _figures(rows: DataFrame | None, leaks: Mapping[str, Column]) -> list[AuditFigure]:
    """All rules of a table in one scan."""
    if rows is None:
        return []
    counts = [F.coalesce(F.count_if(leak), F.lit(0)) for leak in leaks.values()]
    total, *found = only_row(rows.agg(F.count(F.lit(1)), *counts))
    return [AuditFigure(rule, total, broken) for rule, broken in zip(leaks, found, strict=True)]


def _sequence_rules(config: Config) -> dict[str, Column]:
    towers_end = config.windows.towers_end
    validation = towers_end - timedelta(days=config.sequences.target_days)
    as_of, last_target = F.unix_seconds(F.col("as_of").cast("timestamp")), F.array_max("tar_ts")
    reach = config.sequences.target_days * 86400
    is_ordered = (F.array_max("hist_ts") < as_of) & (F.element_at("tar_ts", 1) >= as_of) & (last_target < as_of + reach)
    return {
        "history < as_of <= target < as_of + target_days": ~is_ordered,
        **_type_rules(config, hist_types=F.col("hist_len"), tar_types=F.col("tar_len")),
        "towers learn from targets before towers_end": (F.col("split") != "test") & (last_target >= _epoch(towers_end)),
        "train targets end before validation begins": (F.col("split") == "train") & (last_target >= _epoch(validation)),
    }


def _history_rules(config: Config) -> dict[str, Column]:
    return {
        "user_history < ds": F.array_max("event_ts") >= F.unix_seconds(F.col("ds").cast("timestamp")),
        **_type_rules(config, event_types=F.size("item_idx")),
    }


def _type_rules(config: Config, **lengths: Column) -> dict[str, Column]:
    """The rule if event types are kept: there are as many codes as events, and each code is a known type."""
    if not (known := len(config.sequences.event_types)):
        return {}
    is_whole = F.lit(True)
    for types, length in lengths.items():
        codes = F.filter(types, lambda code: (code > 0) & (code <= known))
        is_whole = is_whole & F.coalesce(F.size(codes) == length, F.lit(False))
    return {"each event has its type": ~is_whole}


def _sample_rules(config: Config) -> dict[str, Column]:
    """Each stage has one window; a row outside its stage's window would train, or test, what it must not."""
    is_inside = F.lit(False)
    for window in sample_windows(config):
        in_window = (F.col("ds") >= F.lit(window.start)) & (F.col("ds") < F.lit(window.end))
        is_inside = is_inside | (in_window & (F.col("stage") == window.stage))
    rules = {"samples lie in their stage's window": ~(is_inside & (F.to_date("event_ts") == F.col("ds")))}
    if config.samples.labels == "observed":
        is_known = F.lit(False)
        for window in sample_windows(config):
            is_known = is_known | ((F.col("stage") == window.stage) & is_mature(window, config.samples))
        rules["labels are known before their stage's window ends"] = ~is_known
    return rules


def _with_neighbours(rows: DataFrame | None) -> DataFrame | None:
    """Adds to each target the user's previous target, and the user's last position."""
    if rows is None:
        return None
    of_user = Window.partitionBy("user_id", "as_of")
    return rows.select(
        "position",
        "split",
        "hist_len",
        F.element_at("hist_items", F.col("hist_len")).alias("last_item"),
        F.element_at("hist_ts", F.col("hist_len")).alias("last_ts"),
        F.element_at("tar_ts", 1).alias("target_ts"),
        *(name for name in ("hist_types", "tar_types") if name in rows.columns),
        F.lag(F.element_at("tar_items", 1)).over(of_user.orderBy("position")).alias("item_before"),
        F.max("position").over(of_user).alias("last_position"),
    )


def _leave_one_out_rules(config: Config) -> dict[str, Column]:
    position, left = F.col("position"), F.col("last_position") - F.col("position")
    split = F.when(left == 0, "test").when(left == 1, "val").otherwise("train")
    is_known = F.col("hist_len") <= F.least(position, F.lit(config.sequences.history_length))
    is_next = F.coalesce(F.col("last_item") == F.col("item_before"), position == 1)
    is_before = is_known & is_next & (F.col("last_ts") <= F.col("target_ts"))
    return {
        "a history ends with the event before its target": ~is_before,
        **_type_rules(config, hist_types=F.col("hist_len"), tar_types=F.lit(1)),
        "a user's last target tests, the one before validates": F.col("split") != split,
    }


def _epoch(day: date) -> Column:
    return F.unix_seconds(F.lit(day).cast("timestamp"))
