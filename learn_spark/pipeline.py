"""The whole DAG: which step makes which days from what."""

from collections.abc import Collection, Iterable
from datetime import date, timedelta

from learn_spark.config.load import Config
from learn_spark.embedding.encoders import VERSION as ENCODING_VERSION
from learn_spark.embedding.job import embed_items
from learn_spark.evaluation.job import READS as EVALUATED
from learn_spark.evaluation.job import evaluate_features
from learn_spark.features.job import write_features
from learn_spark.ingest.files import SourceFiles
from learn_spark.ingest.job import ingest_events
from learn_spark.lake.days import ONE_DAY, DayRange
from learn_spark.releases.release import FEATURE_TABLES
from learn_spark.runs.plan import Plan
from learn_spark.runs.steps import Step
from learn_spark.sequences.job import build_sequences
from learn_spark.sequences.windows import as_of_dates, sample_windows
from learn_spark.training.job import train_cvr, train_towers


def _ingested_before(config: Config, end: date) -> list[tuple[str, date]]:
    return [("ingest_events", day) for day in DayRange(config.ingest.start, end)]


def _content_day(config: Config, day: date) -> date:
    """The embedding run that a feature day stands on: training covers all items up to the windows' end."""
    return max(day, config.windows.end)


def _sequences_need(config: Config, day: date) -> Iterable[tuple[str, date]]:
    """Histories after the first feature day follow from those of the days before and the last day's events."""
    first = config.windows.towers_end
    if config.sequences.protocol == "leave_one_out" or day <= first or day in as_of_dates(config):
        reach = timedelta(days=config.sequences.target_days) if day in as_of_dates(config) else timedelta()
        return _ingested_before(config, day + reach)
    return [*(("build_sequences", d) for d in DayRange(first, day)), ("ingest_events", day - ONE_DAY)]


def _towers_need(config: Config, day: date) -> Iterable[tuple[str, date]]:
    yield ("embed_items", config.windows.end)
    for as_of in as_of_dates(config):
        yield ("build_sequences", as_of)


def _cvr_needs(config: Config, day: date) -> Iterable[tuple[str, date]]:
    yield ("train_towers", config.windows.towers_end)
    for feature_day in DayRange(config.windows.towers_end, day + ONE_DAY):
        yield ("build_sequences", feature_day)


def _features_need(config: Config, day: date) -> Iterable[tuple[str, date]]:
    yield ("train_towers", config.windows.towers_end)
    yield ("train_cvr", config.windows.cvr_end)
    yield ("embed_items", _content_day(config, day))
    yield ("build_sequences", day)
    for window in sample_windows(config):
        if window.stage != "cvr" and window.start <= day < window.end:
            yield ("build_sequences", window.end)


def _evaluation_needs(config: Config, day: date) -> Iterable[tuple[str, date]]:
    for feature_day in feature_days(config):
        yield ("write_features", feature_day)


def feature_days(config: Config) -> list[date]:
    """Every day from the towers' last target on: CVR and ranker join on them, production on the newest."""
    return list(DayRange(config.windows.towers_end, config.windows.end + ONE_DAY))


STEPS = {
    step.name: step
    for step in (
        Step(
            "ingest_events",
            ingest_events,
            ("ingest",),
            lambda config, day: (),
            writes=("interactions", "items", "item_index", "rejects"),
            version=1,
            source=SourceFiles,
            overlaps=True,
        ),
        Step(
            "build_sequences",
            build_sequences,
            ("windows", "sequences", "samples"),
            _sequences_need,
            reads=("interactions",),
            writes=("sequences", "user_history", "samples"),
            version=1,
        ),
        Step(
            "embed_items",
            embed_items,
            ("windows", "embedding"),
            lambda config, day: _ingested_before(config, day),
            reads=("items", "item_index"),
            writes=("item_text", "content_embeddings"),
            version=ENCODING_VERSION,
        ),
        Step(
            "train_towers",
            train_towers,
            ("towers", "stream", "retrieval"),
            _towers_need,
            reads=("sequences",),
            version=1,
            trains=True,
        ),
        Step(
            "train_cvr",
            train_cvr,
            ("cvr", "stream"),
            _cvr_needs,
            reads=("samples", "user_history"),
            version=1,
            trains=True,
        ),
        Step(
            "write_features",
            write_features,
            ("features",),
            _features_need,
            reads=("interactions", "items", "item_index", "user_history", "samples"),
            writes=("item_life", *FEATURE_TABLES, "releases"),
            version=1,
        ),
        Step(
            "evaluate_features",
            evaluate_features,
            ("evaluation", "retrieval"),
            _evaluation_needs,
            reads=EVALUATED,
            version=1,
        ),
    )
}


def _ingest_days(config: Config) -> list[date]:
    return list(DayRange(config.ingest.start, config.windows.end))


def pipeline_days(config: Config) -> dict[str, list[date]]:
    """What the whole journey makes, step by step."""
    windows = config.windows
    if config.sequences.protocol == "leave_one_out":
        ends = [windows.end]
        return {"ingest_events": _ingest_days(config), "build_sequences": ends, "embed_items": ends}
    sequence_days = {*as_of_dates(config), *feature_days(config), *(w.end for w in sample_windows(config))}
    return {
        "ingest_events": _ingest_days(config),
        "build_sequences": sorted(sequence_days),
        "embed_items": [windows.end],
        "train_towers": [windows.towers_end],
        "train_cvr": [windows.cvr_end],
        "write_features": feature_days(config),
        "evaluate_features": [windows.end],
    }


def backfill_days(config: Config, days: DayRange) -> dict[str, list[date]]:
    """What a nightly run makes: a day's events, and the features that hold from the next midnight on.

    Training is not in it: the features come from the models of the config's windows.
    """
    following = [day + ONE_DAY for day in days if day + ONE_DAY >= config.windows.towers_end]
    return {
        "ingest_events": list(days),
        "build_sequences": following,
        "embed_items": sorted({_content_day(config, day) for day in following}),
        "write_features": following,
    }


def as_plan(days: dict[str, list[date]], only: Collection[str] = ()) -> Plan:
    """Steps in the DAG's order with their days; `only` keeps those, where given."""
    return [(STEPS[name], days[name]) for name in STEPS if days.get(name) and (not only or name in only)]
