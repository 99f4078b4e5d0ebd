"""Runs of days, failures of single days, overlapping runs: with real tables and trivial steps."""

import shutil
import signal
import threading
import time
from dataclasses import replace
from datetime import date, timedelta

import pytest

from learn_spark.cli.estimate import expected_rows
from learn_spark.cli.runs import steps_done
from learn_spark.config.load import load_config
from learn_spark.errors import ConfigError, QualityError, TemporaryError
from learn_spark.evaluation.summary import build_summary
from learn_spark.lake.days import DayRange
from learn_spark.lake.identity import FILE
from learn_spark.lake.lock import lake_lock, without_writers
from learn_spark.lake.schemas import INTERVALS
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.runs.ledger import StepResult
from learn_spark.runs.plan import Plan, Planned, Standing
from learn_spark.runs.runner import RunOptions, run_plan
from learn_spark.runs.steps import Step
from tests.builders.contexts import make_context
from tests.conftest import CONF

pytestmark = pytest.mark.spark

DAYS = list(DayRange(date(2011, 11, 1), date(2011, 11, 6)))
BAD = DAYS[2]


class Work:
    """Two steps. The second needs the first's same day and its own day before. Day BAD may fail."""

    def __init__(self, spark, folder):
        config = load_config(CONF / "test.yaml", [f"lake.root={folder}/lake", f"output.dir={folder}/out"])
        self.runs, self.fails, self.touched = [], False, ()
        self.together = threading.Barrier(2, timeout=20)
        self.overlap = False
        first = Step("ingest_events", self._first, (), lambda config, day: (), overlaps=True)
        second = Step("build_sequences", self._second, (), self._needs)
        self.plan = [Planned(first, DAYS), Planned(second, DAYS)]
        self.context = make_context(spark, config)
        object.__setattr__(
            self.context, "fingerprint", Fingerprints(config, {step.name: step for step, _ in self.plan})
        )

    def _needs(self, config, day):
        yield ("ingest_events", day)
        if day > DAYS[0]:
            yield ("build_sequences", day - timedelta(days=1))

    def _first(self, context, days):
        if self.overlap:
            self.together.wait()
        if self.fails and BAD in days:
            raise QualityError(f"{BAD} is bad")
        context.invalidate("ingest_events", self.touched)
        self.runs.append(("first", list(days)))
        return StepResult(len(days), len(days), {"files": len(days)})

    def _second(self, context, days):
        self.runs.append(("second", list(days)))
        return StepResult(len(days), len(days))

    def go(self, follow_late=False, **options):
        self.runs.clear()
        return run_plan(Plan(self.plan, follow_late=follow_late), self.context, RunOptions(**options))

    def missing(self, follow_late=False):
        return {step.name: days for step, days in self.todo(follow_late)}

    def todo(self, follow_late=False):
        return Plan(self.plan, follow_late=follow_late).missing(Standing.of(self.context))


@pytest.fixture
def work(spark, tmp_path):
    return Work(spark, tmp_path)


def test_a_failure_stops_the_run_or_only_what_needs_it(work):
    work.fails = True
    with pytest.raises(QualityError, match="is bad"):
        work.go(step_days=2)
    assert work.missing()["ingest_events"] == DAYS[2:]
    report = work.go(step_days=1, keep_going=True)
    assert [(failure.step, failure.days) for failure in report.failures] == [
        ("ingest_events", [BAD]),
        ("build_sequences", [BAD]),
        ("build_sequences", [DAYS[3]]),
        ("build_sequences", [DAYS[4]]),
    ]
    assert "needs ingest_events of 2011-11-03, which is not done" in str(report.failures[1])
    assert report.failures[0].error.exit_code == 3
    assert work.missing() == {"ingest_events": [BAD], "build_sequences": DAYS[2:]}
    work.fails = False
    assert not work.go().failures
    assert work.runs == [("first", [BAD]), ("second", DAYS[2:])]
    assert work.missing() == {}


def test_runs_overlap_where_a_step_allows_it(work):
    work.overlap = True
    work.plan = [Planned(work.plan[0][0], DAYS[:4])]
    work.go(step_days=2, max_parallel=2)  # each waits for the other: one after the other would break the barrier
    assert sorted(work.runs) == [("first", DAYS[:2]), ("first", DAYS[2:4])]


