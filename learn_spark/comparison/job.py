"""`learn-spark compare`: trains what is missing, ranks targets by every system, writes tables and pages."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from learn_spark.bridge.launch import run_trainer
from learn_spark.comparison.page import render
from learn_spark.comparison.sampled_table import sampled_lines, sampled_table
from learn_spark.comparison.table import gathered, lines
from learn_spark.config.comparison import SystemSettings
from learn_spark.config.load import Config
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import QualityError
from learn_spark.evaluation.mlflow_report import log_figures
from learn_spark.evaluation.summary import write_json
from learn_spark.lake.lock import Unlock
from learn_spark.runs.ledger import fingerprint_of
from learn_spark.runs.steps import Context
from learn_spark.sequences.windows import validation_day
from learn_spark.systems.specs import chosen_systems, measured_system
from learn_spark.systems.test_day import candidate_words
from learn_spark.systems.trainings import TRAIN_ONCE, Prepared, is_leave_one_out, prepare
from learn_spark.training.job import validation_of
from learn_spark.training.mlflow_runs import log_runs, loss_curve
from models.contract.evaluation_specs import SampledConfig, SystemsSpec
from models.contract.snapshot import read_manifest
from models.contract.whole_files import write_whole

_log = logging.getLogger(__name__)

COMPARISONS = "comparisons"  # a kind of artifacts
_ROWS = {"val": "validation", "test": "test"}
_PICKED = "these rows picked the best states and the fitted weights: trained systems look a little better on them"
_LEARNED = ("train", TRAIN_ONCE, "val")
_LAST = {"val": "the last event but one", "test": "the last event"}


def compare(
    context: Context,
    name: str,
    systems: Sequence[str],
    seeds: Sequence[int],
    release_lake: Unlock,
    is_final: bool = False,
) -> dict[str, Any]:
    """Compares systems on the lake's sequences; a rerun resumes where the last one stopped.

    The cost is one training per system and seed, each in its own process, one after the other; then, per trained model,
    one pass over the validation rows and, if final, one over the test rows. The driver holds only figures.

    Args:
        context: a lake with sequences and content vectors.
        name: of the comparison and of its files in `output.dir`.
        systems, seeds: the systems to compare and the seeds to train each with; untrained systems are ranked once.
        release_lake: called once everything is read that may change in the lake, so that nightly runs can go on during
            hours of training.
        is_final: whether the test rows are ranked, too; otherwise they are not read.

    Returns:
        The content of `<name>_validation.json`, or of `<name>.json` if final: protocol, data, and by system its
        settings, figures over the seeds, segments, costs; `ranks`, the files with every target's rank; `diverged`, the
        trainings whose loss was not finite, with their error: the figures leave them out.

    Raises:
        ConfigError: unknown systems, settings that do not fit, an encoder whose vectors the lake lacks.
        QualityError: every training diverged, so nothing is left to compare.
        TemporaryError: another comparison trains on this lake.
    """
    chosen = chosen_systems(context.config, systems)
    with context.tables.artifacts.locked(COMPARISONS, "another comparison trains on this lake") as publish:
        prepared = prepare(context, chosen, seeds, ("val", "test") if is_final else ("val",))
        context.tables.artifacts.publish()
        release_lake()
        prepared, diverged = _trained(context, prepared, publish)
        lost = {training for training, _ in diverged} - {training for training, _ in prepared.models}
        chosen = {system: settings for system, settings in chosen.items() if system not in lost}
        if not chosen:
            raise QualityError(next(iter(diverged.values())))
        comparison = {}
        for split in prepared.days:
            comparison = _compared(context, split, name, chosen, prepared, seeds, diverged)
            publish()
            _show(context, comparison, prepared.models)
    if not is_final:
        context.progress.say("compare: no test row was looked at; --final ranks them, once the choice is made")
    return comparison


def _compared(
    context: Context,
    split: str,
    name: str,
    chosen: Mapping[str, SystemSettings],
    prepared: Prepared,
    seeds: Sequence[int],
    diverged: Mapping[tuple[str, int], str],
) -> dict[str, Any]:
    """The figures on a split's rows."""
    config = context.config
    name = name if split == "test" else f"{name}_validation"
    ranked, folder = _ranked(context, split, chosen, prepared)
    _say_trained(config, split, ranked["data"])
    return {
        "name": name,
        "protocol": _protocol(context, split, prepared, seeds, ranked["data"]),
        "data": ranked["data"],
        "systems": gathered(chosen, ranked["systems"], prepared.models),
        "sampled": sampled_table(config.comparison.sampled.model_dump(), chosen, ranked["systems"], prepared.models),
        "published": config.comparison.published if split == "test" else {},
        "ranks": _export_ranks(folder, config.output.folder / "comparison" / f"{name}_ranks"),
        "diverged": {f"{system} with seed {seed}": reason for (system, seed), reason in diverged.items()},
    }


def _trained(
    context: Context, prepared: Prepared, publish: Callable[[], None]
) -> tuple[Prepared, dict[tuple[str, int], str]]:
    """Runs the trainings; returns the finished ones and the errors of diverged ones, which must not stop the rest."""
    diverged = {}
    for training in prepared.trainings:
        if not training.is_finished:
            context.progress.say(f"compare: {training.system} with seed {training.seed} is trained")
        try:
            run_trainer(training.spec, context.config.launch, context.spark)
        except QualityError as error:
            diverged[training.system, training.seed] = str(error)
        publish()
    finished = [training for training in prepared.trainings if training.is_finished]
    log_runs(context.config, [training.as_run() for training in finished])
    return replace(prepared, trainings=finished), diverged


