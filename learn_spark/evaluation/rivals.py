"""Rivals: features that a team may have already, for the same ranker; other systems, trained on the towers' rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from learn_spark.bridge.launch import run_trainer
from learn_spark.bridge.snapshots import export
from learn_spark.config.comparison import TRAINED, SystemSettings
from learn_spark.config.load import Config
from learn_spark.errors import ConfigError
from learn_spark.evaluation.ranking import histories_of, ranker_samples, with_history_day
from learn_spark.runs.steps import Context
from learn_spark.systems.matrices import matrix_folder
from learn_spark.systems.specs import chosen_systems, named_systems
from learn_spark.systems.trainings import make_inputs, planned_trainings, training_snapshots
from learn_spark.training.mlflow_runs import log_runs
from models.contract.evaluation_specs import RivalConfig
from models.contract.settings import identity

_KINDS = (*TRAINED, "cooccurrence")


@dataclass(frozen=True)
class Rivals:
    """What `evaluate-ranker` needs to know about the rivals.

    Attributes:
        systems: the rivals.
        titles: their names in tables.
        train_snapshot: the rows that they were trained on.
        histories: snapshot of the histories that the ranker's rows may know.
    """

    systems: tuple[RivalConfig, ...]
    titles: Mapping[str, str]
    train_snapshot: Path
    histories: Path


def chosen_rivals(config: Config) -> dict[str, SystemSettings]:
    """The systems of `evaluation.rivals`; those with a vector per item get the width of the towers' embeddings.

    Raises:
        ConfigError: an unknown name, a system that has neither vectors nor scores, settings that do not fit.
    """
    if not config.evaluation.rivals:
        return {}
    chosen = chosen_systems(config, config.evaluation.rivals)
    for name, system in chosen.items():
        if system.kind not in _KINDS:
            raise ConfigError(
                f"evaluation.rivals: {name} is of kind {system.kind}, which says nothing of a user and an item; kinds"
                f" that do: {', '.join(_KINDS)}"
            )
    return {name: _as_wide(config, system) for name, system in chosen.items()}


def check_rivals(config: Config) -> None:
    """Raises, before any work, what `chosen_rivals` would raise."""
    chosen_rivals(config)


def named_rivals(config: Config) -> dict[str, object]:
    """The rivals' settings, for the fingerprint of what is made from them; empty if there are none.

    Every command calls this, so it leaves out the checks of `check_rivals`, such as those of a language model's files.
    """
    if not config.evaluation.rivals:
        return {}
    rivals = named_systems(config, config.evaluation.rivals)
    return {"rivals": {name: identity(_as_wide(config, system)) for name, system in rivals.items()}}


def make_rivals(context: Context, train_snapshot: Path, name: str) -> Rivals:
    """Trains the rivals that need it, each once, and exports the histories that the ranker's rows may know.

    The cost is one training per trained system, each in its own process, and a row per user and day with a sample.

    Args:
        context: a lake with sequences, samples and content vectors.
        train_snapshot: the towers' training rows.
        name: of the histories' snapshot.

    Raises:
        ConfigError: as for `chosen_rivals`.
        QualityError: a loss was not finite.
    """
    chosen = chosen_rivals(context.config)
    version, seed = context.tables.version("user_history"), context.config.evaluation.seed
    frame = histories_of(context, with_history_day(context, ranker_samples(context)))
    histories = export(context, frame, name, ["user_id", "day"], "user_history", version, seed)
    folders = _trained(context, {name: system for name, system in chosen.items() if system.is_trained})
    systems = tuple(_rival(context, name, system, folders.get(name)) for name, system in chosen.items())
    titles = {name: system.title for name, system in chosen.items()}
    return Rivals(systems, titles, train_snapshot, histories)


def _trained(context: Context, chosen: Mapping[str, SystemSettings]) -> dict[str, Path]:
    """Trains the systems and returns the models' folders by system."""
    if not chosen:
        return {}
    make_inputs(context, chosen)
    trainings = planned_trainings(context, chosen, [context.config.towers.train.seed])
    training_snapshots(context, trainings)
    for training in trainings:
        if not training.is_finished:
            context.progress.say(f"evaluate_features: {training.system} is trained, whose vectors are features, too")
        run_trainer(training.spec, context.config.launch, context.spark)
    log_runs(context.config, [training.as_run() for training in trainings])
    return {training.system: training.spec.out_dir for training in trainings}


def _rival(context: Context, name: str, system: SystemSettings, folder: Path | None) -> RivalConfig:
    return RivalConfig(
        name=name,
        kind="model" if folder else "cooccurrence",
        folder=folder,
        content_matrix=matrix_folder(context, system) if folder else None,
        trained_items_only=system.kind in ("sequential", "als") or system.content == "random",
    )


def _as_wide(config: Config, system: SystemSettings) -> SystemSettings:
    """The system with vectors as wide as the embeddings, if it has vectors of its own and its config sets no width."""
    if system.kind not in ("sequential", "als"):
        return system
    return system.model_copy(update={"model": {"d_model": config.towers.model.embedding_dim} | system.model})
