"""Days loaded one by one, at once, in pieces or in another order give equal tables, late events included."""

import random
import shutil
from collections import Counter
from datetime import date, datetime, timedelta

import pytest
from pyspark.sql import functions as F

from learn_spark.config.load import load_config
from learn_spark.lake.days import DayRange
from learn_spark.lake.tables import Tables
from learn_spark.pipeline import as_plan, backfill_days
from learn_spark.runs.plan import Standing
from learn_spark.runs.runner import RunOptions, run_plan
from learn_spark.sequences.windows import as_of_dates
from tests.builders.contexts import make_context
from tests.builders.logs import WEEK, line, write_day
from tests.builders.reading import rows
from tests.conftest import CONF

pytestmark = pytest.mark.spark

START, FEATURES, LAST, END = date(2011, 11, 1), date(2011, 11, 4), date(2011, 11, 7), date(2011, 11, 8)
LATE_DAYS = 2
STEPS = ("ingest_events", "build_sequences")


def deliveries(seed):
    """Lines by delivery day: most are of that day, some are late or too late, some are delivered again a day later."""
    rng = random.Random(seed)
    days = list(DayRange(START, END))
    found = {day: [] for day in days}
    for number in range(160):
        day = rng.choice(days)
        at = datetime(day.year, day.month, day.day, rng.choice([0, 9, 23]), rng.choice([0, 59]))
        late = rng.choice([0, 0, 0, 0, 1, 2, 3])
        event = line(
            InvoiceNo=str(number),
            StockCode=f"item {rng.randint(1, 9)}",
            Description=f"THING {rng.randint(1, 2)}",
            CustomerID=f"{rng.choice([1, 2, 3, 4, 5, 6, 7])}.0",
            InvoiceDate=str(at),
        )
        for again in {late, late + rng.choice([0, 0, 1])}:
            if day + timedelta(days=again) in found:
                found[day + timedelta(days=again)].append(event)
    return found


class Lake:
    """A separate lake on the shared logs."""

    def __init__(self, spark, folder, logs):
        settings = [f"lake.root={folder}/lake", f"output.dir={folder}/out", f"ingest.path={logs}"]
        settings += [f"windows.{key}={value}" for key, value in WEEK.items()]
        settings += [f"ingest.late_days={LATE_DAYS}", "sequences.target_days=1", "sequences.history_length=4"]
        config = load_config(CONF / "test.yaml", settings)
        self.folder, self.context = folder, make_context(spark, config)

    def run(self, start, end, restate=False):
        config = self.context.config
        days = backfill_days(config, DayRange(start, end))
        days["build_sequences"] = sorted({*days["build_sequences"], *(d for d in as_of_dates(config) if d < end)})
        plan = as_plan(days, STEPS, restate, follow_late=True)
        context = self.again()
        plan.missing(Standing.of(context))
        return run_plan(plan, context, RunOptions())

    def again(self):
        """A new context, which remembers nothing, as in another process."""
        return make_context(self.context.spark, self.context.config)

    def table(self, name, without=()):
        return rows(self.folder / "lake", name, frozenset(without))


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    for day, lines in deliveries(seed=4).items():
        write_day(folder, str(day), lines)
    return folder


@pytest.fixture(scope="module")
def scheduled(spark, tmp_path_factory, logs):
    """A lake made of the first days at once, then night by night; `before_last` is a copy without the last night."""
    lake = Lake(spark, tmp_path_factory.mktemp("scheduled"), logs)
    first = FEATURES + timedelta(days=1)
    lake.run(START, first)
    lake.reports = [lake.run(day, day + timedelta(days=1)) for day in DayRange(first, LAST)]
    lake.before_last = shutil.copytree(lake.folder, tmp_path_factory.mktemp("before_last") / "copy")
    lake.reports.append(lake.run(LAST, END))
    return lake


def expected_events(found):
    """(event day, earliest delivery) of each event that was at most `LATE_DAYS` late, counted."""
    earliest = {}
    for delivery, lines in found.items():
        for entry in lines:
            day = date.fromisoformat(entry["InvoiceDate"][:10])
            if delivery - day <= timedelta(days=LATE_DAYS):
                known = earliest.get(entry["InvoiceNo"], (day, delivery))
                earliest[entry["InvoiceNo"]] = (day, min(delivery, known[1]))
    return Counter(earliest.values())


