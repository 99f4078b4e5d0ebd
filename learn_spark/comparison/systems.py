"""Which systems stand in a comparison, and the spec that each is trained by."""

from collections.abc import Mapping, Sequence
from importlib.resources import files

import yaml
from pydantic import TypeAdapter, ValidationError

from learn_spark.comparison.language_systems import language_model
from learn_spark.config.comparison import SystemSettings
from learn_spark.config.load import Config, overlay
from learn_spark.config.model_sections import EmbeddingSettings, TowersSettings
from learn_spark.errors import ConfigError
from learn_spark.training.specs import towers_settings
from models.contract.language_models import NoteLLMConfig, PromptConfig
from models.contract.settings import LossConfig, TowersConfig
from models.contract.strict import explained

TOWER_VARIANTS = ("variant_1", "variant_2", "variant_3", "mlp")
_SHARED_SIZES = ("d_model", "layers", "heads", "dropout", "max_len")


def known_systems(config: Config) -> dict[str, SystemSettings]:
    """The shipped systems as the config changes them, and its own.

    Raises:
        ConfigError: one has no title or kind, or settings that its kind does not take.
    """
    shipped = yaml.safe_load(files("learn_spark.comparison").joinpath("systems.yaml").read_text(encoding="utf-8"))
    own = {name: changes.model_dump(exclude_unset=True) for name, changes in config.comparison.define.items()}
    try:
        return TypeAdapter(dict[str, SystemSettings]).validate_python(overlay(shipped, own))
    except ValidationError as error:
        raise ConfigError(f"comparison.define: {explained(error)}") from None


def chosen_systems(config: Config, names: Sequence[str]) -> dict[str, SystemSettings]:
    """The systems of these names, in this order, their settings checked before anything is trained.

    Raises:
        ConfigError: an unknown name, with those that there are; settings that do not fit.
    """
    known = known_systems(config)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"there is no system {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = {name: known[name] for name in names}
    _check_prompts(config, chosen)
    for name, system in chosen.items():
        try:
            encoder_of(config, system)
            if system.kind == "towers":
                _towers(config, system)
            elif system.reads_texts:
                language_settings(config, system)
        except ConfigError as error:
            raise ConfigError(f"system {name}: {error}") from error
        except ValidationError as error:
            raise ConfigError(f"system {name}: {explained(error)}") from None
    return chosen


def settings_of(config: Config, system: SystemSettings, seed: int) -> dict[str, object]:
    """The part of a trained system's spec that says what is trained, and how: without data and folders."""
    settings = towers_settings(config)
    settings["train"] |= {**system.train, "seed": seed}
    settings["validation"] |= {"prior_weight": prior_weight(config, system)}
    del settings["towers"], settings["loss"]
    if system.kind == "towers":
        towers = _towers(config, system)
        return {"towers": towers.model.model_dump(), "loss": towers.loss.model_dump(), **settings}
    if system.reads_texts:
        if system.kind == "prompt":
            del settings["validation"]  # it is validated on sampled candidates
        return {"model": language_settings(config, system), **settings}
    sizes = {name: getattr(config.towers.model, name) for name in _SHARED_SIZES}
    return {"model": {**sizes, "positions": "all", **system.model}, **settings}


def trains_all_positions(settings: Mapping[str, Mapping[str, object]]) -> bool:
    """Whether every position of a row trains: of rows that are prefixes of one another, each item once a row."""
    sequential, towers = settings.get("model", {}), settings.get("loss", {})
    return sequential.get("positions") == "all" or towers.get("pairs") == "next_item"


def prior_weight(config: Config, system: SystemSettings) -> float:
    """Of log popularity beside the inner product."""
    if system.prior_weight is not None:
        return system.prior_weight
    return config.retrieval.popularity_weight if system.kind == "towers" else 0.0


def encoder_of(config: Config, system: SystemSettings) -> Config:
    """The config with the text encoder of the system."""
    if not system.embedding:
        return config
    values = {**config.embedding.model_dump(), **system.embedding}
    return config.model_copy(update={"embedding": EmbeddingSettings(**values)})


def _towers(config: Config, system: SystemSettings) -> TowersSettings:
    own = config.towers
    model, loss = own.model.model_dump(), own.loss.model_dump()
    if system.based_on == "paper":
        sizes = {name: model[name] for name in (*_SHARED_SIZES, "out_dim")}
        model, loss = TowersConfig(**sizes).model_dump(), LossConfig().model_dump()
    model |= system.model
    is_llm = model["user_tower"] == "llm"
    model["llm"] = language_model(config, model["llm"] or {}) if is_llm else None
    return TowersSettings(
        model=model,
        loss={**loss, **system.loss},
        train={**own.train.model_dump(), **system.train},
        ranks=own.ranks,
        run=own.run,
    )


def language_settings(config: Config, system: SystemSettings) -> dict[str, object]:
    """The settings of a `NoteLLMConfig` or `PromptConfig`; errors as of `language_model`, and ValidationError."""
    llm = language_model(config, system.model.get("llm", {}))
    cls = NoteLLMConfig if system.kind == "notellm" else PromptConfig
    return cls(**{**system.model, "llm": llm}).model_dump()


def _check_prompts(config: Config, chosen: Mapping[str, SystemSettings]) -> None:
    prompts = [name for name, system in chosen.items() if system.kind == "prompt"]
    if prompts and not config.comparison.sampled.rows:
        raise ConfigError(f"system {prompts[0]} ranks sampled candidates alone: set comparison.sampled.rows, as to 200")
    if prompts and len(prompts) == len(chosen):
        raise ConfigError(f"system {prompts[0]} has nothing beside it: add one that is no prompt, as popularity")
