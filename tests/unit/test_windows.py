"""The staggered windows of every shipped config."""

from datetime import timedelta
from pathlib import Path

import pytest

from learn_spark.config.load import load_config
from learn_spark.sequences.windows import as_of_dates, sample_windows

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("name", ["demo", "test", "kuaishou"])
def test_no_stage_learns_from_an_earlier_ones_labels(name):
    config = load_config(CONF / f"{name}.yaml")
    reach = timedelta(days=config.sequences.target_days)
    by_split = {}
    for day, split in as_of_dates(config).items():
        by_split.setdefault(split, []).append(day)
    (validation,) = by_split["val"]
    assert max(by_split["train"]) + reach <= validation
    assert validation + reach <= config.windows.towers_end
    assert by_split["test"] == [config.windows.towers_end]
    windows = sample_windows(config)
    assert windows[0].start == config.windows.towers_end
    assert all(a.end == b.start for a, b in zip(windows, windows[1:], strict=False))
    assert windows[-1].end == config.windows.end
