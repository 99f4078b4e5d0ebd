"""Random days, orders, late events, redeliveries, kills, rollbacks and restates end in the tables of a model.

The model is naive: it keeps the delivered lines and the loaded days, and computes by loops which events, histories and
feature rows the lake must have. Its vectors come from the towers themselves, applied to its own histories.
"""

import os
import random
import shutil
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pyspark.sql import SparkSession

from learn_spark.bridge.trained import towers_path
from learn_spark.config.load import Config, load_config
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import ConfigError, LearnError
from learn_spark.lake.days import DayRange
from learn_spark.lake.tables import Tables
from learn_spark.pipeline import as_plan, backfill_days, pipeline_days
from learn_spark.releases.registry import PUBLISHED, find_release, releases, rows_of
from learn_spark.releases.release import roll_back
from learn_spark.runs.runner import RunOptions, run_plan
from learn_spark.runs.steps import EVALUATE_FEATURES, Context
from models.data.content import ContentMatrix
from models.saved import load_towers
from tests.builders.contexts import make_context
from tests.builders.encoders import save_tiny_llama
from tests.builders.logs import line, write_day
from tests.builders.reading import relation
from tests.conftest import CONF
from tests.oracles.sequences import naive_history, naive_is_due

pytestmark = pytest.mark.spark

START, FEATURES, TRAINED, END = date(2011, 11, 1), date(2011, 11, 4), date(2011, 11, 8), date(2011, 11, 12)
NIGHTS = list(DayRange(TRAINED, END))
LATE_DAYS, LENGTH = 2, 4
EXAMPLES, STEPS = int(os.environ.get("FAULTS_EXAMPLES", "4")), int(os.environ.get("FAULTS_STEPS", "8"))
WINDOWS = {"first_as_of": "2011-11-02", "towers_end": FEATURES, "cvr_end": "2011-11-06"}
WINDOWS |= {"ranker_train_end": "2011-11-07", "end": TRAINED}
COMMITS = ("append", "overwrite_where", "put_rows", "rewrite", "update", "delete", "delete_matching")

Event = tuple[datetime, str, str, str]  # time, invoice, user, item


class Killed(BaseException):
    """Ends a run like a kill, because nothing catches it."""


def purchases(rng: random.Random, day: date, count: int, prefix: str) -> list[Event]:
    """Purchases of a day, all at different times."""
    midnight = datetime(day.year, day.month, day.day)
    moments = [midnight + timedelta(seconds=second) for second in rng.sample(range(86_400), count)]
    return [
        (at, f"{prefix}{number}", f"{rng.randint(1, 12)}", f"item {rng.randint(1, 12)}")
        for number, at in enumerate(moments)
    ]


def as_lines(events: list[Event]) -> list[dict[str, str]]:
    return [
        line(InvoiceNo=invoice, CustomerID=f"{user}.0", StockCode=item, Description=item.upper(), InvoiceDate=str(at))
        for at, invoice, user, item in events
    ]


def lake_config(folder: Path) -> Config:
    places = [f"lake.root={folder}/lake", f"output.dir={folder}/out", f"ingest.path={folder}/logs"]
    windows = [f"windows.{key}={value}" for key, value in WINDOWS.items()]
    sizes = [f"ingest.late_days={LATE_DAYS}", "sequences.target_days=1", f"sequences.history_length={LENGTH}"]
    sizes.append("features.cold_events=2")
    models = [
        "towers.model.d_model=16",
        "towers.model.heads=2",
        "towers.model.layers=1",
        "towers.train.batch_size=4",
        "cvr.train.batch_size=8",
        "cvr.validation_days=1",
    ]
    text = [f"embedding.model={folder.parent}/encoder", "embedding.gates.min_effective_rank=1"]
    text += ["ingest.gates.min_day_share=0"]  # random days may have a single event
    return load_config(CONF / "test.yaml", [*places, *windows, *sizes, *models, *text])


def write_logs(folder: Path, delivered: dict[date, list[Event]]) -> None:
    for day, events in delivered.items():
        write_day(folder / "logs", str(day), as_lines(events))


