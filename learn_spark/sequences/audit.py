"""The leakage audit: nothing that was computed for a day may come from it or after it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta

from pyspark.sql import Column
from pyspark.sql import functions as F

from learn_spark.core.config import Config
from learn_spark.core.days import days_predicate
from learn_spark.core.errors import QualityError
from learn_spark.core.tables import Tables
from learn_spark.sequences.windows import sample_windows


@dataclass(frozen=True)
class AuditFigure:
    """One rule: how many rows were looked at and how many break it."""

    rule: str
    rows: int
    leaks: int


def audit_sequences(tables: Tables, config: Config, days: Sequence[date] | None = None) -> list[AuditFigure]:
    """Audits histories, targets, samples and windows: of these days, or of all."""
    as_of, ds = ("TRUE" if days is None else days_predicate(column, days) for column in ("as_of", "ds"))
    return [
        _count(
            tables,
            "sequences",
            as_of,
            "history < as_of <= target < as_of + target_days",
            ~_sequence_in_order(config),
        ),
        _count(
            tables,
            "sequences",
            as_of,
            "towers learn from targets before towers_end",
            (F.col("split") != "test") & (F.array_max("tar_ts") >= _seconds(config.windows.towers_end)),
        ),
        _count(
            tables,
            "sequences",
            as_of,
            "train targets end before validation begins",
            (F.col("split") == "train") & (F.array_max("tar_ts") >= _seconds(_validation_start(config))),
        ),
        _count(
            tables,
            "user_history",
            ds,
            "user_history < ds",
            F.array_max("event_ts") >= F.unix_seconds(F.col("ds").cast("timestamp")),
        ),
        _count(tables, "samples", "TRUE", "samples lie in their stage's window", ~_sample_in_window(config)),
    ]


def require_no_leak(figures: Sequence[AuditFigure]) -> list[dict[str, object]]:
    """The figures as JSON values.

    Raises:
        QualityError: where any rule is broken.
    """
    broken = [figure for figure in figures if figure.leaks]
    if broken:
        named = "; ".join(f"{figure.rule}: {figure.leaks} of {figure.rows} rows" for figure in broken)
        raise QualityError(f"leakage audit failed, nothing is published: {named}")
    return [asdict(figure) for figure in figures]


def _count(tables: Tables, table: str, rows: str, rule: str, leak: Column) -> AuditFigure:
    counted = (
        tables.read(table)
        .where(rows)
        .agg(F.count(F.lit(1)).alias("rows"), F.coalesce(F.count_if(leak), F.lit(0)).alias("leaks"))
    )
    return AuditFigure(rule, **counted.first().asDict())


def _seconds(day: date) -> Column:
    return F.unix_seconds(F.lit(day).cast("timestamp"))


def _validation_start(config: Config) -> date:
    return config.windows.towers_end - timedelta(days=config.sequences.target_days)


def _sequence_in_order(config: Config) -> Column:
    as_of = F.unix_seconds(F.col("as_of").cast("timestamp"))
    first_target = F.element_at("tar_ts", 1)
    last_target = F.array_max("tar_ts")
    reach = config.sequences.target_days * 86400
    return (F.array_max("hist_ts") < as_of) & (first_target >= as_of) & (last_target < as_of + reach)


def _sample_in_window(config: Config) -> Column:
    """Samples outside every configured window are another config's and are left alone."""
    right = F.lit(False)
    for window in sample_windows(config):
        inside = (F.col("ds") >= F.lit(window.start)) & (F.col("ds") < F.lit(window.end))
        right = right | (inside & (F.col("stage") == window.stage))
    return right & (F.to_date("event_ts") == F.col("ds"))
