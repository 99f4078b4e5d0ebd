"""Observed labels against a naive oracle, on generated and on hand-made logs; the meaning of log-Q."""

import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from learn_spark.config.load import load_config
from learn_spark.config.sections import LabelSettings
from learn_spark.lake.schemas import INTERACTIONS
from learn_spark.sequences.audit import audit_sequences
from learn_spark.sequences.samples import window_samples, with_log_q
from learn_spark.sequences.windows import SampleWindow, sample_windows
from tests.builders.contexts import make_context
from tests.conftest import CONF
from tests.oracles.samples import naive_observed

pytestmark = pytest.mark.spark

WINDOW = SampleWindow("cvr", date(2011, 11, 16), date(2011, 11, 20))
NOON = datetime(2011, 11, 16, 12)
DAY = timedelta(days=1)
OBSERVED = {"labels": "observed", "negatives": 4, "seed": 7}
VIEWS = {**OBSERVED, "exposure_events": ["view"], "conversion_events": ["buy"], "conversion_days": 1, "min_value": None}


def asked(**changes):
    base = load_config(CONF / "test.yaml").samples
    return base.model_copy(update={**VIEWS, **changes})


def log_of(spark, events):
    rows = [
        (n, user, item, 1, kind, ts.replace(tzinfo=UTC), value, "f", NOON, ts.date(), ts.date())
        for n, (user, item, kind, ts, value) in enumerate(events)
    ]
    return spark.createDataFrame(rows, INTERACTIONS.columns_ddl)


def observed(spark, events, **changes):
    rows = window_samples(log_of(spark, events), WINDOW, asked(**changes), []).collect()
    assert all(row.weight == 1 and row.stage == "cvr" and row.ds == row.event_ts.date() for row in rows)
    found = {(row.user_id, row.item_id, row.event_ts): row.label for row in rows}
    assert len(found) == len(rows)
    return found


moment = st.builds(
    lambda hours, micros: NOON + timedelta(hours=12 * hours, microseconds=micros),
    st.integers(-3, 10),
    st.sampled_from([0, 0, 1, -1]),
)
event = st.tuples(
    st.sampled_from("uv"),
    st.sampled_from("ij"),
    st.sampled_from(["view", "buy", "other"]),
    moment,
    st.sampled_from([None, 1.0, 4.0, 5.0]),
)


@pytest.mark.parametrize("exposures", [["view"], ["view", "buy"]])
@pytest.mark.parametrize("min_value", [None, 4.0])
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(logs=st.lists(st.lists(event, min_size=1, max_size=25), min_size=3, max_size=3), days=st.integers(0, 2))
def test_observed_labels_equal_the_naive_ones(spark, logs, days, exposures, min_value):
    """Tests three logs at once, each with users of its own."""
    events = [(f"{user}{number}", *rest) for number, log in enumerate(logs) for user, *rest in log]
    found = observed(spark, events, conversion_days=days, exposure_events=exposures, min_value=min_value)
    assert found == naive_observed(events, WINDOW.start, WINDOW.end, exposures, ["buy"], days, min_value)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    logs=st.lists(st.lists(event, min_size=1, max_size=25), min_size=3, max_size=3),
    days=st.tuples(*[st.integers(0, 2)] * 3),
)
def test_each_of_several_labels_equals_the_naive_one(spark, logs, days):
    """A label of its own events, and one of a part of the conversion's; the longest of all says what is known."""
    events = [(f"{user}{number}", *rest) for number, log in enumerate(logs) for user, *rest in log]
    others = {
        "user_id": LabelSettings(events=["other"], days=days[1]),  # any name will do
        "liked": LabelSettings(events=["buy", "other"], days=days[2], min_value=4),
    }
    log, asked_ = log_of(spark, events), asked(conversion_days=days[0], other_labels=others)
    rows = window_samples(log, WINDOW, asked_, []).collect()
    naive = [
        naive_observed(events, WINDOW.start, WINDOW.end, ["view"], kinds, reach, least, known_days=max(days))
        for kinds, reach, least in (
            (["buy"], days[0], None),
            (["buy", "other"], days[2], 4),
            (["other"], days[1], None),
        )
    ]
    expected = {key: tuple(labels[key] for labels in naive) for key in naive[0]}
    found = {(row.user_id, row.item_id, row.event_ts): (row.label, *row.other_labels) for row in rows}
    assert found == expected and len(found) == len(rows)


def test_a_purchase_counts_for_every_view_before_it_within_reach(spark):
    views = [("u", "i", "view", NOON + hours * DAY / 24, None) for hours in (0, 1, 25)]
    events = [*views, ("u", "i", "buy", NOON + 25 * DAY / 24, 1.0), ("v", "i", "view", NOON, None)]
    events += [("u", "j", "view", NOON, None), ("u", "i", "view", NOON + 26 * DAY / 24, None)]
    labels = {
        (user, item, (ts - NOON) / DAY * 24): label for (user, item, ts), label in observed(spark, events).items()
    }
    assert labels == {
        ("u", "i", 0): 0,  # 25 hours before it
        ("u", "i", 1): 1,  # exactly a day before it
        ("u", "i", 25): 1,  # at the same time
        ("u", "i", 26): 0,  # after it
        ("u", "j", 0): 0,
        ("v", "i", 0): 0,
    }