def _export_ranks(folder: Path, target: Path) -> list[str]:
    """Copies each system's ranks of the targets beside the table, in place of those of an earlier comparison."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    return [str(shutil.copy2(file, target)) for file in sorted(folder.glob("*.npz"))]


def _ranked(
    context: Context, split: str, chosen: Mapping[str, SystemSettings], prepared: Prepared
) -> tuple[dict[str, dict], Path]:
    """Figures of every system and seed on a split's rows, and the folder with the ranks."""
    config, settings = context.config, context.config.comparison
    measured = [
        measured_system(config, shown, chosen[name], prepared.matrices[name], folder)
        for name in chosen
        for shown, folder in _measured_names(name, prepared) or [(name, None)]
    ]
    spec = SystemsSpec(
        train_snapshot=prepared.snapshots["train"],
        test_snapshot=prepared.snapshots[split],
        val_snapshot=prepared.snapshots["val"],
        validation=validation_of(config),
        **prepared.days[split],
        candidates=_candidates(config, split),
        content_matrix=matrix_path(context),
        systems=tuple(measured),
        ks=tuple(settings.ks),
        filter_seen=settings.filter_seen,
        popularity_days=config.retrieval.popularity_days,
        cold_user_max=settings.cold_user_max,
        long_tail_max=settings.long_tail_max,
        resamples=settings.resamples,
        seed=config.evaluation.seed,
        sampled=SampledConfig(**settings.sampled.model_dump()) if settings.sampled.rows else None,
        item_texts=prepared.texts,
        threads=config.evaluation.run.threads,
        out_dir=Path(),
    )
    context.progress.say(f"compare: {len(measured)} rankings of the {_ROWS[split]} rows")
    fingerprint = fingerprint_of(spec.told(), *spec.raised())
    folder = context.tables.artifacts.path(COMPARISONS, fingerprint)
    return run_trainer(spec.into(folder)), folder


def _measured_names(name: str, prepared: Prepared) -> list[tuple[str, Path]]:
    """The name of the figures and the folder of each trained model of a system."""
    return [(f"{name}.{seed}", folder) for (model, seed), folder in prepared.models.items() if model == name]


def _protocol(
    context: Context, split: str, prepared: Prepared, seeds: Sequence[int], data: Mapping[str, int]
) -> dict[str, Any]:
    """What the figures were measured on, and how, so that a reader elsewhere need not guess."""
    config, settings = context.config, context.config.comparison
    return {
        "rows_measured": _ROWS[split],
        **_words(context, split, data),
        "seen_items": "dropped" if settings.filter_seen else "kept",
        "ties": "events of one time by "
        + ("event_id" if config.sequences.seed is None else f"seed {config.sequences.seed}")
        + "; of equal scores the target counts as the last",
        "history_cap": config.sequences.history_length,
        "metrics": "recall@k: found targets / all targets; NDCG@k with binary gains; means over rows",
        "picked_by": f"{config.retrieval.picked_by.replace('_at_', '@')} on the validation rows",
        "mind": _PICKED if split == "val" else None,
        "seeds": list(seeds),
        "sequences_version": prepared.version,
        "rows": {
            name: read_manifest(path).rows for name, path in prepared.snapshots.items() if name in (split, *_LEARNED)
        },
    }


def _words(context: Context, split: str, data: Mapping[str, int]) -> dict[str, Any]:
    """The split, the candidates, the targets and the popularity, in words."""
    config = context.config
    own = config.comparison.test_rows if split == "test" else None
    words = candidate_words(_candidates(config, split), data["candidates"], f"{_ROWS[split]} day")
    candidates = f"{words}; none is drawn"
    if own or is_leave_one_out(context):
        return {
            "split": f"rows of {own.path}" if own else "leave-one-out: last event test, the one before validation",
            "test_from": None,
            "candidates": candidates,
            "targets": f"column {own.target}; items that the lake does not know: missed" if own else _LAST[split],
            "popularity": "occurrences in the training rows",
        }
    return {
        "split": "global time",
        "test_from": str(config.windows.towers_end if split == "test" else validation_day(config)),
        "candidates": candidates,
        "targets": f"all distinct purchases of {config.sequences.target_days} days;"
        " no candidate: missed by every system",
        "popularity": f"all users' purchases in the {config.retrieval.popularity_days} days before",
    }


def _say_trained(config: Config, split: str, data: Mapping[str, int]) -> None:
    if split == "test" and config.comparison.test_rows and data["targets_trained"]:
        _log.warning(
            "warning: %d of %d test targets are targets of the same user in training, too: if they are the same events,"
            " leave them out of the log by ingest.where",
            data["targets_trained"],
            data["targets"],
        )


def _candidates(config: Config, split: str) -> Literal["known", "catalogue"]:
    return "catalogue" if split == "test" and config.comparison.test_rows else config.evaluation.candidates


def _show(context: Context, comparison: dict[str, Any], models: Mapping[tuple[str, int], Path]) -> None:
    """Writes JSON and page into `output.dir`, logs figures and both files to MLflow, and prints the table."""
    folder, name = context.config.output.folder / "comparison", comparison["name"]
    data, page = folder / f"{name}.json", folder / f"{name}.html"
    write_json(data, comparison)
    curves = {key: loss_curve(path) for key, path in models.items()}
    write_whole(page, render(comparison, curves, context.config.retrieval.picked_by))
    figures = {
        f"{system}.{metric}": values["mean"]
        for system, row in comparison["systems"].items()
        for metric, values in row["metrics"].items()
    }
    log_figures(context.config, name, fingerprint_of(comparison["protocol"], sorted(figures)), [page, data], figures)
    told = [*lines(comparison), *sampled_lines(comparison["sampled"]), f"page   {page}"]
    print("\n".join(told), flush=True)
