"""Event types stay with their events in sequences, histories of nights, audits, and after forgetting."""

import random
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from pyspark.sql import functions as F

from learn_spark.config.load import load_config
from learn_spark.forgetting.rows import Gone, sweep
from learn_spark.lake.days import DayRange
from learn_spark.lake.schemas import INTERACTIONS
from learn_spark.lake.tombstones import ITEM, Tombstones
from learn_spark.sequences.audit import audit_sequences
from learn_spark.sequences.events import HeavyUser, limited, sided_events
from learn_spark.sequences.histories import full_histories, sequences
from learn_spark.sequences.job import build_sequences
from learn_spark.sequences.windows import as_of_dates
from tests.builders.contexts import make_context
from tests.conftest import CONF
from tests.oracles.sequences import naive_history, naive_is_due, naive_targets

pytestmark = pytest.mark.spark

NOW = datetime.now(UTC)
USERS = ["17850", "0042", "ユーザー", "whale"]
ITEMS = [f"item {n}" for n in range(20)]
TYPES = ["adjust", "purchase", "cancel"]
KEPT = ["sequences.history_events=[adjust, cancel, purchase]", "sequences.target_events=[purchase]"]
CODES = {"adjust": 1, "cancel": 2, "purchase": 3}


def seconds(ts):
    return int(ts.replace(tzinfo=UTC).timestamp())


@pytest.fixture(scope="module")
def log():
    """Rows (event_id, user, item number, type, time) with ties between types and one user with many events."""
    rng = random.Random(5)
    days = list(DayRange(date(2011, 10, 1), date(2011, 12, 10)))
    rows = []
    for user in USERS:
        for _ in range(400 if user == "whale" else 60):
            day = rng.choice(days)
            ts = datetime(day.year, day.month, day.day, rng.choice([0, 9, 23]), rng.choice([0, 59]))
            rows.append((rng.getrandbits(64) - 2**63, user, rng.randrange(20) + 1, rng.choice(TYPES), ts))
    return rows


def context_of(spark, folder, log, *changes):
    ends = (f"lake.root={folder}/lake", f"output.dir={folder}/output")
    context = make_context(spark, load_config(CONF / "test.yaml", [*ends, *KEPT, *changes]))
    rows = [
        (event_id, user, ITEMS[item - 1], item, kind, ts.replace(tzinfo=UTC), 1.0, "file", NOW, ts.date(), ts.date())
        for event_id, user, item, kind, ts in log
    ]
    context.tables.append("interactions", spark.createDataFrame(rows, INTERACTIONS.columns_ddl))
    windows = context.config.windows
    days = sorted({*as_of_dates(context.config), *DayRange(windows.towers_end, windows.end + timedelta(days=1))})
    return context, days


@pytest.fixture(scope="module")
def built(spark, tmp_path_factory, log):
    context, days = context_of(spark, tmp_path_factory.mktemp("types"), log, "sequences.keep_event_types=true")
    return context, days, build_sequences(context, days)


@pytest.fixture(scope="module")
def events_of(log):
    """By user, the events (time, id, (item, code))."""
    events = defaultdict(list)
    for event_id, user, item, kind, ts in log:
        events[user].append((ts, event_id, (item, CODES[kind])))
    return events


def test_sequences_and_histories_hold_types_as_naive_loops_do(built, events_of):
    context, days, result = built
    settings, first = context.config.sequences, context.config.windows.towers_end
    assert [figure["leaks"] for figure in result.details["audit"]] == [0] * len(result.details["audit"])
    assert sum(figure["rule"] == "each event has its type" for figure in result.details["audit"]) == 2
    expected = {}
    for as_of in as_of_dates(context.config):
        for user, events in events_of.items():
            history = naive_history(events, as_of, settings.history_length, settings.history_days)
            bought = [event for event in events if event[2][1] == CODES["purchase"]]
            targets = naive_targets(bought, as_of, settings.target_length, settings.target_days)
            if history and targets:
                expected[user, as_of] = ([pair for _, _, pair in history], [pair for _, _, pair in targets])
    found = {}
    for row in context.tables.read("sequences").collect():
        history = list(zip(row.hist_items, row.hist_types, strict=True))
        targets = list(zip(row.tar_items, row.tar_types, strict=True))
        assert not any(map(any, history[row.hist_len :])) and not any(map(any, targets[row.tar_len :]))
        found[row.user_id, row.as_of] = (history[: row.hist_len], targets[: row.tar_len])
    assert found == expected and len(expected) > 5
    due = {
        (user, day): [pair for _, _, pair in naive_history(events, day, settings.history_length, settings.history_days)]
        for day in days
        for user, events in events_of.items()
        if day >= first and naive_is_due(events, day, first)
    }
    histories = context.tables.read("user_history").collect()
    assert {(r.user_id, r.ds): list(zip(r.item_idx, r.event_types, strict=True)) for r in histories} == due