def test_each_event_is_there_once_in_its_own_day(scheduled):
    events = scheduled.context.tables.read("interactions").select("ds", "load_day").collect()
    assert Counter((row.ds, row.load_day) for row in events) == expected_events(deliveries(seed=4))
    assert any(row.ds < row.load_day for row in events)
    brought = Counter(row.load_day for row in events)
    for report in scheduled.reports:
        ((_, days), *_) = report.done
        row = scheduled.again().ledger.recorded()["ingest_events", days[-1]]
        assert row.rows_out == sum(brought[day] for day in days), "rows written, not those that share a file with them"
    reasons = {row.reason for row in scheduled.context.tables.read("rejects").collect()}
    assert reasons == {"too late"}


def test_late_events_are_followed_by_what_they_touch(scheduled):
    """Nights with late events made more days than their own, and left nothing stale."""
    days = [
        len(dict((step.name, days) for step, days in report.done)["build_sequences"]) for report in scheduled.reports
    ]
    assert max(days) > 1
    assert not [row for row in scheduled.again().ledger.recorded().values() if row.is_stale]


def test_a_backfill_equals_the_scheduled_runs(spark, tmp_path, logs, scheduled):
    whole = Lake(spark, tmp_path / "whole", logs)
    whole.run(START, END)
    for name in ("interactions", "rejects", "items", "item_index", "user_history", "sequences", "samples"):
        assert whole.table(name) == scheduled.table(name), name
    assert len(whole.table("user_history")) > 15


@pytest.mark.long
def test_pieces_overlap_and_an_old_day_can_come_last(spark, tmp_path, logs, scheduled):
    mixed = Lake(spark, tmp_path / "mixed", logs)
    hole = date(2011, 11, 3)
    for start, end in ((START, hole), (hole + timedelta(days=1), END), (hole, hole + timedelta(days=1))):
        plan = as_plan({"ingest_events": list(DayRange(start, end))})
        run_plan(plan, mixed.again(), RunOptions(step_days=3, max_parallel=2))
    mixed.run(START, END)
    numbers = ("item_idx",)  # numbers follow the order of loading
    assert mixed.table("interactions", numbers) == scheduled.table("interactions", numbers)
    for name in ("samples", "rejects"):
        assert mixed.table(name) == scheduled.table(name), name
    assert _times(mixed) == _times(scheduled)


@pytest.mark.long
def test_nights_go_on_when_old_raw_files_are_deleted(spark, tmp_path, logs, scheduled):
    shutil.copytree(logs, tmp_path / "logs")
    shutil.copytree(scheduled.before_last, tmp_path / "lake")
    lake = Lake(spark, tmp_path / "lake", tmp_path / "logs")
    kept = {f"{LAST - timedelta(days=back)}" for back in range(LATE_DAYS)}
    for file in (tmp_path / "logs").iterdir():
        if file.name.partition(".")[0] not in kept:
            file.unlink()
    lake.run(LAST, END)
    for name in ("interactions", "user_history", "sequences", "samples"):
        assert lake.table(name) == scheduled.table(name), name
    lake.run(START, END)
    assert not lake.again().ledger.recorded()["ingest_events", START].is_stale


class Killed(BaseException):
    """Ends a run like a kill, because nothing catches it."""


@pytest.mark.long
def test_a_kill_after_the_commit_loses_no_stale_mark(spark, tmp_path, logs, scheduled, monkeypatch):
    """A delivery comes again without its late events: the days that were made from them are made again."""
    day = FEATURES + timedelta(days=2)
    shutil.copytree(logs, tmp_path / "logs")
    shutil.copytree(scheduled.folder, tmp_path / "killed")
    write_day(tmp_path / "logs", str(day), [e for e in deliveries(seed=4)[day] if e["InvoiceDate"] >= str(day)])
    killed = Lake(spark, tmp_path / "killed", tmp_path / "logs")
    overwrite = Tables.overwrite_where

    def killed_after(tables, name, df, predicate):
        overwrite(tables, name, df, predicate)
        if name == "interactions":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Tables, "overwrite_where", killed_after)
        with pytest.raises(Killed):
            killed.run(START, END, restate=True)
    killed.run(START, END, restate=True)
    fresh = Lake(spark, tmp_path / "fresh", tmp_path / "logs")
    fresh.run(START, END)
    for name in ("interactions", "user_history", "sequences", "samples"):
        assert killed.table(name) == fresh.table(name), name
    assert _times(killed, until=day) != _times(scheduled, until=day)


def _times(lake, until=END):
    rows = lake.context.tables.read("user_history").where(F.col("ds") <= until).collect()
    return sorted((row.user_id, row.ds, tuple(row.event_ts)) for row in rows)
