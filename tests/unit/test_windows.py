"""The staggered windows of every shipped config."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from learn_spark.cli.main import main
from learn_spark.config.load import load_config
from learn_spark.lake.days import ONE_DAY
from learn_spark.pipeline import STEPS
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.sequences.counts import ranges, refusal, require_training_days, spread
from learn_spark.sequences.windows import as_of_dates, sample_windows

CONF = Path(__file__).parents[2] / "conf"


def test_recorded_days_of_windows_that_have_moved_on_have_fingerprints():
    """A ledger has the days of all retrains; each is compared with the fingerprint that it would have now."""
    config = load_config(CONF / "test.yaml")
    expected, windows = Fingerprints(config, STEPS), config.windows
    for name in STEPS:
        days = [config.ingest.start + ONE_DAY, windows.towers_end - ONE_DAY, windows.end + timedelta(days=40)]
        assert len({expected(name, day) for day in days}) == len(days), name


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


def test_an_empty_range_is_named_with_its_counts_and_its_keys():
    asked = ranges(load_config(CONF / "test.yaml"))
    rows = {each.name: 2011 for each in asked}
    assert set(rows) == {"train", "val", "test", "cvr train", "cvr validation", "ranker_train", "ranker_test"}
    assert refusal(asked, rows, "") is None
    days = [date(2018, 1, 1), date(2018, 2, 1), date(2018, 2, 2), date(2018, 3, 1), date(2018, 3, 2)]
    said = refusal(asked, rows | {"train": 0, "cvr validation": 0}, spread(days))
    assert said.startswith(
        "no rows for train, cvr validation: train 0 rows from 3 as-of dates 2011-11-04 .. 2011-11-08"
    )
    assert "test 2,011 rows from as-of date 2011-11-16" in said
    assert "cvr validation 0 samples of 2011-11-18 .. 2011-11-19" in said
    assert said.endswith(
        "events lie on 5 of 61 days (2018-01-01 .. 2018-03-02): change windows.first_as_of, windows.towers_end,"
        " sequences.target_days, windows.cvr_end, cvr.validation_days"
    )


def test_ranges_cover_what_the_stages_learn_from():
    config = load_config(CONF / "test.yaml")
    by_name = {each.name: each for each in ranges(config)}
    assert by_name["cvr train"].start == config.windows.towers_end
    assert by_name["cvr train"].end == by_name["cvr validation"].start
    assert by_name["cvr validation"].end == config.windows.cvr_end
    assert by_name["train"].end <= by_name["val"].start
    assert by_name["val"].end == by_name["test"].start == config.windows.towers_end


def test_validation_days_must_leave_days_to_train_on(capsys, tmp_path):
    require_training_days(load_config(CONF / "test.yaml", ["cvr.validation_days=3"]))
    settings = ["--config", str(CONF / "test.yaml"), "--dry-run"]
    settings += ["--set", "cvr.validation_days=4", "--set", f"lake.root={tmp_path}/lake"]
    assert main(["run_pipeline", *settings]) == 2
    said = capsys.readouterr().err
    assert "cvr.validation_days (4) leaves no day to train on: windows.towers_end (2011-11-16) to cvr_end" in said
    assert main(["ingest_events", *settings]) == 0, "nothing is trained"
    (cvr,) = (each for each in ranges(load_config(CONF / "test.yaml", ["cvr.validation_days=4"])) if "cvr" in each.name)
    assert (cvr.name, cvr.start, cvr.end) == ("cvr", date(2011, 11, 16), date(2011, 11, 20))
