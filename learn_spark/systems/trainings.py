"""The trainings of a comparison: which ones it needs, what they read, and their commands for other machines."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learn_spark.config.comparison import SystemSettings
from learn_spark.runs.ledger import fingerprint_of
from learn_spark.runs.steps import Context
from learn_spark.sequences.windows import validation_day
from learn_spark.systems.language_systems import item_texts, item_texts_folder
from learn_spark.systems.matrices import make_matrices, matrix_folder
from learn_spark.systems.specs import TrainingData, chosen_systems, training_spec
from learn_spark.systems.test_day import day_snapshots
from learn_spark.systems.test_rows import test_rows_snapshot
from learn_spark.training.mlflow_runs import Training
from learn_spark.training.sequence_snapshots import sequence_snapshot, sequence_snapshot_folder, sequences_fingerprint
from models.contract.result import is_finished, write_spec
from models.contract.settings import identity
from models.contract.training_specs import TrainingSpec
from models.contract.whole_files import write_whole

SPLITS = ("train", "val", "test")
TRAIN_ONCE = "train_once"  # the training rows for models that train on every position
MORE = ("tar_ts",)  # for HSTU's relative times


@dataclass(frozen=True)
class SystemTraining:
    """A system's training with a seed."""

    system: str
    seed: int
    spec: TrainingSpec

    @property
    def is_finished(self) -> bool:
        """Whether its result is there."""
        return is_finished(self.spec.out_dir)

    def as_run(self) -> Training:
        """The training as it is logged to MLflow."""
        fingerprint = self.spec.out_dir.name.rpartition("-")[2]
        return Training.of(self.spec, f"compare-{self.system}", fingerprint, is_registered=False)


@dataclass(frozen=True)
class Prepared:
    """What a comparison reads: snapshots by split, those of the days of measured splits, matrices, texts, trainings."""

    version: int
    snapshots: Mapping[str, Path]
    days: Mapping[str, Mapping[str, Any]]
    matrices: Mapping[str, Path]
    texts: Path | None
    trainings: Sequence[SystemTraining]

    @property
    def models(self) -> dict[tuple[str, int], Path]:
        """The models' folders by system and seed."""
        return {(training.system, training.seed): training.spec.out_dir for training in self.trainings}


def planned_trainings(
    context: Context, chosen: Mapping[str, SystemSettings], seeds: Sequence[int]
) -> list[SystemTraining]:
    """Every training of the systems, finished or not; this writes nothing."""
    fingerprint = _sequences_fingerprint(context)
    folders = {split: sequence_snapshot_folder(context, split, fingerprint) for split in SPLITS}
    once = (
        sequence_snapshot_folder(context, "train", fingerprint, each_once=True) if is_leave_one_out(context) else None
    )
    return [
        _training(context, name, system, seed, TrainingData(folders["train"], folders["val"], once, matrix, texts))
        for name, system in chosen.items()
        if system.is_trained
        for matrix in [matrix_folder(context, system)]
        for texts in [item_texts_folder(context) if system.reads_texts else Path()]
        for seed in seeds
    ]


def prepare(
    context: Context, chosen: Mapping[str, SystemSettings], seeds: Sequence[int], measured: Sequence[str] = ()
) -> Prepared:
    """Makes what the trainings read, and what the rankings of the `measured` splits ("val", "test") read.

    Other encoders' vectors are made first: that may add rows to item_text, whose version is in the texts' folder name.
    """
    texts = make_inputs(context, chosen)
    version, trainings = context.tables.version("sequences"), planned_trainings(context, chosen, seeds)
    snapshots = training_snapshots(context, trainings)
    if "test" in measured:
        own = context.config.comparison.test_rows
        snapshots["test"] = test_rows_snapshot(context, own) if own else _snapshot(context, "test")
    days = {split: _day(context, split) for split in measured}
    matrices = {name: matrix_folder(context, system) for name, system in chosen.items()}
    return Prepared(version, snapshots, days, matrices, texts, trainings)


def make_inputs(context: Context, chosen: Mapping[str, SystemSettings]) -> Path | None:
    """Makes what the systems read about items: matrices and, if one reads them, texts; returns the texts' folder."""
    make_matrices(context, chosen)
    return item_texts(context) if any(system.reads_texts for system in chosen.values()) else None


def training_snapshots(context: Context, trainings: Sequence[SystemTraining]) -> dict[str, Path]:
    """Snapshots of the training and validation rows, as `planned_trainings` names them."""
    snapshots = {split: _snapshot(context, split) for split in SPLITS if split != "test"}
    if any(training.spec.trains_all_positions for training in trainings) and is_leave_one_out(context):
        snapshots[TRAIN_ONCE] = _snapshot(context, "train", each_once=True)
    return snapshots


def _snapshot(context: Context, split: str, each_once: bool = False) -> Path:
    version, fingerprint = context.tables.version("sequences"), _sequences_fingerprint(context)
    return sequence_snapshot(context, split, version, fingerprint, MORE, each_once)


def _day(context: Context, split: str) -> dict[str, Any]:
    """Snapshots of the day for which a split's rows are ranked; none if the rows themselves say everything."""
    if is_leave_one_out(context) or (split == "test" and context.config.comparison.test_rows):
        return {}
    return day_snapshots(context, None if split == "test" else validation_day(context.config))


def is_leave_one_out(context: Context) -> bool:
    """Whether the protocol is leave-one-out: every prefix of a user's events is a row, and there is no test day."""
    return context.config.sequences.protocol == "leave_one_out"


def _sequences_fingerprint(context: Context) -> str:
    return fingerprint_of(sequences_fingerprint(context), MORE)


def _training(context: Context, name: str, system: SystemSettings, seed: int, data: TrainingData) -> SystemTraining:
    """A training whose folder name has the fingerprint of all that makes the model, so that a finished one is found."""
    spec = training_spec(context.config, system, seed, data)
    places = {key: str(context.tables.artifacts.place_of(value)) for key, value in spec if isinstance(value, Path)}
    ranks = context.config.towers.ranks if spec.launchable else 1
    fingerprint = fingerprint_of(system.kind, places, identity(spec), ranks, *spec.raised())
    return SystemTraining(
        name, seed, spec.into(context.tables.artifacts.path("models", f"compare-{name}-{seed}-{fingerprint}"))
    )


def write_trainings(context: Context, systems: Sequence[str], seeds: Sequence[int], file: Path) -> int:
    """Writes the trainings that a comparison lacks as shell commands, one per line, for machines without Spark.

    Such a machine needs torch and this repository's `models`, and must see the lake under the same path; `compare` goes
    on from what the commands leave there.

    Returns:
        The number of commands.

    Raises:
        ConfigError: as for `compare`.
    """
    prepared = prepare(context, chosen_systems(context.config, systems), seeds)
    commands = [
        f"python -m models {training.spec.command} --spec {shlex.quote(str(write_spec(training.spec)))}\n"
        for training in prepared.trainings
        if not training.is_finished
    ]
    write_whole(file, "".join(commands))
    return len(commands)
