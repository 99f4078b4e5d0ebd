"""The systems of a comparison, and the spec by which each of them is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from learn_spark.config.comparison import SystemSettings
from learn_spark.config.load import Config, overlay
from learn_spark.config.model_sections import EmbeddingSettings
from learn_spark.errors import ConfigError
from learn_spark.systems.language_systems import language_model
from learn_spark.training.job import validation_of
from models.contract.evaluation_specs import SystemConfig
from models.contract.event_types import check_weights
from models.contract.failures import BadInput
from models.contract.language_models import NoteLLMConfig, PromptConfig
from models.contract.settings import ALSConfig, LossConfig, SequentialConfig, StreamConfig, TowersConfig, TrainConfig
from models.contract.strict import explained, parse_settings
from models.contract.training_specs import ALSSpec, NoteLLMSpec, PromptSpec, SequentialSpec, TowersSpec, TrainingSpec

TOWER_VARIANTS = ("variant_1", "variant_2", "variant_3", "mlp")
_SHARED_SIZES = {"d_model", "layers", "heads", "dropout", "max_len"}


@dataclass(frozen=True)
class TrainingData:
    """What a system's training reads; by default nothing, for callers that only look at its settings.

    Attributes:
        train, val: snapshots of `sequences`.
        train_once: the training rows for models that train on every position, if these are different rows.
        matrix: the content matrix.
        texts: the items' texts.
    """

    train: Path = Path()
    val: Path = Path()
    train_once: Path | None = None
    matrix: Path = Path()
    texts: Path = Path()


def known_systems(config: Config) -> dict[str, SystemSettings]:
    """The shipped systems with the config's changes, and the config's own systems.

    Raises:
        ConfigError: a system lacks title or kind, has settings its kind does not take, or is `like` an unknown one.
    """
    shipped = yaml.safe_load(files("learn_spark.systems").joinpath("systems.yaml").read_text(encoding="utf-8"))
    own = {name: changes.model_dump(exclude_unset=True) for name, changes in config.comparison.define.items()}
    known = overlay(shipped, own)
    try:
        return TypeAdapter(dict[str, SystemSettings]).validate_python({name: _whole(name, known) for name in known})
    except ValidationError as error:
        raise ConfigError(f"comparison.define: {explained(error)}") from None


def _whole(name: str, known: Mapping[str, Any], above: Sequence[str] = ()) -> dict[str, Any]:
    """A system's settings, laid over those of the system that it is `like`.

    Raises:
        ConfigError: there is no such system, or the `like` settings go in a circle.
    """
    settings = dict(known[name])
    other = settings.pop("like", None)
    if other is None:
        return settings
    if other not in known:
        raise ConfigError(f"comparison.define.{name}: like names {other}; there are {', '.join(known)}")
    if other in (*above, name):
        raise ConfigError(f"comparison.define.{name}: like: {other} goes in a circle")
    return overlay(_whole(other, known, (*above, name)), settings)


def named_systems(config: Config, names: Sequence[str]) -> dict[str, SystemSettings]:
    """The systems of these names, in this order, unchecked; raises ConfigError for an unknown name."""
    known = known_systems(config)
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"there is no system {', '.join(unknown)}; there are {', '.join(known)}")
    return {name: known[name] for name in names}


def chosen_systems(config: Config, names: Sequence[str]) -> dict[str, SystemSettings]:
    """The systems of these names, in this order, their settings checked before anything is trained.

    Raises:
        ConfigError: a name is unknown (the message lists the known ones), or settings do not fit.
    """
    chosen = named_systems(config, names)
    if config.sequences.protocol == "leave_one_out" and config.evaluation.candidates == "known":
        raise ConfigError(
            "evaluation.candidates is known, the items seen before the test day, and sequences.protocol leave_one_out"
            " has no such day: set evaluation.candidates to catalogue"
        )
    _check_prompts(config, chosen)
    _check_fitted(config, chosen)
    for name, system in chosen.items():
        try:
            encoder_of(config, system)
            if system.is_trained:
                training_spec(config, system, seed=0)
            measured_system(config, name, system, Path(), Path() if system.is_trained else None)
        except (BadInput, ConfigError) as error:
            raise ConfigError(f"system {name}: {error}") from error
        except ValidationError as error:
            raise ConfigError(f"system {name}: {explained(error)}") from None
    return chosen


def training_spec(
    config: Config, system: SystemSettings, seed: int, data: TrainingData = TrainingData()
) -> TrainingSpec:
    """The spec by which a system is trained; its out_dir is still empty, since the folder is named by the spec.

    Raises:
        BadInput, ConfigError, ValidationError: settings do not fit.
    """
    changed = overlay(config.towers.train.model_dump(), system.train) | {"seed": seed}
    common = {
        "train_snapshot": data.train,
        "val_snapshot": data.val,
        "content_matrix": data.matrix,
        "train": parse_settings(TrainConfig, changed, "train"),
        "stream": StreamConfig(**config.stream.model_dump(exclude={"rows_per_file"})),
        "out_dir": Path(),
    }
    validation = validation_of(config).model_copy(update={"popularity_prior": popularity_prior(config, system)})
    if system.kind == "towers":
        towers, loss = _towers(config, system)
        kept, targets = config.sequences.event_types, config.sequences.types_of_targets(loss.pairs)
        check_weights(loss.event_type_weights, kept, targets)
        spec = TowersSpec(**common, towers=towers, loss=loss, validation=validation)
    elif system.kind == "sequential":
        sizes = config.towers.model.model_dump(include=_SHARED_SIZES)
        model = parse_settings(SequentialConfig, sizes | {"positions": "all"} | system.model, "model")
        spec = SequentialSpec(**common, model=model, validation=validation)
    elif system.kind == "als":
        sizes = {"d_model": config.towers.model.embedding_dim}
        model = parse_settings(ALSConfig, sizes | system.model, "model")
        spec = ALSSpec(**common, model=model, validation=validation)
    elif system.kind == "notellm":
        model = parse_settings(NoteLLMConfig, _with_language_model(config, system), "model")
        spec = NoteLLMSpec(**common, item_texts=data.texts, model=model, validation=validation)
    else:  # a prompt is validated on sampled candidates
        spec = PromptSpec(**common, item_texts=data.texts, model=_prompt(config, system))
    if data.train_once and spec.trains_all_positions:
        return spec.model_copy(update={"train_snapshot": data.train_once})
    return spec


def measured_system(
    config: Config, name: str, system: SystemSettings, matrix: Path, folder: Path | None = None
) -> SystemConfig:
    """The system as `evaluate-systems` takes it.

    Args:
        config, system: the settings.
        name: of the figures.
        matrix: the system's content matrix.
        folder: of the trained model, if it is trained.
    """
    is_prompt = system.kind == "prompt"
    kind: Any = "model" if system.is_trained and not is_prompt else system.kind
    return SystemConfig(
        name=name,
        kind=kind,
        folder=folder,
        prompt=_prompt(config, system) if is_prompt and not system.is_trained else None,
        popularity_prior=popularity_prior(config, system),
        fitted=system.fitted,
        content_matrix=matrix if system.kind == "mean_content" or (system.is_trained and not is_prompt) else None,
    )


def popularity_prior(config: Config, system: SystemSettings) -> float:
    """The weight of log popularity beside the inner product."""
    if system.popularity_prior is not None:
        return system.popularity_prior
    return config.retrieval.popularity_prior if system.kind == "towers" else 0.0


def encoder_of(config: Config, system: SystemSettings) -> Config:
    """The config with the text encoder of the system."""
    if not system.embedding:
        return config
    values = overlay(config.embedding.model_dump(), system.embedding)
    return config.model_copy(update={"embedding": parse_settings(EmbeddingSettings, values, "embedding")})


def _towers(config: Config, system: SystemSettings) -> tuple[TowersConfig, LossConfig]:
    model, loss = config.towers.model.model_dump(), config.towers.loss.model_dump()
    if system.based_on == "paper":
        sizes = config.towers.model.model_dump(include=_SHARED_SIZES | {"embedding_dim"})
        model, loss = TowersConfig(**sizes).model_dump(), LossConfig().model_dump()
    model |= system.model
    is_llm = model["user_tower"] == "llm"
    model["llm"] = language_model(config, model["llm"] or {}) if is_llm else None
    return parse_settings(TowersConfig, model, "model"), parse_settings(LossConfig, loss | system.loss, "loss")


def _prompt(config: Config, system: SystemSettings) -> PromptConfig:
    return parse_settings(PromptConfig, _with_language_model(config, system), "model")


def _with_language_model(config: Config, system: SystemSettings) -> dict[str, object]:
    changes: Any = system.model.get("llm", {})
    return system.model | {"llm": language_model(config, changes)}


def _check_prompts(config: Config, chosen: Mapping[str, SystemSettings]) -> None:
    prompts = [name for name, system in chosen.items() if system.kind == "prompt"]
    if prompts and not config.comparison.sampled.rows:
        raise ConfigError(f"system {prompts[0]} ranks sampled candidates alone: set comparison.sampled.rows, as to 200")
    if prompts and len(prompts) == len(chosen):
        raise ConfigError(f"system {prompts[0]} has nothing beside it: add one that is no prompt, as popularity")


def _check_fitted(config: Config, chosen: Mapping[str, SystemSettings]) -> None:
    fitted = [name for name, system in chosen.items() if system.fitted]
    if fitted and config.comparison.filter_seen:
        raise ConfigError(
            f"system {fitted[0]} is fitted, which says how much the history's items are raised, but with"
            " comparison.filter_seen they are no candidates: leave either out"
        )
