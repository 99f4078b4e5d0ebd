"""`learn-spark compare`: trains what is missing, ranks the test targets by every system, writes table and page."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from learn_spark.bridge.launch import RESULT, run_trainer, write_spec
from learn_spark.bridge.snapshots import read_manifest
from learn_spark.comparison.inputs import matrices_of
from learn_spark.comparison.language_systems import item_texts
from learn_spark.comparison.page import render
from learn_spark.comparison.sampled_table import sampled_lines, sampled_table
from learn_spark.comparison.systems import (
    chosen_systems,
    language_settings,
    prior_weight,
    settings_of,
    trains_all_positions,
)
from learn_spark.comparison.table import gathered, lines
from learn_spark.config.comparison import SystemSettings
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import QualityError
from learn_spark.evaluation.mlflow_report import log_figures
from learn_spark.evaluation.summary import write_json, write_text
from learn_spark.lake.lock import Release, folder_lock
from learn_spark.runs.ledger import fingerprint
from learn_spark.runs.steps import Context
from learn_spark.training import mlflow_runs as tracking
from learn_spark.training.sequence_snapshots import sequence_snapshot, sequences_mark
from models.contract.settings import APART

SPLITS = ("train", "val", "test")
TRAIN_ONCE = "train_once"  # the training rows for models that train on every position
MORE = ("tar_ts",)  # HSTU's relative times
COMMANDS = {
    "towers": "train-towers",
    "sequential": "train-sequential",
    "notellm": "train-notellm",
    "prompt": "train-prompts",
}
VALIDATION_K = 50  # ValidationConfig.k


@dataclass(frozen=True)
class Training:
    """A system's training with a seed: a command of `python -m models`, its spec, its folder."""

    system: str
    seed: int
    command: str
    spec: Mapping[str, object]
    folder: Path

    @property
    def is_finished(self) -> bool:
        """Whether its figures are there."""
        return (self.folder / RESULT).is_file()

    def as_run(self) -> tracking.Training:
        """For MLflow."""
        snapshots = {role: Path(str(self.spec[f"{role}_snapshot"])) for role in ("train", "val")}
        mark = self.folder.name.rpartition("-")[2]
        return tracking.Training(f"compare-{self.system}", mark, self.folder, self.spec, snapshots, is_registered=False)


@dataclass(frozen=True)
class Prepared:
    """What a comparison reads: snapshots by split, matrices by system, texts if any system reads them, trainings."""

    version: int
    snapshots: Mapping[str, Path]
    matrices: Mapping[str, Path]
    texts: Path | None
    trainings: Sequence[Training]

    @property
    def models(self) -> dict[tuple[str, int], Path]:
        """The models' folders by system and seed."""
        return {(training.system, training.seed): training.folder for training in self.trainings}


def compare(
    context: Context, name: str, systems: Sequence[str], seeds: Sequence[int], release_lake: Release
) -> dict[str, object]:
    """Compares systems on the lake's sequences; a rerun goes on where the last one stopped.

    What it costs: a training a system and seed, in a process of its own, one after the other; then one pass over the
    test rows a trained model. The driver holds figures alone.

    Args:
        context: a lake with sequences and content vectors.
        name: of the comparison: its files in `output.dir`.
        systems, seeds: what is trained; systems that are not trained count once.
        release_lake: called when all is read that the lake changes: nights go on beside trainings of hours.

    Returns:
        What `<name>.json` holds: protocol, data, and by system its settings, figures over the seeds, segments, costs;
        and under `diverged` the trainings whose loss was not finite, with their last words: the figures lack those.

    Raises:
        ConfigError: unknown systems, settings that do not fit, an encoder whose vectors the lake lacks.
        QualityError: nothing is left to compare.
        TemporaryError: another comparison trains on this lake.
    """
    chosen = chosen_systems(context.config, systems)
    folder = context.tables.artifact("comparisons")
    with folder_lock(folder, "the folder of comparisons", f"another comparison trains in {folder}"):
        prepared = _prepared(context, chosen, seeds)
        release_lake()
        comparison, models = _compared(context, name, chosen, prepared, seeds)
        _publish(context, comparison, models)
    return comparison


