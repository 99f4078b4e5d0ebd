"""Sequences, histories and samples agree row by row with naive loops on generated logs."""

import random
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from pyspark.sql import functions as F

from learn_spark.config.load import load_config
from learn_spark.errors import ConfigError, QualityError
from learn_spark.lake.days import DayRange
from learn_spark.lake.schemas import INTERACTIONS
from learn_spark.runs.ledger import StepResult
from learn_spark.sequences.audit import audit_sequences, require_no_leak
from learn_spark.sequences.counts import require_rows
from learn_spark.sequences.events import HISTORY, TARGET, HeavyUser, Survey, limited, packed, sided_events, survey
from learn_spark.sequences.histories import full_histories, next_histories, sequences
from learn_spark.sequences.job import build_sequences
from learn_spark.sequences.windows import as_of_dates, sample_windows
from tests.builders.contexts import make_context
from tests.conftest import CONF
from tests.oracles.sequences import naive_history, naive_is_due, naive_sample, naive_targets

pytestmark = pytest.mark.spark

NOW = datetime.now(UTC)
DAY = date(2011, 11, 20)
USERS = ["17850", "0042", "user ü", "ユーザー", "one event", "whale"]
ITEMS = [f"item {n}" for n in range(30)]


def generated_log(config, seed):
    """Rows of interactions with ties, a whale, a user with one event, and cancellations, which are no history."""
    rng = random.Random(seed)
    days = list(DayRange(config.ingest.start, config.windows.end))
    rows = []
    for user in USERS:
        for _ in range({"one event": 1, "whale": 600}.get(user, rng.randint(20, 80))):
            day = rng.choice(days)
            ts = datetime(day.year, day.month, day.day, rng.choice([0, 9, 23]), rng.choice([0, 59]))
            kind = "cancel" if rng.random() < 0.1 else "purchase"
            rows.append((rng.getrandbits(64) - 2**63, user, rng.choice(ITEMS), kind, ts, day))
    return rows