@pytest.fixture(scope="module")
def trained(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[date, list[Event]]]:
    """A lake with models and a release, as before the first night, and the delivered events by day."""
    place = tmp_path_factory.mktemp("semantics")
    save_tiny_llama(place / "encoder")
    rng = random.Random(3)
    delivered = {day: purchases(rng, day, 30, f"{day:%d}-") for day in DayRange(START, TRAINED)}
    write_logs(place / "now", delivered)
    context = make_context(spark, lake_config(place / "now"))
    steps = [name for name in pipeline_days(context.config) if name != EVALUATE_FEATURES]
    run_plan(as_plan(pipeline_days(context.config), steps), context, RunOptions())
    shutil.move(place / "now", place / "trained")
    return place / "trained", delivered


class Lake(RuleBasedStateMachine):
    """Actions of owners and faults on a lake. After each command that ended, its tables must equal the model's."""

    spark: SparkSession
    trained: Path
    first: dict[date, list[Event]]

    @initialize()
    def begin(self) -> None:
        """Every example starts from a copy of the trained lake under the same path, so that the config's paths fit."""
        self.folder = self.trained.parent / "now"
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.trained, self.folder)
        self.delivered = {day: list(events) for day, events in self.first.items()}
        self.loaded = {day: list(events) for day, events in self.delivered.items()}
        self.number = 0

    # --- what comes in ---

    @rule(day=st.sampled_from(NIGHTS), seed=st.integers(0, 999), late=st.sampled_from([0, 1, 2, 3]))
    def deliver(self, day: date, seed: int, late: int) -> None:
        """Delivers a file, or delivers it again with more lines, of its own day and of a day `late` days before."""
        self.number += 1
        rng, name = random.Random(seed), f"n{self.number}-"
        news = purchases(rng, day, rng.randint(0, 5), name)
        news += purchases(rng, day - timedelta(days=late), rng.randint(0, 2), f"{name}late-") if late else []
        copies = (
            rng.sample(self.delivered[day - timedelta(days=1)], 1)
            if self.delivered.get(day - timedelta(days=1))
            else []
        )
        self.delivered[day] = [*self.delivered.get(day, []), *news, *copies]
        write_logs(self.folder, {day: self.delivered[day]})

    @precondition(lambda self: any(day in self.delivered for day in NIGHTS))
    @rule(day=st.sampled_from(NIGHTS))
    def take_back(self, day: date) -> None:
        """Delivers a file again without half of its lines."""
        if self.delivered.get(day):
            self.delivered[day] = self.delivered[day][::2]
            write_logs(self.folder, {day: self.delivered[day]})

    # --- what is run ---

    @rule(
        count=st.integers(1, 3),
        step_days=st.sampled_from([None, 1]),
        dies_at=st.sampled_from([None, None, 0, 2, 4, 6, 9]),
    )
    def nights(self, count: int, step_days: int | None, dies_at: int | None) -> None:
        """Runs the next nights, and earlier ones whose files changed; may be killed at a commit."""
        known = [day for day in NIGHTS if day in self.loaded]
        start = max(known) + timedelta(days=1) if known else NIGHTS[0]
        end = min(start + timedelta(days=count), END)
        self._backfill(start if start < end else NIGHTS[0], end, step_days, dies_at)

    @rule(dies_at=st.sampled_from([None, 1, 3, 5]))
    def again(self, dies_at: int | None) -> None:
        """Runs all nights so far again: changed days are restated, withdrawn or killed ones are made."""
        known = [day for day in NIGHTS if day in self.loaded]
        if known:
            self._backfill(NIGHTS[0], max(known) + timedelta(days=1), None, dies_at)

    @rule(dies_at=st.sampled_from([None, 0, 1]))
    def withdraw(self, dies_at: int | None) -> None:
        """Rolls the current release back; may be killed before or between the commits."""
        context = self._context()
        shown = [release for release in releases(context.tables) if release.status == PUBLISHED]
        if len(shown) < 2:
            with pytest.raises(ConfigError):
                roll_back(context)
            return
        if self._ends(dies_at, lambda: roll_back(context)):
            assert find_release(context.tables).release_id != shown[0].release_id

    # --- what must hold ---

    @invariant()
    def readers_get_one_whole_release(self) -> None:
        """After any kill, the current release has as many rows as it says, and each key once."""
        if not hasattr(self, "folder"):
            return
        context = self._context()
        release = find_release(context.tables)
        for name, keys in (("user_features", ["user_id", "ds"]), ("item_features", ["item_id", "ds"])):
            rows = [tuple(row) for row in rows_of(context.tables, release, name).select(*keys).collect()]
            assert len(rows) == len(set(rows)), f"{name} has keys twice"
            said = sum(getattr(part, name.partition("_")[0] + "s") for part in release.parts.values())
            assert len(rows) == said, (
                f"release {release.release_id} says {said} rows of {name}, readers get {len(rows)}"
            )

    def teardown(self) -> None:
        """After anything, one more run without a fault ends in the model's tables."""
        if hasattr(self, "folder"):
            known = [day for day in NIGHTS if day in self.loaded]
            if known:
                self._backfill(NIGHTS[0], max(known) + timedelta(days=1), None, None)

    # --- how ---

    def _context(self) -> Context:
        """A new context, which remembers nothing, as in another process."""
        return make_context(self.spark, lake_config(self.folder))

    def _backfill(self, start: date, end: date, step_days: int | None, dies_at: int | None) -> None:
        """Runs the nights of [start, end), from the earliest night on whose file has changed since it was loaded."""
        changed = [day for day in NIGHTS if day in self.loaded and self.loaded[day] != self.delivered.get(day, [])]
        start = min([start, *changed])
        for day in DayRange(start, end):
            if day not in self.delivered:
                self.delivered[day] = []
                write_logs(self.folder, {day: []})
        note(f"nights {start} .. {end}, pieces of {step_days}, killed at {dies_at}")
        context = self._context()
        plan = as_plan(backfill_days(context.config, DayRange(start, end)), restate=True, follow_late=True)
        options = RunOptions(step_days=step_days) if step_days else RunOptions()
        for day in DayRange(start, end):
            self.loaded[day] = list(self.delivered[day])  # requested; if this run is killed, the next one completes it
        if self._ends(dies_at, lambda: run_plan(plan, context, options)):
            self._compare(context)

    def _ends(self, dies_at: int | None, act) -> bool:  # noqa: ANN001 - any call
        """Runs `act`, which may be killed before or after its n-th commit; returns whether it ended normally."""
        commits = iter(range(1_000))

        def wrapped(commit):  # noqa: ANN001, ANN202 - one of Tables' methods
            def run(*args, **kwargs):  # noqa: ANN002, ANN003, ANN202
                number = next(commits)
                if dies_at is not None and number == dies_at and number % 2 == 0:
                    raise Killed
                result = commit(*args, **kwargs)
                if dies_at is not None and number == dies_at:
                    raise Killed
                return result

            return run

        patches = [patch.object(Tables, name, wrapped(getattr(Tables, name))) for name in COMMITS]
        try:
            for each in patches:
                each.start()
            act()
        except Killed:
            return False
        except LearnError as error:
            raise AssertionError(f"refused: {error}") from error
        finally:
            for each in patches:
                each.stop()
        return True

    def _compare(self, context: Context) -> None:
        """Compares the tables with the model's."""
        lake = self.folder / "lake"
        events = expected_events(self.loaded)
        found = relation(lake, "interactions").project("ds, user_id, item_id, event_ts").fetchall()
        assert Counter((ds, user, item, ts.replace(tzinfo=None)) for ds, user, item, ts in found) == Counter(
            (at.date(), user, item, at) for at, user, item in events
        )
        numbers = dict(relation(lake, "item_index").project("item_id, item_idx").fetchall())
        assert len(set(numbers.values())) == len(numbers) >= len({item for _, _, item in events})
        last = max(self.loaded) + timedelta(days=1)
        histories = expected_histories(events, last)
        kept = relation(lake, "user_history").filter(f"ds <= DATE '{last}'")
        names = {number: item for item, number in numbers.items()}
        ours = {
            (user, ds): [*zip(times, (names[i] for i in items), strict=True)]
            for user, ds, items, times in kept.project("user_id, ds, item_idx, event_ts").fetchall()
        }
        assert ours == {
            key: [(int(at.replace(tzinfo=UTC).timestamp()), item) for at, item in row] for key, row in histories.items()
        }
        items = expected_items(events, last, context.config.features.cold_events)
        self._compare_release(context, histories, items, numbers)

    def _compare_release(self, context: Context, histories: dict, due: dict, numbers: dict[str, int]) -> None:
        """Asserts that the current release has a row per history and per due item, with the towers' vectors."""
        release = find_release(context.tables)
        rows = rows_of(context.tables, release, "item_features").collect()
        assert {(row.item_id, row.ds): row.is_cold for row in rows} == due and len(rows) == len(due)
        users = rows_of(context.tables, release, "user_features").select("user_id", "ds", "user_emb").collect()
        assert {(row.user_id, row.ds) for row in users} == set(histories)
        towers, content = load_towers(towers_path(context)), ContentMatrix(matrix_path(context))
        lengths = np.array([len(histories[row.user_id, row.ds]) for row in users])
        items = np.zeros((len(users), LENGTH), dtype=np.int64)
        for place, row in enumerate(users):
            items[place, : lengths[place]] = [numbers[item] for _, item in histories[row.user_id, row.ds]]
        vectors = towers.embed_users(items, lengths, content)
        np.testing.assert_allclose(np.array([row.user_emb for row in users]), vectors, atol=5e-5)
        vectors = towers.embed_items(np.array([numbers[row.item_id] for row in rows]), content)
        np.testing.assert_allclose(np.array([row.item_emb for row in rows]), vectors, atol=5e-5)