def _compared(
    context: Context, name: str, chosen: Mapping[str, SystemSettings], prepared: Prepared, seeds: Sequence[int]
) -> tuple[dict[str, object], dict[tuple[str, int], Path]]:
    """What `compare` returns, and the models' folders."""
    config = context.config
    prepared, diverged = _trained(context, prepared)
    lost = {training for training, _ in diverged} - {name for name, _ in prepared.models}
    chosen = {name: system for name, system in chosen.items() if name not in lost}
    if not chosen:
        raise QualityError(next(iter(diverged.values())))
    ranked = _ranked(context, chosen, prepared)
    comparison = {
        "name": name,
        "protocol": _protocol(context, prepared, seeds),
        "data": ranked["data"],
        "systems": gathered(chosen, ranked["systems"], prepared.models),
        "sampled": sampled_table(config.comparison.sampled.model_dump(), chosen, ranked["systems"], prepared.models),
        "published": config.comparison.published,
        "diverged": {f"{name} with seed {seed}": reason for (name, seed), reason in diverged.items()},
    }
    return comparison, prepared.models


def write_trainings(context: Context, systems: Sequence[str], seeds: Sequence[int], file: Path) -> int:
    """Writes the trainings that a comparison lacks as shell commands, a line each, for machines without Spark.

    Who runs them needs torch and this repository's `models`, and sees the lake under the same path; `compare` goes on
    from what they leave there.

    Returns:
        The number of commands.

    Raises:
        ConfigError: as `compare`.
    """
    prepared = _prepared(context, chosen_systems(context.config, systems), seeds)
    commands = [
        f"python -m models {training.command} --spec {shlex.quote(str(write_spec(training.spec, training.folder)))}\n"
        for training in prepared.trainings
        if not training.is_finished
    ]
    write_text(file, "".join(commands))
    return len(commands)


def _trained(context: Context, prepared: Prepared) -> tuple[Prepared, dict[tuple[str, int], str]]:
    """The finished trainings, and why the others have no model: one that diverges must not cost the rest."""
    diverged = {}
    for training in prepared.trainings:
        if not training.is_finished:
            context.progress.say(f"compare: {training.system} with seed {training.seed} is trained")
        try:
            launch = context.config.towers.launch if training.command in ("train-towers", "train-sequential") else None
            run_trainer(training.command, training.spec, training.folder, launch, context.spark)
        except QualityError as error:
            diverged[training.system, training.seed] = str(error)
    finished = [training for training in prepared.trainings if training.is_finished]
    tracking.log_runs(context.config, [training.as_run() for training in finished])
    return replace(prepared, trainings=finished), diverged


def _prepared(context: Context, chosen: Mapping[str, SystemSettings], seeds: Sequence[int]) -> Prepared:
    mark, version = fingerprint(sequences_mark(context), MORE), context.tables.version("sequences")
    snapshots = {split: sequence_snapshot(context, split, version, mark, MORE) for split in SPLITS}
    trained = [settings_of(context.config, system, seeds[0]) for system in chosen.values() if system.is_trained]
    if context.config.sequences.protocol == "leave_one_out" and any(map(trains_all_positions, trained)):
        snapshots[TRAIN_ONCE] = sequence_snapshot(context, "train", version, mark, MORE, each_once=True)
    matrices = matrices_of(context, chosen)
    texts = item_texts(context) if any(system.reads_texts for system in chosen.values()) else None
    trainings = [
        _training(context, name, system, seed, snapshots, matrices[name], texts)
        for name, system in chosen.items()
        if system.is_trained
        for seed in seeds
    ]
    return Prepared(version, snapshots, matrices, texts, trainings)


def _training(
    context: Context,
    name: str,
    system: SystemSettings,
    seed: int,
    snapshots: Mapping[str, Path],
    matrix: Path,
    texts: Path | None,
) -> Training:
    """The folder's name holds the fingerprint of all that makes the model, so a finished one is kept."""
    settings = settings_of(context.config, system, seed)
    split = TRAIN_ONCE if TRAIN_ONCE in snapshots and trains_all_positions(settings) else "train"
    spec = {"train_snapshot": snapshots[split], "val_snapshot": snapshots["val"], "content_matrix": matrix, **settings}
    if system.reads_texts:
        spec["item_texts"] = texts
    told = {part: {key: settings[part][key] for key in settings[part].keys() - APART} for part in ("train", "stream")}
    made_of = {**spec, **told}
    folder = context.tables.artifact("models", f"compare-{name}-{seed}-{fingerprint(system.kind, made_of)}")
    return Training(name, seed, COMMANDS[system.kind], spec, folder)