@pytest.fixture(scope="module")
def built(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    config = load_config(CONF / "test.yaml", [f"lake.root={folder}/lake", f"output.dir={folder}/output"])
    context = make_context(spark, config)
    log = generated_log(config, seed=3)
    frame = spark.createDataFrame(
        [
            (*row[:3], ITEMS.index(row[2]) + 1, row[3], row[4].replace(tzinfo=UTC), 1.0, "file", NOW, row[5], row[5])
            for row in log
        ],
        INTERACTIONS.columns_ddl,
    )
    context.tables.append("interactions", frame)
    days = sorted({*as_of_dates(config), *DayRange(config.windows.towers_end, config.windows.end + timedelta(days=1))})
    result = build_sequences(context, days)
    purchases = defaultdict(list)
    for event_id, user, item, kind, ts, _ in log:
        if kind == "purchase":
            purchases[user].append((ts, event_id, ITEMS.index(item) + 1))
    return context, purchases, days, log, result


def seconds(ts):
    return int(ts.replace(tzinfo=UTC).timestamp())


def test_everything_agrees_with_naive_loops(built):
    context, purchases, days, log, result = built
    _check_sequences(context, purchases)
    _check_histories(context, purchases, days)
    _check_samples(context, log)
    assert result.rows_out == sum(result.details["rows"].values())
    assert all(figure["leaks"] == 0 for figure in result.details["audit"])
    _check_counts(context, result)
    _check_rerun_is_equal(context, days)
    _check_audit_sees_leaks(context, days)
    _check_empty_ranges_are_refused(context)
    build_sequences(context, days)  # what was refused has replaced rows


def _check_counts(context, result):
    counted = result.details["ranges"]
    samples = sum(rows for name, rows in counted.items() if name not in ("train", "val", "test"))
    assert sum(counted.values()) - samples == context.tables.read("sequences").count()
    assert samples == context.tables.read("samples").count()
    assert min(counted.values()) > 0


def _check_empty_ranges_are_refused(context):
    assert require_rows(context, [context.config.ingest.start]) == {}, "a day that ends no range is not judged"
    nobody = context.config.sequences.model_copy(update={"min_targets": 1000})
    other = replace(context, config=context.config.model_copy(update={"sequences": nobody}))
    said = r"no rows for train, val, test: train 0 rows from 3 as-of dates .*; events lie on \d+ of \d+ days .* change"
    with pytest.raises(ConfigError, match=said):
        build_sequences(other, list(as_of_dates(other.config)))


def _check_sequences(context, purchases):
    settings = context.config.sequences
    expected = {}
    for as_of, split in as_of_dates(context.config).items():
        for user, events in purchases.items():
            history = naive_history(events, as_of, settings.history_length, settings.history_days)
            targets = naive_targets(events, as_of, settings.target_length, settings.target_days)
            if history and targets:
                expected[user, as_of] = (history, targets, split)
    rows = {(r.user_id, r.as_of): r for r in context.tables.read("sequences").collect()}
    assert set(rows) == set(expected)
    assert len(expected) > 10
    for key, (history, targets, split) in expected.items():
        row = rows[key]
        assert row.split == split
        assert (row.hist_len, row.tar_len) == (len(history), len(targets))
        assert row.hist_items[: row.hist_len] == [item for _, _, item in history]
        assert row.hist_ts[: row.hist_len] == [seconds(ts) for ts, _, _ in history]
        assert row.tar_items[: row.tar_len] == [item for _, _, item in targets]
        assert row.tar_ts[: row.tar_len] == [seconds(ts) for ts, _, _ in targets]
        assert len(row.hist_items) == len(row.hist_ts) == settings.history_length
        assert len(row.tar_items) == len(row.tar_ts) == settings.target_length
        assert not any(row.hist_items[row.hist_len :]) and not any(row.tar_items[row.tar_len :])


def _check_histories(context, purchases, days):
    settings, first = context.config.sequences, context.config.windows.towers_end
    expected = {}
    for day in days:
        for user, events in purchases.items():
            if day >= first and naive_is_due(events, day, first):
                expected[user, day] = naive_history(events, day, settings.history_length, settings.history_days)
    rows = {(r.user_id, r.ds): r for r in context.tables.read("user_history").collect()}
    assert set(rows) == set(expected)
    for key, history in expected.items():
        assert rows[key].item_idx == [item for _, _, item in history]
        assert rows[key].event_ts == [seconds(ts) for ts, _, _ in history]


def _check_samples(context, log):
    rows = context.tables.read("samples").collect()
    for window in sample_windows(context.config):
        inside = [e for e in log if e[3] == "purchase" and window.start <= e[5] < window.end]
        bought = {(user, item) for _, user, item, _, _, _ in inside}
        lines = Counter((user, item, ts) for _, user, item, _, ts, _ in inside)
        own = [r for r in rows if r.stage == window.stage]
        positives = {(r.user_id, r.item_id, r.event_ts): r.weight for r in own if r.label == 1}
        assert positives == lines
        negatives = [r for r in own if r.label == 0]
        assert negatives
        assert not {(r.user_id, r.item_id) for r in negatives} & bought
        assert {r.item_id for r in negatives} <= {item for _, item in bought}
        drawn = Counter()
        for row in negatives:
            drawn[row.user_id, row.event_ts] += row.weight
        for (user, ts), draws in drawn.items():
            positives_then = sum(1 for key in lines if key[0] == user and key[2] == ts)
            assert draws <= positives_then * context.config.samples.negatives


def _check_rerun_is_equal(context, days):
    names = ("sequences", "user_history", "samples")
    before = {name: context.tables.read(name).collect() for name in names}
    build_sequences(context, [days[1], *days[-3:]])  # an as-of date, nights, the end of a window
    for name in names:
        again = context.tables.read(name).collect()
        assert sorted(map(str, before[name])) == sorted(map(str, again)), name


def _check_audit_sees_leaks(context, days):
    late = context.tables.read("user_history").where(F.col("ds") == days[-1]).limit(1)
    leaky = late.withColumn("ds", F.lit(context.config.windows.towers_end)).withColumn("user_id", F.lit("leaky"))
    context.tables.append("user_history", leaky.withColumn("event_ts", F.transform("event_ts", lambda t: t + 10**8)))
    figures = audit_sequences(context.tables, context.config, days)
    assert sum(figure.leaks for figure in figures) == 1
    with pytest.raises(QualityError, match="user_history < ds: 1 of"):
        require_no_leak(figures)
    (night,) = audit_sequences(context.tables, context.config, [DAY - timedelta(days=1)])
    assert 0 < night.rows < figures[3].rows and night.leaks == 0  # of what that night wrote, and nothing else


def test_other_sides_strides_and_windows_agree_with_naive_loops(built):
    """With cancellations in histories but not in targets, limited history_days, and one as-of date per day."""
    context, _, _, log, _ = built
    changes = {"history_events": ["purchase", "cancel"], "history_days": 6, "target_days": 3, "as_of_every_days": 1}
    changes |= {"history_length": 4, "target_length": 2, "min_history": 2}
    own = context.config.model_copy(update={"sequences": context.config.sequences.model_copy(update=changes)})
    settings, splits = own.sequences, as_of_dates(own)
    assert len(splits) > len(as_of_dates(context.config))
    sides = {kinds: defaultdict(list) for kinds in (("purchase", "cancel"), ("purchase",))}
    for event_id, user, item, kind, ts, _ in log:
        for kinds, events in sides.items():
            if kind in kinds:
                events[user].append((ts, event_id, ITEMS.index(item) + 1))
    history_side, target_side = sides.values()
    expected = {}
    for user, events in history_side.items():
        for as_of in splits:
            history = [e[2] for e in naive_history(events, as_of, 4, 6)]
            targets = [e[2] for e in naive_targets(target_side[user], as_of, 2, 3)]
            if len(history) >= 2 and targets:
                expected[user, as_of] = history, targets
    events = sided_events(context.tables.read("interactions"), settings)
    rows = sequences(events, splits, settings).frame.collect()
    found = {(r.user_id, r.as_of): (r.hist_items[: r.hist_len], r.tar_items[: r.tar_len]) for r in rows}
    assert found == expected and len(expected) > 20
    naive = {user: [e[2] for e in naive_history(events, DAY, 4, 6)] for user, events in history_side.items()}
    histories = {row.user_id: row.item_idx for row in full_histories(events, DAY, settings).frame.collect()}
    assert histories == {user: items for user, items in naive.items() if items}


def test_as_of_is_exclusive_midnight():
    assert naive_history([(datetime(2011, 1, 2), "a", 1)], date(2011, 1, 2), 5, 30) == []
    assert len(naive_targets([(datetime(2011, 1, 2), "a", 1)], date(2011, 1, 2), 5, 30)) == 1


@pytest.mark.parametrize("sampling", ["recent", "random"])
def test_a_limit_on_heavy_users_changes_no_result(built, sampling):
    context = built[0]
    settings = context.config.sequences.model_copy(update={"sampling": sampling, "history_length": 3, "seed": 5})
    events = sided_events(context.tables.read("interactions"), settings)
    less = limited(events, [HeavyUser("whale", 600)], settings)
    whale = F.col("user_id") == "whale"
    assert less.where(whale).count() < events.where(whale).count()
    assert less.where(~whale).count() == events.where(~whale).count()
    splits = dict(list(as_of_dates(context.config).items())[:3])
    frames = [sequences(frame, splits, settings).frame for frame in (events, less)]
    if sampling == "recent":
        frames += [full_histories(frame, DAY, settings).frame for frame in (events, less)]
    for whole, cut in zip(frames[::2], frames[1::2], strict=True):
        assert sorted(map(str, whole.collect())) == sorted(map(str, cut.collect()))


def test_histories_are_recent_whatever_is_sampled(built, monkeypatch):
    """Features need recent histories: a rank limit as for random samples would lose the newest events."""
    context = built[0]
    before = sorted(map(str, context.tables.read("user_history").where("user_id = 'whale'").collect()))
    settings = context.config.sequences.model_copy(update={"sampling": "random"})
    drawn = make_context(context.spark, context.config.model_copy(update={"sequences": settings}))
    monkeypatch.setattr("learn_spark.sequences.job.survey", lambda events: Survey(1, [HeavyUser("whale", 600)]))
    first = context.config.windows.towers_end
    build_sequences(drawn, list(DayRange(first, first + timedelta(days=3))))  # from the log, then from histories
    after = sorted(map(str, context.tables.read("user_history").where("user_id = 'whale'").collect()))
    assert before == after
    build_sequences(context, [context.config.windows.towers_end])


def test_random_sampling_draws_from_the_whole_window(built):
    context, purchases, *_ = built
    settings = context.config.sequences.model_copy(update={"sampling": "random"})
    as_of = max(as_of_dates(context.config))
    events = sided_events(context.tables.read("interactions"), settings)
    drawn = sequences(events, {as_of: "test"}, settings).frame
    (row,) = drawn.where("user_id = 'whale'").collect()
    window = naive_history(purchases["whale"], as_of, 10_000, settings.history_days)
    expected = naive_sample([(ts, tie, item) for ts, tie, item in window], settings.history_length)
    assert row.hist_items[: row.hist_len] == [item for _, _, item in expected]
    assert row.hist_items != row.hist_items[: row.hist_len] or expected != window[-settings.history_length :]


def test_heavy_users_are_found_by_a_sample(spark):
    log = spark.range(4_000_000).select(
        F.when(F.col("id") % 2 == 0, F.lit("whale")).otherwise(F.col("id").cast("string")).alias("user_id")
    )
    found = survey(log)
    (whale,) = found.heavy
    assert found.rows == 4_000_000
    assert whale.user_id == "whale"
    assert 1_800_000 < whale.events < 2_200_000
    assert survey(log.where("FALSE")) == Survey(0, [])


def test_what_is_shuffled_does_not_grow_with_a_heavy_user(spark, built):
    """Nor does a task's memory grow: of a day, only the last H and the first T events are kept."""
    settings = built[0].config.sequences
    rows = []
    for events in (2_000, 40_000):
        log = spark.range(events).select(
            F.lit("whale").alias("user_id"),
            F.lit(1).alias("item_idx"),
            F.timestamp_seconds(F.lit(1_321_747_200) + F.col("id")).alias("event_ts"),
            F.lit(DAY).alias("ds"),
            F.col("id").alias("tie"),
            F.lit(HISTORY | TARGET).alias("side"),
        )
        rows.append(packed(limited(log, [HeavyUser("whale", events)], settings)).count())
    assert rows == [settings.history_length + settings.target_length] * 2


def test_a_night_reads_the_arrays_of_the_days_that_it_needs(built):
    """Spark reads ids and days first, and then skips the files of the days that it does not need."""
    context = built[0]
    events = sided_events(context.tables.read("interactions"), context.config.sequences)
    night = next_histories(context.tables.read("user_history"), events, [DAY], context.config.sequences)
    plan = night.frame._jdf.queryExecution().executedPlan().toString()
    assert "dynamicpruning" in plan
    assert "SortMergeJoin" not in plan


def test_too_short_sequences_are_left_out(built):
    context = built[0]
    settings = context.config.sequences.model_copy(update={"min_history": 5, "min_targets": 2})
    events = sided_events(context.tables.read("interactions"), settings)
    whole = sequences(events, as_of_dates(context.config), settings).frame
    rows = whole.select("user_id", "as_of", "hist_len", "tar_len")
    written = context.tables.read("sequences").where("hist_len >= 5 AND tar_len >= 2").select(*rows.columns)
    assert 0 < written.count() < context.tables.read("sequences").count()
    assert sorted(map(str, rows.collect())) == sorted(map(str, written.collect()))


def test_moved_windows_leave_nothing_of_the_former_ones(built):
    context = built[0]
    days = {name: day - timedelta(days=1) for name, day in context.config.windows.model_dump().items()}
    windows = context.config.windows.model_copy(update=days | {"first_as_of": context.config.windows.first_as_of})
    moved = make_context(context.spark, context.config.model_copy(update={"windows": windows}))
    former, again = context.config.windows.end, windows.towers_end
    step = "build_sequences"
    fingerprints = {former: context.fingerprint(step, former), again: moved.fingerprint(step, again)}
    context.ledger.record(step, fingerprints, "run", StepResult(0, 0), {}, {}, 0.0)
    as_of = min(as_of_dates(moved.config))
    result = build_sequences(moved, [as_of, windows.end])  # looks at what it wrote alone
    assert all(figure["rows"] > 0 and figure["leaks"] == 0 for figure in result.details["audit"])
    assert {row.as_of for row in moved.tables.read("sequences").select("as_of").distinct().collect()} == {as_of}
    assert set(moved.ledger.recorded()) == {(step, again)}  # the former day's samples are gone: it is due again
    stages = _days_of_stages(moved)
    assert stages["ranker_test"] == set(DayRange(windows.ranker_train_end, windows.end)) & stages["ranker_test"]
    outside = stages["cvr"] - set(DayRange(windows.towers_end, windows.cvr_end))
    assert outside == {windows.cvr_end}  # it is in another stage's window now, which the audit of all rows notices
    *others, samples = audit_sequences(moved.tables, moved.config)
    assert samples.leaks > 0 and not any(figure.leaks for figure in others)


def _days_of_stages(context):
    days = defaultdict(set)
    for row in context.tables.read("samples").select("stage", "ds").distinct().collect():
        days[row.stage].add(row.ds)
    return days