def test_a_label_that_the_windows_end_cuts_off_makes_no_sample(spark):
    end = datetime(2011, 11, 20)
    early, late = end - DAY - timedelta(microseconds=1), end - DAY
    events = [("u", "i", "view", early, None), ("u", "j", "view", late, None), ("v", "j", "view", late, None)]
    events += [("v", "j", "buy", late, 1.0), ("u", "i", "buy", end, 1.0)]
    assert observed(spark, events) == {("u", "i", early): 0}  # its purchase is the next stage's affair


def test_movielens_ratings_are_their_own_outcome(spark):
    """conf/movielens_*.yaml: ratings from 4 on are positive, by value and by the type that ingest gives them."""
    samples = load_config(CONF / "movielens_100k.yaml").samples.model_dump()
    ratings = [
        (f"u{n % 3}", f"i{n}", "like" if n % 5 >= 3 else "rate", NOON + n * DAY / 9, n % 5 + 1.0) for n in range(30)
    ]
    found = observed(spark, ratings, **samples)
    assert found == observed(spark, ratings, **{**samples, "conversion_events": ["like"], "min_value": None})
    assert found == {
        (user, item, ts): int(value >= 4) for user, item, _, ts, value in ratings if ts.date() < WINDOW.end
    }
    assert set(found.values()) == {0, 1} and max(ts for *_, ts in found) > datetime(2011, 11, 19)


def test_kuairand_lines_are_impression_and_outcome_in_one(spark):
    """conf/kuairand.yaml: a shown video is an impression plus one event per outcome, all with the same time."""
    samples = load_config(CONF / "kuairand.yaml").samples.model_dump()
    shown = {"a": ["click", "long_view"], "b": ["click"], "c": [], "d": ["hate"]}
    events = [("u", video, kind, NOON, 7.0) for video, kinds in shown.items() for kind in ["impression", *kinds]]
    assert {item: label for (_, item, _), label in observed(spark, events, **samples).items()} == {
        "a": 1,
        "b": 0,
        "c": 0,
        "d": 0,
    }


def test_the_audit_sees_a_label_that_was_known_too_late(spark, tmp_path):
    settings_ = [
        "ingest.event_types=[purchase, cancel, adjust, view]",
        "samples.labels=observed",
        "samples.exposure_events=[view]",
    ]
    settings_ += ["samples.conversion_events=[purchase]", "samples.conversion_days=1", f"lake.root={tmp_path}/lake"]
    context = make_context(spark, load_config(CONF / "test.yaml", settings_))
    window = sample_windows(context.config)[0]
    events = [("u", f"i{hour}", "view", NOON + hour * DAY / 24, None) for hour in range(0, 96, 6)]
    rows = window_samples(log_of(spark, events), window, context.config.samples, [])
    context.tables.append("samples", rows)
    assert [figure.leaks for figure in audit_sequences(context.tables, context.config)[-2:]] == [0, 0]
    late = rows.limit(1).withColumn("event_ts", F.lit(datetime(2011, 11, 19, 1, tzinfo=UTC)))
    context.tables.append("samples", late.withColumn("ds", F.lit(date(2011, 11, 19))))
    inside, known = audit_sequences(context.tables, context.config)[-2:]
    assert (inside.leaks, known.leaks) == (0, 1)
    assert known.rule == "labels are known before their stage's window ends"


def test_log_q_is_how_often_the_draws_really_hit_an_item(spark):
    """Over many lines and seeds, an item has negatives x q(item) negatives per line, except for dropped ones."""
    popular = [(f"u{n}", f"i{n % 7 % 4}", "buy", NOON + n * DAY / 400, 1.0) for n in range(400)]
    log, k = log_of(spark, popular), 3
    sampled = {"labels": "sampled", "negatives": k}
    rows = window_samples(log, WINDOW, asked(**sampled), ["buy"])
    log_q = {row.item_id: row.log_q for row in with_log_q(rows, k).select("item_id", "log_q").distinct().collect()}
    lines = Counter(item for _, item, *_ in popular)
    assert log_q == pytest.approx({item: math.log(k * count / 400) for item, count in lines.items()}, rel=1e-6)
    drawn = Counter()
    for seed in range(5):
        negatives = window_samples(log, WINDOW, asked(**sampled, seed=seed), ["buy"]).where("label = 0")
        for row in negatives.groupBy("item_id").agg(F.sum("weight").alias("draws")).collect():
            drawn[row.item_id] += row.draws / 5
    for item, count in lines.items():
        not_own = 400 - count  # buyers of the item have no such negative
        assert drawn[item] == pytest.approx(not_own * math.exp(log_q[item]), rel=0.1)
