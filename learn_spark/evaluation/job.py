"""Measures the published features by retrieval and by a ranker: Spark exports rows, another process computes."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from learn_spark.bridge.launch import run_trainer
from learn_spark.bridge.snapshots import export
from learn_spark.bridge.trained import towers_fingerprint, towers_path
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import ConfigError
from learn_spark.evaluation.ranking import CATEGORICAL, base_columns, ranker_rows, tail_events
from learn_spark.evaluation.rivals import Rivals, make_rivals
from learn_spark.releases.codebooks import CODES
from learn_spark.releases.registry import Release
from learn_spark.releases.release import published_release
from learn_spark.releases.spaces import Earlier, earlier_models
from learn_spark.runs.details import EvaluationDetails
from learn_spark.runs.ledger import StepResult, fingerprint_of
from learn_spark.runs.steps import EVALUATE_FEATURES, Context
from learn_spark.systems.test_day import day_snapshots
from learn_spark.training.job import validation_of
from learn_spark.training.pair_snapshots import PAIR_KEY
from learn_spark.training.sequence_snapshots import sequence_snapshot
from models.contract.evaluation_specs import RankerSpec, SystemConfig, SystemsSpec
from models.contract.snapshot import read_manifest

TOWERS = "towers"
FITTED = "fitted"
KS = (10, 50)  # the report's columns
READS = (
    "samples",
    "interactions",
    "sequences",
    "user_history",
    "items",
    "item_index",
    "user_features",
    "item_features",
    "pair_features",
)


def evaluate_features(context: Context, days: Sequence[date]) -> StepResult:
    """Measures the features of all feature days; `days` is the day on which the windows end.

    The names of snapshots and figures depend on the versions of the tables that they are made from: a killed run finds
    what it has finished, and late events lead to new figures.

    Returns:
        `details`: `retrieval` (`retrieval_figures`) and `ranker`, with the figures of
        `models.evaluation.evaluate_systems` and `models.evaluation.evaluate_ranker`.
    """
    windows = context.config.windows
    release = published_release(context)
    if release is None:
        raise ConfigError("no release by these models is published: run write_features first")
    fingerprint = fingerprint_of(context.fingerprint(EVALUATE_FEATURES, windows.end), context.tables.versions(READS))
    earlier = _earlier(context)
    retrieval, retrieval_rows = _retrieval(context, fingerprint, earlier)
    ranker, ranker_rows_ = _ranker(context, release, fingerprint, earlier)
    details = EvaluationDetails(retrieval, ranker)
    return StepResult(rows_in=retrieval_rows + ranker_rows_, rows_out=0, details=details.as_json())


def _retrieval(context: Context, fingerprint: str, earlier: Earlier | None) -> tuple[dict[str, Any], int]:
    config, version = context.config, context.tables.version("sequences")
    test, day = sequence_snapshot(context, "test", version, fingerprint), day_snapshots(context)
    learned = towers_fingerprint(context)
    spec = SystemsSpec(
        train_snapshot=sequence_snapshot(context, "train", version, learned),
        test_snapshot=test,
        val_snapshot=sequence_snapshot(context, "val", version, learned),
        validation=validation_of(config),
        **day,
        candidates=config.evaluation.candidates,
        content_matrix=matrix_path(context),
        out_dir=context.tables.artifacts.path("evaluation", f"retrieval-{fingerprint}"),
        systems=(*_systems(context), *_mixed(context, earlier)),
        ks=KS,
        popularity_days=config.retrieval.popularity_days,
        seed=config.evaluation.seed,
        threads=config.evaluation.run.threads,
    )
    context.progress.say("evaluate-systems: towers, popularity, last item, mean content")
    figures = retrieval_figures(spec.candidates, run_trainer(spec))
    if earlier:
        figures["earlier_release"] = earlier[0].release_id
    return figures, sum(read_manifest(snapshot).rows for snapshot in (test, *day.values()))


def _systems(context: Context) -> tuple[SystemConfig, ...]:
    """The rows of the report: the lake's towers, and what they have to beat."""
    towers, weight = towers_path(context), context.config.retrieval.popularity_prior
    return (
        SystemConfig(name=FITTED, kind="model", folder=towers, popularity_prior=weight, fitted=True),
        SystemConfig(name=TOWERS, kind="model", folder=towers, popularity_prior=weight),
        SystemConfig(name="without_prior", kind="model", folder=towers),
        SystemConfig(name="popularity", kind="popularity"),
        SystemConfig(name="last_item", kind="last_item"),
        SystemConfig(name="mean_content", kind="mean_content"),
        SystemConfig(name="mean_content_with_prior", kind="mean_content", folder=towers, popularity_prior=weight),
    )


