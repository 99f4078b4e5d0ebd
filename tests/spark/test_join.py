"""The point-in-time join against a naive oracle, on generated days with ties, gaps, nulls and strangers."""

import random
from datetime import date, timedelta

import pytest
from pyspark.sql import SparkSession

from learn_spark.lake.point_in_time import latest_before
from tests.oracles.point_in_time import newest_before

pytestmark = pytest.mark.spark
FIRST = date(2011, 11, 1)


def generated(seed: int) -> tuple[list[tuple], list[tuple]]:
    """Samples (number, key, ds) and features (key, ds, vector) over a few keys and days."""
    rng = random.Random(seed)
    keys = [f"u{i}" for i in range(12)]
    features = {(rng.choice(keys[:10]), FIRST + timedelta(days=rng.randrange(20))): [rng.random()] for _ in range(60)}
    samples = [
        (number, rng.choice([*keys, None]), FIRST + timedelta(days=rng.randrange(-3, 23))) for number in range(300)
    ]
    return samples, [(key, ds, vector) for (key, ds), vector in features.items()]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_equals_the_naive_join(spark: SparkSession, seed: int) -> None:
    samples, features = generated(seed)
    samples_df = spark.createDataFrame(samples, "number int, user_id string, ds date")
    features_df = spark.createDataFrame(features, "user_id string, ds date, user_emb array<double>")
    joined = {row.number: row for row in latest_before(samples_df, features_df, "user_id").collect()}
    vectors = {(key, ds): vector for key, ds, vector in features}
    pairs = list(vectors)
    assert sorted(joined) == [number for number, _, _ in samples]
    for number, key, ds in samples:
        expected = newest_before(key, ds, pairs)
        assert joined[number].feature_ds == expected
        assert joined[number].user_emb == vectors.get((key, expected))
        assert (joined[number].user_id, joined[number].ds) == (key, ds)


def test_duplicate_samples_stay(spark: SparkSession) -> None:
    samples = spark.createDataFrame([("u", FIRST), ("u", FIRST)], "user_id string, ds date")
    features = spark.createDataFrame([("u", FIRST, 1)], "user_id string, ds date, value int")
    assert [row.value for row in latest_before(samples, features, "user_id").collect()] == [1, 1]


def test_a_row_of_the_same_day_counts_and_a_later_one_never_does(spark: SparkSession) -> None:
    samples = spark.createDataFrame([("u", FIRST), ("v", FIRST)], "user_id string, ds date")
    later = FIRST + timedelta(days=1)
    features = spark.createDataFrame(
        [("u", FIRST, 1), ("u", later, 2), ("v", later, 3)], "user_id string, ds date, value int"
    )
    found = {row.user_id: row.value for row in latest_before(samples, features, "user_id").collect()}
    assert found == {"u": 1, "v": None}
