"""Keys that had another name or place: a config that uses one is refused, with the name that it has now."""

import re
from collections.abc import Iterator, Mapping

_TRAIN_RUN = ("threads", "log_every", "checkpoint_seconds", "checkpoint_steps", "rank_timeout")
_MOVED = {
    "ingest.gates": ("max_reject_share", "max_bad_files", "empty_day", "min_day_share"),
    "embedding.run": ("device", "batch_tokens", "threads", "workers", "gpu_per_task"),
    "embedding.gates": ("max_bad_share", "max_duplicate_share", "min_effective_rank", "min_neighbour_overlap"),
    "towers.train.run": _TRAIN_RUN,
    "cvr.train.run": _TRAIN_RUN,
    "stream.run": ("verify_sha256",),
    "features.run": ("batch_rows",),
    "features.gates": (
        *("min_users", "min_content_coverage", "min_effective_rank", "max_mean_cosine", "min_row_share"),
        *("min_remade_share", "min_pair_auc", "max_centroid_shift", "min_neighbour_overlap", "min_model_overlap"),
    ),
    "evaluation.run": ("threads",),
}
RENAMED = {
    **{f"{place.rpartition('.')[0]}.{key}": f"{place}.{key}" for place, keys in _MOVED.items() for key in keys},
    **{f"features.{key}": f"releases.{key}" for key in ("max_age_days", "keep_releases", "vacuum_hours")},
    "embedding.bucket_texts": "embedding.run.texts_per_commit",
    "towers.launch.mode": "towers.run.launcher",
    "towers.launch.processes": "towers.ranks",
    "towers.model.out_dim": "towers.model.embedding_dim",
    "towers.loss.num_hist": "towers.loss.num_anchors",
    **{f"{stage}.train.clip_norm": f"{stage}.train.max_grad_norm" for stage in ("towers", "cvr")},
    **{f"{stage}.train.warmup_share": f"{stage}.train.warmup_ratio" for stage in ("towers", "cvr")},
    "sequences.stride_days": "sequences.as_of_every_days",
    "sequences.min_core": "sequences.k_core",
    "retrieval.popularity_weight": "retrieval.popularity_prior",
    "comparison.keep_seen": "comparison.filter_seen",
    "comparison.bootstrap": "comparison.resamples",
    "evaluation.bootstrap": "evaluation.resamples",
}
OPPOSITE = {"comparison.keep_seen"}
_VALUES = {("towers.loss.negatives", "catalogue"): "full_softmax"}
_SYSTEM = re.compile(r"comparison\.define\.[^.]+\.")
_OF_TOWERS = ("model.", "loss.", "train.")


def renamed(values: Mapping[str, object]) -> list[str]:
    """A line for each key or value of a config that has another name now."""
    return [line for key, value in _flat(values) if (line := _line(key, value))]


def _line(key: str, value: object) -> str | None:
    system = _SYSTEM.match(key)
    place = system[0] if system else ""
    own = key.removeprefix(place)
    if place and own == "prior_weight":
        return f"`{key}` is now `{place}popularity_prior`"
    known = f"towers.{own}" if place and own.startswith(_OF_TOWERS) else own
    if known in RENAMED:
        now = RENAMED[known].removeprefix("towers.") if known != own else RENAMED[known]
        return f"`{key}` is now `{place}{now}`" + (", which says the opposite" if known in OPPOSITE else "")
    if isinstance(value, str) and (known, value) in _VALUES:
        return f"`{key}`: {value} is now {_VALUES[known, value]}"
    return None


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        yield f"{prefix}{name}", value
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