def test_a_nights_histories_are_those_of_a_full_build(built):
    context, days, _ = built
    day, config = days[-1], context.config
    before = context.tables.read("interactions").where(F.col("ds") < F.lit(day))
    full = {
        row.user_id: row
        for row in full_histories(sided_events(before, config.sequences), day, config.sequences).frame.collect()
    }
    stored = context.tables.read("user_history").where(F.col("ds") == F.lit(day)).collect()
    assert stored and all(full[row.user_id].asDict() == row.asDict() for row in stored)
    again = context.tables.read("user_history").collect()
    build_sequences(context, [day])
    assert sorted(context.tables.read("user_history").collect()) == sorted(again)


def test_the_limit_of_heavy_users_changes_no_type(built):
    context, _, _ = built
    settings = context.config.sequences
    events = sided_events(context.tables.read("interactions"), settings)
    splits = as_of_dates(context.config)
    for sampling in ("recent", "random"):
        asked = settings.model_copy(update={"sampling": sampling, "history_length": 5, "target_length": 2})
        whole, cut = (
            sorted(sequences(frame, splits, asked).frame.collect())
            for frame in (events, limited(events, [HeavyUser("whale", 1_000_000)], asked))
        )
        assert whole == cut and any(row.user_id == "whale" for row in whole)


@pytest.mark.long
def test_without_the_switch_rows_are_the_same_and_have_no_types(spark, tmp_path, built, log):
    typed, days, _ = built
    context, _ = context_of(spark, tmp_path, log)
    build_sequences(context, days)
    for table, types in (("sequences", ["hist_types", "tar_types"]), ("user_history", ["event_types"])):
        rows, with_types = context.tables.read(table), typed.tables.read(table)
        assert sorted(rows.drop(*types).collect()) == sorted(with_types.drop(*types).collect())
        assert rows.where(" OR ".join(f"{name} IS NOT NULL" for name in types)).isEmpty()
    one = context.config.sequences.model_copy(update={"history_events": ["purchase"], "keep_event_types": True})
    off = one.model_copy(update={"keep_event_types": False})
    ones, offs = (
        sequences(sided_events(context.tables.read("interactions"), each), as_of_dates(context.config), each).frame
        for each in (one, off)
    )
    assert sorted(ones.drop("hist_types", "tar_types").collect()) == sorted(
        offs.drop("hist_types", "tar_types").collect()
    )
    said = {code for row in ones.collect() for code in row.hist_types[: row.hist_len]}
    assert said == {1}, "one type has one code"


def test_the_audit_sees_events_without_a_type(built):
    context, days, _ = built
    config = context.config
    fewer = config.sequences.model_copy(update={"history_events": ["adjust", "cancel"], "target_events": ["adjust"]})
    other = replace(context, config=config.model_copy(update={"sequences": fewer}))
    leaks = {figure.rule: figure.leaks for figure in audit_sequences(context.tables, other.config)}
    assert leaks["each event has its type"] > 0


@pytest.mark.long
def test_a_forgotten_item_takes_its_type_along(spark, tmp_path, log):
    for keep in ("true", "false"):
        context, days = context_of(spark, tmp_path / keep, log, f"sequences.keep_event_types={keep}")
        build_sequences(context, days)
        before = {name: context.tables.read(name).collect() for name in ("sequences", "user_history")}
        gone = Gone(
            Tombstones("salt", frozenset({ITEM}), spark.createDataFrame([], "kind string, id_hash string")), [7]
        )
        sweep(context.tables, "sequences", gone, sorted({row.as_of for row in before["sequences"]}))
        sweep(context.tables, "user_history", gone, sorted({row.ds for row in before["user_history"]}))
        for row in context.tables.read("sequences").collect():
            (was,) = (each for each in before["sequences"] if (each.user_id, each.as_of) == (row.user_id, row.as_of))
            if keep == "false":
                assert row.hist_types is None and row.tar_types is None
                continue
            for items, types in (("hist_items", "hist_types"), ("tar_items", "tar_types")):
                pairs = list(zip(was[items], was[types], strict=True))
                kept = [pair for pair in pairs if pair[0] not in (0, 7)]
                assert list(zip(row[items], row[types], strict=True)) == kept + [(0, 0)] * (len(pairs) - len(kept))
        for row in context.tables.read("user_history").collect():
            assert 7 not in row.item_idx
            assert row.event_types is None if keep == "false" else len(row.event_types) == len(row.item_idx)
