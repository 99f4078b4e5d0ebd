"""Writes sequences, histories and samples of the asked days."""

from collections.abc import Sequence
from datetime import date, timedelta
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.lake.arrow_rows import gathered
from learn_spark.lake.days import ONE_DAY, DayRange, days_predicate
from learn_spark.runs.ledger import StepResult
from learn_spark.runs.steps import BUILD_SEQUENCES, Context
from learn_spark.sequences.audit import audit_sequences, require_no_leak
from learn_spark.sequences.counts import require_rows
from learn_spark.sequences.events import HeavyUser, heaviest, limited, sided_events, survey, tasks_of
from learn_spark.sequences.histories import full_histories, next_histories, sequences
from learn_spark.sequences.leave_one_out import core_of, leave_one_out
from learn_spark.sequences.samples import window_samples
from learn_spark.sequences.windows import as_of_dates, sample_windows

_STORED_WEIGHT = 1 / 15  # of a stored entry, in events: 12 bytes against 60; a user has about three events per day


def build_sequences(context: Context, days: Sequence[date]) -> StepResult:
    """Writes what each day stands for, then counts and audits what was written.

    For an as-of date of the towers: `sequences`. For a day from `towers_end` on: `user_history`, on that first day of
    all users, later of those who were active on the day before. For the end of a window: its `samples`. With the
    protocol leave_one_out: `sequences` of the whole log.

    Sequences and samples of dates and windows that the config no longer has are removed on the way.

    Raises:
        ConfigError: a complete split or window has no row.
        QualityError: the audit finds a leak.
    """
    builder = _Builder(context)
    if context.config.sequences.protocol == "leave_one_out":
        written = {"sequences": builder.write_leave_one_out(days)}
    else:
        written = {
            "sequences": builder.write_sequences(days),
            "user_history": builder.write_histories(days),
            "samples": builder.write_samples(days),
        }
    ranges = require_rows(context, days)
    audit = require_no_leak(audit_sequences(context.tables, context.config, days))
    return StepResult(
        rows_in=builder.rows_in,
        rows_out=sum(written.values()),
        details={
            "rows": written,
            "ranges": ranges,
            "audit": audit,
            "heavy_users": [vars(user) for user in builder.heavy[:10]],
        },
    )


class _Builder:
    """Writes the parts; `rows_in` counts the events that each could use, `heavy` are the users with a rank limit."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tables = context.tables
        self._settings = context.config.sequences
        self._interactions = context.tables.read("interactions")
        self.rows_in = 0
        self.heavy: list[HeavyUser] = []

    def write_sequences(self, days: Sequence[date]) -> int:
        dates = as_of_dates(self._context.config)
        splits = {day: dates[day] for day in days if day in dates}
        if not splits:
            return 0
        self._forget_former_days()
        targets_end = max(splits) + timedelta(days=self._settings.target_days)
        events, count = self._limited(self._reach(min(splits)), targets_end)
        others = days_predicate("as_of", [day for day in dates if day not in splits])
        tasks = tasks_of(events, count)
        rows = gathered(sequences(events, splits, self._settings, tasks), tasks, len(splits))
        return self._tables.overwrite_where("sequences", rows, f"NOT ({others})")

    def write_histories(self, days: Sequence[date]) -> int:
        first = self._context.config.windows.towers_end
        later, rows = [day for day in days if day > first], 0
        if first in days:
            events, count = self._limited(self._reach(first), first, sampling="recent")
            full = full_histories(events, first, self._settings, tasks_of(events, count))
            rows += self._tables.overwrite_days("user_history", full, [first])
        if later:
            previous = self._tables.read("user_history").where(F.col("ds") >= F.lit(first))
            events, count = self._limited(min(later) - ONE_DAY, max(later), sampling="recent")
            with_stored = round(count * (1 + self._settings.history_length * _STORED_WEIGHT))
            tasks = tasks_of(events, with_stored)
            following = next_histories(previous, events, later, self._settings, tasks)
            following = gathered(following, tasks, len(later))
            rows += self._tables.overwrite_days("user_history", following, later)
        return rows

    def write_samples(self, days: Sequence[date]) -> int:
        config = self._context.config
        windows = [window for window in sample_windows(config) if window.end in set(days)]
        if not windows:
            return 0
        self._forget_former_days()
        frames = [
            window_samples(self._interactions, window, config.samples, self._settings.target_events)
            for window in windows
        ]
        covered = days_predicate("ds", [day for window in windows for day in DayRange(window.start, window.end)])
        stages = ", ".join(f"'{window.stage}'" for window in windows)
        rows = reduce(DataFrame.unionByName, frames)
        return self._tables.overwrite_where("samples", rows, f"({covered}) OR stage IN ({stages})")

    def write_leave_one_out(self, days: Sequence[date]) -> int:
        self._forget_former_days()
        events = self._events(self._context.config.ingest.start, max(days)).localCheckpoint(eager=False)
        self.rows_in = events.count()
        core = core_of(events, self.rows_in, self._settings.k_core)
        rows = leave_one_out(core, max(days), self._settings, tasks_of(events, self.rows_in))
        return self._tables.overwrite_where("sequences", rows, "as_of IS NOT NULL")

    def _forget_former_days(self) -> None:
        """Removes days of another config from the ledger: their sequences and samples are partly replaced here."""
        context, step = self._context, BUILD_SEQUENCES
        own = [row for row in context.ledger.recorded().values() if row.step == step]
        former = [row.day for row in own if row.fingerprint != context.fingerprint(step, row.day)]
        context.invalidate(step, former, scope="forgotten")

    def _reach(self, as_of: date) -> date:
        return as_of - timedelta(days=self._settings.history_days)

    def _events(self, start: date, end: date) -> DataFrame:
        in_reach = (F.col("ds") >= F.lit(start)) & (F.col("ds") < F.lit(end))
        return sided_events(self._interactions.where(in_reach), self._settings)

    def _limited(self, start: date, end: date, sampling: str | None = None) -> tuple[DataFrame, int]:
        """Events, with a rank limit for their heavy users, and how many there were before it.

        `sampling`: used instead of the config's, if given.
        """
        events = self._events(start, end)
        found = survey(events)
        self.rows_in += found.rows
        self.heavy = heaviest([*self.heavy, *found.heavy])
        changes = {"sampling": sampling} if sampling else {}
        return limited(events, found.heavy, self._settings.model_copy(update=changes)), found.rows
