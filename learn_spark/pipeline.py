"""The whole DAG: which step makes which days from what."""

from collections.abc import Collection, Iterable
from datetime import date, timedelta

from learn_spark.bridge.trained import lost_cvr, lost_towers
from learn_spark.bridge.training_environment import require_petastorm
from learn_spark.config.load import Config
from learn_spark.embedding.encoders import VERSION as ENCODING_VERSION
from learn_spark.embedding.job import embed_items, lost_matrix
from learn_spark.evaluation.job import READS as EVALUATED
from learn_spark.evaluation.job import evaluate_features
from learn_spark.evaluation.rivals import check_rivals, named_rivals
from learn_spark.features.job import write_features
from learn_spark.ingest.files import SourceFiles
from learn_spark.ingest.job import ingest_events
from learn_spark.lake.days import ONE_DAY, DayRange
from learn_spark.releases.release import FEATURE_TABLES, unshown_days
from learn_spark.runs.plan import Plan, Planned
from learn_spark.runs.steps import (
    BUILD_SEQUENCES,
    EMBED_ITEMS,
    EVALUATE_FEATURES,
    INGEST_EVENTS,
    TRAIN_CVR,
    TRAIN_TOWERS,
    WRITE_FEATURES,
    Step,
    StepDay,
    StepName,
    cvr_day,
    towers_day,
)
from learn_spark.sequences.job import build_sequences
from learn_spark.sequences.windows import as_of_dates, sample_windows
from learn_spark.training.job import train_cvr, train_towers

Days = dict[StepName, list[date]]


def _ingested_before(config: Config, end: date) -> list[StepDay]:
    return [(INGEST_EVENTS, day) for day in DayRange(config.ingest.start, end)]


def _content_day(config: Config, day: date) -> date:
    """The day of the embedding run that a feature day needs: training covers all items up to the windows' end."""
    return max(day, config.windows.end)


def _sequences_need(config: Config, day: date) -> Iterable[StepDay]:
    """Histories after the first feature day follow from those of the days before and the last day's events."""
    first = config.windows.towers_end
    if config.sequences.protocol == "leave_one_out" or day <= first or day in as_of_dates(config):
        reach = timedelta(days=config.sequences.target_days) if day in as_of_dates(config) else timedelta()
        return _ingested_before(config, day + reach)
    return [*((BUILD_SEQUENCES, d) for d in DayRange(first, day)), (INGEST_EVENTS, day - ONE_DAY)]


def _towers_need(config: Config, day: date) -> Iterable[StepDay]:
    yield (EMBED_ITEMS, config.windows.end)
    for as_of in as_of_dates(config):
        yield (BUILD_SEQUENCES, as_of)


def _cvr_needs(config: Config, day: date) -> Iterable[StepDay]:
    yield towers_day(config)
    if day >= config.windows.towers_end:  # the ledger may have a day of windows that have moved since
        for feature_day in DayRange(config.windows.towers_end, day + ONE_DAY):
            yield (BUILD_SEQUENCES, feature_day)


def _features_need(config: Config, day: date) -> Iterable[StepDay]:
    yield towers_day(config)
    yield cvr_day(config)
    yield (EMBED_ITEMS, _content_day(config, day))
    yield (BUILD_SEQUENCES, day)
    for window in sample_windows(config):
        if window.stage != "cvr" and window.start <= day < window.end:
            yield (BUILD_SEQUENCES, window.end)


def _evaluation_needs(config: Config, day: date) -> Iterable[StepDay]:
    for feature_day in feature_days(config):
        yield (WRITE_FEATURES, feature_day)


def feature_days(config: Config) -> list[date]:
    """Every day from the end of the towers' window on: CVR and ranker join their features, production the newest."""
    return list(DayRange(config.windows.towers_end, config.windows.end + ONE_DAY))


STEPS = {
    step.name: step
    for step in (
        Step(
            INGEST_EVENTS,
            ingest_events,
            ("ingest",),
            lambda config, day: (),
            writes=("interactions", "items", "item_index", "rejects"),
            version=2,
            source=SourceFiles,
            overlaps=True,
        ),
        Step(
            BUILD_SEQUENCES,
            build_sequences,
            ("windows", "sequences", "samples"),
            _sequences_need,
            reads=("interactions",),
            writes=("sequences", "user_history", "samples"),
            version=1,
        ),
        Step(
            EMBED_ITEMS,
            embed_items,
            ("windows", "embedding"),
            lambda config, day: _ingested_before(config, day),
            reads=("items", "item_index"),
            writes=("item_text", "content_embeddings"),
            version=ENCODING_VERSION,
            lost=lost_matrix,
        ),
        Step(
            TRAIN_TOWERS,
            train_towers,
            ("towers", "stream", "retrieval"),
            _towers_need,
            reads=("sequences",),
            version=1,
            check=require_petastorm,
            lost=lost_towers,
            trains=True,
        ),
        Step(
            TRAIN_CVR,
            train_cvr,
            ("cvr", "stream"),
            _cvr_needs,
            reads=("samples", "user_history"),
            version=1,
            check=require_petastorm,
            lost=lost_cvr,
            trains=True,
        ),
        Step(
            WRITE_FEATURES,
            write_features,
            ("features",),
            _features_need,
            reads=("interactions", "items", "item_index", "user_history", "samples"),
            writes=("item_life", *FEATURE_TABLES, "releases"),
            version=1,
            lost=unshown_days,
        ),
        Step(
            EVALUATE_FEATURES,
            evaluate_features,
            ("evaluation", "retrieval"),
            _evaluation_needs,
            reads=EVALUATED,
            version=4,
            named=named_rivals,
            check=check_rivals,
        ),
    )
}


def _ingest_days(config: Config) -> list[date]:
    return list(DayRange(config.ingest.start, config.windows.end))


def pipeline_days(config: Config) -> Days:
    """What the whole journey makes, step by step."""
    windows = config.windows
    if config.sequences.protocol == "leave_one_out":
        ends = [windows.end]
        return {INGEST_EVENTS: _ingest_days(config), BUILD_SEQUENCES: ends, EMBED_ITEMS: ends}
    sequence_days = {*as_of_dates(config), *feature_days(config), *(w.end for w in sample_windows(config))}
    return {
        INGEST_EVENTS: _ingest_days(config),
        BUILD_SEQUENCES: sorted(sequence_days),
        EMBED_ITEMS: [windows.end],
        TRAIN_TOWERS: [windows.towers_end],
        TRAIN_CVR: [windows.cvr_end],
        WRITE_FEATURES: feature_days(config),
        EVALUATE_FEATURES: [windows.end],
    }


def backfill_days(config: Config, days: DayRange) -> Days:
    """What a nightly run makes: a day's events, and the features that hold from the next midnight on.

    Training is not in it: the features come from the models of the config's windows.
    """
    following = [day + ONE_DAY for day in days if day + ONE_DAY >= config.windows.towers_end]
    return {
        INGEST_EVENTS: list(days),
        BUILD_SEQUENCES: following,
        EMBED_ITEMS: sorted({_content_day(config, day) for day in following}),
        WRITE_FEATURES: following,
    }


def as_plan(days: Days, only: Collection[StepName] = (), restate: bool = False, follow_late: bool = False) -> Plan:
    """The plan of steps in the DAG's order with their days, or of those in `only`; for the rest see `Plan`."""
    wanted = [step for step in STEPS.values() if days.get(step.name) and (not only or step.name in only)]
    steps = [Planned(step, days[step.name]) for step in wanted]
    return Plan(steps, restate, follow_late)