def _mixed(context: Context, earlier: Earlier | None) -> list[SystemConfig]:
    """This release's users with the earlier one's items and the like: what a server has if one side arrives late."""
    if earlier is None:
        return []
    ours, theirs = (towers_path(context), matrix_path(context)), (earlier[1].towers, earlier[1].matrix)
    sides = {"earlier_users": (theirs, ours), "earlier_items": (ours, theirs), "earlier": (theirs, theirs)}
    return [
        SystemConfig(
            name=name,
            kind="model",
            folder=users[0],
            content_matrix=users[1],
            items_of=items[0],
            items_matrix=items[1],
            popularity_prior=context.config.retrieval.popularity_prior,
        )
        for name, (users, items) in sides.items()
    ]


def retrieval_figures(candidates: str, result: Mapping[str, dict]) -> dict[str, Any]:
    """The figures of `evaluate-systems` under their names in summary.json.

    Returns:
        candidates, users, items (how many candidates), targets, of these targets_not_known (no candidates, so missed by
        all systems) and targets_new; `recall_at_50`, `recall_at_50_ci90`, … of the towers, `popularity_…` and so on of
        the other systems; each also as `new_…` over the targets that are new to the user. `weights`: the weights beside
        the towers' inner product in the figures `fitted_…`, chosen on the validation rows.
    """
    data = result["data"]
    found: dict[str, Any] = {
        "candidates": candidates,
        "users": data["users"],
        "items": data["candidates"],
        "targets": data["targets"],
        "targets_not_known": data["targets_no_candidate"],
        "targets_new": data["targets_new"],
    }
    found["weights"] = result["systems"][FITTED]["fitted"]
    for name, figures in result["systems"].items():
        system = "" if name == TOWERS else f"{name}_"
        for segment, part in (("", figures), ("new_", figures["segments"]["new_to_user"])):
            for metric, interval in part.get("ci90", {}).items():
                found[f"{system}{segment}{metric}"] = part[metric]
                found[f"{system}{segment}{metric}_ci90"] = interval
    return found


def _ranker(
    context: Context, release: Release, fingerprint: str, earlier: Earlier | None
) -> tuple[dict[str, Any], int]:
    rivals = _rivals(context, fingerprint) if context.config.evaluation.rivals else None
    spec = ranker_spec(context, release, fingerprint, earlier, rivals)
    rows = read_manifest(spec.rows).rows
    context.progress.say(f"evaluate-ranker: {rows:,} samples, trees with and without the embeddings")
    result = run_trainer(spec)
    if earlier:
        result["kept"]["towers"] = [one.models["towers"] for one in (earlier[0], release)]
    if rivals:
        result["rivals"]["titles"] = rivals.titles
    return result, rows


def _rivals(context: Context, fingerprint: str) -> Rivals:
    version, learned = context.tables.version("sequences"), towers_fingerprint(context)
    train = sequence_snapshot(context, "train", version, learned)
    return make_rivals(context, train, f"evaluation-histories-{fingerprint}")


def ranker_spec(
    context: Context,
    release: Release,
    fingerprint: str,
    earlier: Earlier | None = None,
    rivals: Rivals | None = None,
) -> RankerSpec:
    """Exports the rows for `evaluate-ranker` and returns its spec.

    Args:
        context: has the config that made the release.
        release: the release whose embeddings are measured.
        fingerprint: becomes part of the names of rows and figures.
        earlier: an earlier release and its models; its ranker is fed this release's embeddings.
        rivals: other systems whose features are measured beside the embeddings.
    """
    settings = context.config.evaluation
    version = context.tables.version("interactions")
    frame = ranker_rows(context, release, earlier[1] if earlier else None, with_histories=bool(rivals))
    rows = export(context, frame, f"evaluation-ranker-{fingerprint}", PAIR_KEY, "interactions", version, settings.seed)
    return RankerSpec(
        rows=rows,
        content_matrix=matrix_path(context),
        base=base_columns(context.config.samples),
        categorical=CATEGORICAL,
        earlier=earlier[0].release_id if earlier else "",
        codes=CODES in release.models,
        rivals=rivals.systems if rivals else (),
        histories=rivals.histories if rivals else None,
        train_snapshot=rivals.train_snapshot if rivals else None,
        cold_events=context.config.features.cold_events,
        tail_events=tail_events(context),
        resamples=settings.resamples,
        seed=settings.seed,
        num_seeds=settings.num_seeds,
        trial_seeds=settings.trial_seeds,
        ranker=settings.ranker,
        threads=settings.run.threads,
        out_dir=context.tables.artifacts.path("evaluation", f"ranker-{fingerprint}"),
    )


def _earlier(context: Context) -> Earlier | None:
    """The release whose space the models were mapped into, and its models; None if there is none or they are gone."""
    found = earlier_models(context)
    if found and found[1].lacking:
        release_id = found[0].release_id
        context.progress.say(f"what a ranker of release {release_id} keeps is not measured: its models are gone")
        return None
    return found