def expected_events(loaded: dict[date, list[Event]]) -> list[tuple[datetime, str, str]]:
    """Each event once, if a delivery brought it at most LATE_DAYS late and not before its day."""
    found = {}
    for delivery, events in loaded.items():
        for at, invoice, user, item in events:
            if timedelta() <= delivery - at.date() <= timedelta(days=LATE_DAYS):
                found[at, invoice, user, item] = (at, user, item)
    return list(found.values())


def expected_histories(events: list[tuple[datetime, str, str]], last: date) -> dict:
    """(user, day) -> last LENGTH (time, item) before the day: all users on the first feature day, then active ones."""
    by_user = defaultdict(list)
    for at, user, item in events:
        by_user[user].append((at, "", item))
    found = {}
    for day in DayRange(FEATURES, last + timedelta(days=1)):
        for user, own in by_user.items():
            if naive_is_due(own, day, FEATURES):
                history = naive_history(own, day, LENGTH, 10_000)
                found[user, day] = [(at, item) for at, _, item in history]
    return found


def expected_items(events: list[tuple[datetime, str, str]], last: date, cold_events: int) -> dict:
    """(item, day) -> is_cold: a row on the first feature day after the first event, and one once the item is warm."""
    by_item = defaultdict(list)
    for at, _, item in sorted(events):
        by_item[item].append(at.date())
    found = {}
    for item, days in by_item.items():
        warm = days[cold_events - 1] if len(days) >= cold_events else None
        for day in DayRange(FEATURES, last + timedelta(days=1)):
            before = day - timedelta(days=1)
            if (day == FEATURES and days[0] < day) or before in (days[0], warm):
                found[item, day] = warm is None or warm >= day
    return found


def test_any_order_of_days_faults_and_rollbacks_ends_in_the_tables_of_the_model(
    spark: SparkSession, trained: tuple[Path, dict[date, list[Event]]]
) -> None:
    Lake.spark, (Lake.trained, Lake.first) = spark, trained
    run_state_machine_as_test(
        Lake,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize="FAULTS_SEED" not in os.environ,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