@pytest.mark.long
def test_an_interruption_ends_pieces_that_are_between_two_jobs(work, spark):
    """Each piece begins a long job only after the interruption, so it has no job when jobs are first cancelled."""

    def slow(batches):
        time.sleep(60)
        yield from batches

    def run(context, days):
        work.together.wait()
        if days == DAYS[:2]:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(3)
        spark.range(1).mapInArrow(slow, "id long").collect()

    work.plan = [Planned(replace(work.plan[0][0], run=run), DAYS[:4])]
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work.go(step_days=2, max_parallel=2)
    assert time.monotonic() - began < 40 and not work.context.ledger.recorded()


def test_figures_of_pieces_add_up_and_stand_once(work):
    work.plan = [Planned(work.plan[0][0], DAYS[:3])]
    figures = steps_done(work.go(step_days=2), work.context)["ingest_events"]
    assert (figures["days"], figures["rows_in"], figures["rows_out"]) == (["2011-11-01 .. 2011-11-03"], 3, 3)
    assert [(piece["rows_in"], piece["files"]) for piece in figures["pieces"]] == [(2, 2), (1, 1)]
    recorded = work.context.ledger.recorded()
    assert [recorded["ingest_events", day].details for day in DAYS[:3]] == [{}, {"files": 2}, {"files": 1}]
    assert make_context(work.context.spark, work.context.config).ledger.recorded() == recorded, "as another reads it"
    assert expected_rows("ingest_events", 7, recorded) == 7
    stage = build_summary(work.context)["stages"]["ingest_events"]
    assert (stage["rows_out"], stage["days"], stage["runs"]) == (3, 3, 1)


def test_touched_days_make_what_follows_stale(work):
    work.plan = [Planned(step, DAYS[:4]) for step, _ in work.plan]
    work.go()
    work.plan, work.touched = [Planned(step, DAYS[4:]) for step, _ in work.plan], (DAYS[2],)
    with pytest.raises(ConfigError, match=r"needs build_sequences of 2011-11-04, which late events made stale"):
        work.go()
    todo = work.todo(follow_late=True)
    assert "1. build_sequences       3 days  2011-11-03 .. 2011-11-05" in todo.lines({})[1]
    report = work.go(follow_late=True)
    assert work.runs == [("second", DAYS[2:])], "what runs is what the plan said"
    assert {step.name: days for step, days in report.done if days} == {step.name: days for step, days in todo}
    assert work.missing() == {}


def test_a_table_of_before_a_column_grows_with_its_next_row(work, spark):
    old = [column for column in INTERVALS.columns if column.name != "source"]
    ddl = ", ".join(f"{column.name} {column.type}" for column in old)
    path = work.context.tables.path("intervals")
    shutil.rmtree(path)
    (work.context.tables.root / FILE).unlink()  # lakes of earlier versions have no such file
    spark.sql(f"CREATE TABLE delta.`{path}` ({ddl}) USING delta PARTITIONED BY (step)")
    work.plan = [Planned(work.plan[0][0], DAYS[:2])]
    work.go()
    assert work.missing() == {}
    assert "source" in work.context.tables.read("intervals").columns


def test_a_lake_has_one_driver(tmp_path):
    with lake_lock(tmp_path), pytest.raises(TemporaryError, match="another run works on the lake"), lake_lock(tmp_path):
        pass
    with lake_lock(tmp_path) as release:
        release()
        with lake_lock(tmp_path):
            pass


def test_who_reads_tables_together_keeps_writers_away_and_writes_nothing(tmp_path):
    with without_writers(tmp_path):
        assert not list(tmp_path.iterdir())
    with lake_lock(tmp_path), pytest.raises(TemporaryError, match="another run"), without_writers(tmp_path):
        pass
    reading = without_writers(tmp_path)
    with reading, without_writers(tmp_path), pytest.raises(TemporaryError, match="another"), lake_lock(tmp_path):
        pass


def test_a_restatement_takes_back_what_was_done_before_it_begins(work):
    """If it then fails, no day counts as done for the earlier code, config or input either."""
    work.plan = [Planned(replace(step, writes=("rejects",)), DAYS[:2]) for step, _ in work.plan[:1]]
    work.go()
    step, before = work.plan[0].step, work.context.fingerprint
    newer = replace(step, version=2, run=refused)
    object.__setattr__(work.context, "fingerprint", Fingerprints(work.context.config, {step.name: newer}))
    with pytest.raises(QualityError, match="refused"):
        run_plan(Plan([Planned(newer, DAYS[:2])], restate=True), work.context, RunOptions())
    object.__setattr__(work.context, "fingerprint", before)
    assert work.missing() == {"ingest_events": DAYS[:2]}


def refused(context, days):
    raise QualityError("refused")
