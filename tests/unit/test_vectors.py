"""Bad vectors, neighbours, pace, and misplaced GPUs; without Spark."""

import numpy as np
import pytest

from learn_spark.config.load import load_config
from learn_spark.embedding.udf import Window, as_rows
from learn_spark.embedding.work import Span, Work, pace_line
from learn_spark.errors import ConfigError
from learn_spark.quality.drift import neighbour_overlap
from tests.conftest import CONF


def test_flags_say_why_there_are_zeros() -> None:
    vectors_ND = np.ones((6, 4), np.float32)
    vectors_ND[1, 0], vectors_ND[2, 1], vectors_ND[3] = np.nan, np.inf, 60_000
    window = Window(list("abcdef"), [[1], [1], [1], [1], [1], []], 5)
    rows = as_rows(window, vectors_ND, [4], "encoder")
    assert rows["flag"].tolist() == [None, "not finite", "not finite", "beyond fp16", "out of memory", "empty"]
    assert rows["norm"].tolist() == [2.0, 0, 0, 0, 0, 0]
    assert [np.frombuffer(row, "<f2").any() for row in rows["embedding"]] == [True, *[False] * 5]
    assert (rows["dim"] == 4).all()


def test_neighbour_overlap_is_one_of_itself_and_chance_of_noise() -> None:
    rng = np.random.default_rng(1)
    one_ND, other_ND = rng.normal(size=(2, 500, 16))
    assert neighbour_overlap(one_ND, 3 * one_ND) == 1
    assert neighbour_overlap(one_ND, other_ND) == pytest.approx(10 / 499, abs=0.01)


def test_pace_names_what_is_left() -> None:
    work = Work(250, 3000, (Span("3", 5.0, 15.0),))
    assert work.device_seconds == 10
    assert pace_line(work, 1000, 10.0) == "250 of 1,000 texts, 25 texts/s, 300 tokens/s, 0.5 min left"


def test_gpus_in_local_mode_are_refused_before_spark_starts() -> None:
    asked = ['spark.conf={"spark.task.resource.gpu.amount": "1"}']
    with pytest.raises(ConfigError, match=r"\.resource\.gpu\.amount would wait for ever under spark\.master"):
        load_config(CONF / "test.yaml", asked)
    cluster = load_config(CONF / "test.yaml", [*asked, "spark.master=local-cluster[2,1,1024]"])
    assert cluster.spark.conf["spark.task.resource.gpu.amount"] == "1"
