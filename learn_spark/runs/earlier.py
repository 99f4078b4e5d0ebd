"""How earlier versions of the package described code and settings in fingerprints; for adopting what they recorded.

The formulas here are history: they give what was written into lakes, and never change. If a config key moves or is
renamed, `_sections` puts it back under the name and in the place that it had.
"""

from collections.abc import Mapping
from functools import reduce
from typing import Any

from pydantic import BaseModel

from learn_spark.config.load import Config
from learn_spark.config.renamed import RENAMED
from learn_spark.runs.fingerprints import Scheme
from learn_spark.runs.steps import Step
from models.contract.settings import APART, is_later

_STEPS = {
    "ingest_events": ("ingest",),
    "build_sequences": ("windows", "sequences", "samples"),
    "embed_items": ("windows", "embedding"),
    "train_towers": ("towers", "stream", "retrieval"),
    "train_cvr": ("cvr", "stream"),
    "write_features": ("features",),
    "evaluate_features": ("evaluation", "retrieval"),
}
_NEW = ("evaluation.candidates", "towers.ranks")  # what 0.1.0 did not have
_NOT_LEARNED = ("train.threads", "train.checkpoint_seconds", "train.checkpoint_steps", "train.rank_timeout")
_LEFT_OUT = {
    "ingest": ("path", "max_reject_share", "max_bad_files", "empty_day", "min_day_share", "items.path"),
    "embedding": (
        *("threads", "workers", "device", "batch_tokens", "gpu_per_task", "bucket_texts"),
        *("max_bad_share", "max_duplicate_share", "min_effective_rank", "min_neighbour_overlap"),
    ),
    "towers": _NOT_LEARNED,
    "cvr": _NOT_LEARNED,
    "stream": ("verify_sha256",),
    "features": (
        *("batch_rows", "max_age_days", "keep_releases", "vacuum_hours"),
        *("min_users", "min_content_coverage", "min_effective_rank", "max_mean_cosine", "min_row_share"),
        *("min_remade_share", "min_pair_auc", "max_centroid_shift", "min_neighbour_overlap", "min_model_overlap"),
    ),
    "evaluation": ("threads",),
}


def _sections(config: Config) -> dict[str, Any]:
    """The config as the package's version 0.1.0 dumped it."""
    dumped = config.model_dump(mode="json")
    _drop_later(config, dumped)
    for old, new in RENAMED.items():
        *places, name = new.split(".")
        holder = reduce(dict.__getitem__, places, dumped)
        *places, key = old.split(".")
        reduce(lambda inner, place: inner.setdefault(place, {}), places, dumped)[key] = holder.pop(name)
    if dumped["towers"]["loss"]["negatives"] == "full_softmax":
        dumped["towers"]["loss"]["negatives"] = "catalogue"
    ranks = config.towers.ranks
    dumped["towers"]["launch"]["processes"] = ranks if ranks > 1 else 2  # its default, which one process ignored
    return _without(dumped, (*_NEW, *{new.rpartition(".")[0] for new in RENAMED.values() if APART & {*new.split(".")}}))


def _drop_later(settings: BaseModel, dumped: dict[str, Any]) -> None:
    """Removes keys that no lake had yet; such a key that is set stays, and so makes another day, as it should."""
    for name, value in settings:
        if is_later(settings, name, value):
            del dumped[name]
            continue
        within = {name: value} if isinstance(value, BaseModel) else value if isinstance(value, Mapping) else {}
        inner = dumped if isinstance(value, BaseModel) else dumped[name]
        for key, each in within.items():
            if isinstance(each, BaseModel):
                _drop_later(each, inner[key])


def _settings(config: Config, step: Step) -> Mapping[str, object]:
    dumped = _sections(config)
    return {section: _without(dumped[section], _LEFT_OUT.get(section, ())) for section in _STEPS.get(step.name, ())}


def _without(settings: Mapping[str, object], names: tuple[str, ...], prefix: str = "") -> dict[str, object]:
    return {
        key: _without(value, names, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if f"{prefix}{key}" not in names
    }


# Until steps had versions, the package's version stood for all of them. It was 0.1.0 whatever the code did.
PACKAGE_VERSION = Scheme(lambda step: "0.1.0", _settings, version=1)

EARLIER = (PACKAGE_VERSION,)
