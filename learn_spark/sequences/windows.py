"""The dates of the config's windows: towers' as-of dates with their splits, and the samples' windows."""

from dataclasses import dataclass
from datetime import date, timedelta

from learn_spark.config.load import Config


@dataclass(frozen=True)
class SampleWindow:
    """Samples of a stage: events with `start <= event_ts < end`."""

    stage: str
    start: date
    end: date


def as_of_dates(config: Config) -> dict[date, str]:
    """The towers' as-of dates and their splits, oldest first.

    Targets of `train` end where `val`'s begin, those of `val` at `towers_end`, where `test`'s begin: `test` is only for
    retrieval figures.
    """
    windows, sequences = config.windows, config.sequences
    reach = timedelta(days=sequences.target_days)
    validation = validation_day(config)
    dates: dict[date, str] = {}
    day = validation - reach
    while day >= windows.first_as_of:
        dates[day] = "train"
        day -= timedelta(days=sequences.as_of_every_days)
    return dict(sorted(dates.items())) | {validation: "val", windows.towers_end: "test"}


def validation_day(config: Config) -> date:
    """The as-of date of the towers' validation rows."""
    return config.windows.towers_end - timedelta(days=config.sequences.target_days)


def sample_windows(config: Config) -> list[SampleWindow]:
    """The windows of CVR and ranker, in the order in which they follow the towers' last target."""
    windows = config.windows
    return [
        SampleWindow("cvr", windows.towers_end, windows.cvr_end),
        SampleWindow("ranker_train", windows.cvr_end, windows.ranker_train_end),
        SampleWindow("ranker_test", windows.ranker_train_end, windows.end),
    ]
