"""Keys that had another name or place: a config that uses one is refused, with the name that it has now."""

import re
from collections.abc import Iterator, Mapping

_TRAIN_RUN = ("threads", "log_every", "checkpoint_seconds", "checkpoint_steps", "rank_timeout")
_MOVED = {
    "ingest.gates": ("max_reject_share", "max_bad_files", "empty_day", "min_day_share"),
    "embedding.run": ("device", "batch_tokens", "threads", "workers", "gpu_per_task", "bucket_texts"),
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
    "towers.launch.mode": "towers.run.launcher",
    "towers.launch.processes": "towers.ranks",
}
_OF_A_SYSTEM = re.compile(r"comparison\.define\.[^.]+\.(?=(model|loss|train)\.)")


def renamed(values: Mapping[str, object]) -> list[str]:
    """A line for each key of a config that has another name now."""
    found = []
    for key in _keys(values):
        system = _OF_A_SYSTEM.match(key)
        place, known = (system[0], f"towers.{key[system.end() :]}") if system else ("", key)
        if known in RENAMED:
            now = RENAMED[known]
            found.append(f"`{key}` is now `{place + now.removeprefix('towers.') if system else now}`")
    return found


def _keys(values: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{name}.")