def _ranked(context: Context, chosen: Mapping[str, SystemSettings], prepared: Prepared) -> dict[str, dict]:
    """Figures of every system and seed on the test rows."""
    config, settings = context.config, context.config.comparison
    rows: list[dict[str, object]] = []
    for name, system in chosen.items():
        own: dict[str, object] = {"prior_weight": prior_weight(config, system)}
        if system.kind == "mean_content" or (system.is_trained and system.kind != "prompt"):
            own["content_matrix"] = prepared.matrices[name]
        kind = system.kind if system.kind == "prompt" or not system.is_trained else "model"
        if system.is_trained:
            seeds = [(seed, folder) for (model, seed), folder in prepared.models.items() if model == name]
            rows += [{"name": f"{name}.{seed}", "kind": kind, "folder": folder, **own} for seed, folder in seeds]
        else:
            prompt = {"prompt": language_settings(config, system)} if kind == "prompt" else {}
            rows.append({"name": name, "kind": kind, **prompt, **own})
    spec = {
        "train_snapshot": prepared.snapshots["train"],
        "test_snapshot": prepared.snapshots["test"],
        "content_matrix": matrix_path(context),
        "systems": rows,
        "ks": settings.ks,
        "keep_seen": settings.keep_seen,
        "prior_days": config.retrieval.popularity_days,
        "cold_user_max": settings.cold_user_max,
        "long_tail_max": settings.long_tail_max,
        "resamples": settings.bootstrap,
        "seed": config.evaluation.seed,
        "sampled": settings.sampled.model_dump() if settings.sampled.rows else None,
        "item_texts": prepared.texts,
        "threads": config.evaluation.run.threads,
    }
    folder = context.tables.artifact("comparisons", fingerprint(spec))
    context.progress.say(f"compare: {len(rows)} rankings of the test rows")
    return run_trainer("evaluate-systems", spec, folder)


def _protocol(context: Context, prepared: Prepared, seeds: Sequence[int]) -> dict[str, object]:
    """What the figures are of: who reads them elsewhere must not have to guess."""
    config, settings = context.config, context.config.comparison
    is_leave_one_out = config.sequences.protocol == "leave_one_out"
    windows = config.windows
    return {
        "split": "leave-one-out: last event test, the one before validation" if is_leave_one_out else "global time",
        "test_from": None if is_leave_one_out else str(windows.towers_end),
        "candidates": "every item of the lake; none is drawn",
        "seen_items": "kept" if settings.keep_seen else "dropped",
        "ties": "events of one time by "
        + ("event_id" if config.sequences.seed is None else f"seed {config.sequences.seed}")
        + "; of equal scores the target counts as the last",
        "history_cap": config.sequences.history_length,
        "target_cap": config.sequences.target_length,
        "metrics": "recall@k: found targets / all targets; NDCG@k with binary gains; means over rows",
        "picked_by": f"recall@{VALIDATION_K} on the validation rows",
        "seeds": list(seeds),
        "sequences_version": prepared.version,
        "rows": {split: int(read_manifest(path)["rows"]) for split, path in prepared.snapshots.items()},
    }


def _publish(context: Context, comparison: dict[str, object], models: Mapping[tuple[str, int], Path]) -> None:
    """JSON and page into `output.dir`, figures and both files to MLflow."""
    folder, name = context.config.output.dir / "comparison", comparison["name"]
    data, page = folder / f"{name}.json", folder / f"{name}.html"
    write_json(data, comparison)
    curves = {key: tracking.loss_curve(path) for key, path in models.items()}
    write_text(page, render(comparison, curves))
    figures = {
        f"{system}.{metric}": values["mean"]
        for system, row in comparison["systems"].items()
        for metric, values in row["metrics"].items()
    }
    log_figures(context.config, name, fingerprint(comparison["protocol"], sorted(figures)), [page, data], figures)
    told = [*lines(comparison), *sampled_lines(comparison["sampled"]), f"page   {page}"]
    print("\n".join(told), flush=True)
