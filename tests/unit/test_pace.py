"""The progress line of the encoding of texts."""

import re
import time
from types import SimpleNamespace

from learn_spark.embedding import work
from learn_spark.embedding.work import Pace, Work, pace_line


def test_a_line_holds_rates_and_the_time_left():
    told = pace_line(Work(65_536, 1_048_576), 1_000_000, seconds=128.0)
    assert told == "65,536 of 1,000,000 texts, 512 texts/s, 8,192 tokens/s, 30.4 min left"


def test_it_speaks_when_more_is_done_and_not_otherwise(monkeypatch):
    monkeypatch.setattr(work, "PACE_SECONDS", 0.005)
    said, account = [], SimpleNamespace(value=Work())
    with Pace(SimpleNamespace(say=said.append), account, 1000):
        time.sleep(0.05)
        assert said == []
        for done in (250, 500):
            account.value = Work(done, 10 * done)
            deadline = time.monotonic() + 10
            while not any(line.startswith(f"{done} of 1,000 texts") for line in said):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(0.05)
    assert len(said) == 2
    assert re.fullmatch(r"500 of 1,000 texts, [\d,]+ texts/s, [\d,]+ tokens/s, [\d.]+ min left", said[1])
