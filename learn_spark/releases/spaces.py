"""The space of a release's vectors: which models began it, and what new models need to be mapped into it.

A retrained model has other axes. So that no consumer has to learn anew, the vectors of new towers and of a new
conversion model are mapped into the space of an earlier release (`models/towers/space.py`). That is done once, when
they are trained: the models that are stored, scored with and exported are the mapped ones.
"""

from dataclasses import dataclass
from pathlib import Path

from learn_spark.bridge.trained import cvr_fingerprint, cvr_path, is_trained, towers_fingerprint, towers_path
from learn_spark.errors import ConfigError
from learn_spark.lake.tables import Tables
from learn_spark.releases.codebooks import codes_of
from learn_spark.releases.registry import Release, find_release, newest_release
from learn_spark.runs.steps import Context
from models.contract.content_matrix import META
from models.contract.failures import BadInput
from models.contract.result import SPEC, read_result
from models.contract.whole_files import read_json

NONE, PREVIOUS = "none", "previous"
_WAY_OUT = "towers.compatible_with: none begins a space of its own, which consumers have to learn anew"


@dataclass(frozen=True)
class ReleaseModels:
    """The folders of what a release was scored with.

    Attributes:
        towers, cvr: the models' folders.
        matrix: the content matrix's folder.
    """

    towers: Path
    cvr: Path
    matrix: Path

    @classmethod
    def of(cls, tables: Tables, release: Release) -> "ReleaseModels":
        """The folders of a release; raises ConfigError if the towers' spec cannot be read."""
        towers, cvr = (tables.artifacts.path("models", f"{name}-{release.models[name]}") for name in ("towers", "cvr"))
        try:
            spec = read_json(towers / SPEC, f"the towers of release {release.release_id}")
        except BadInput as error:
            raise ConfigError(str(error)) from error
        return cls(towers, cvr, tables.artifacts.path("matrix", Path(str(spec["content_matrix"])).name))  # lakes move

    @property
    def lacking(self) -> list[Path]:
        """The folders that are no longer whole."""
        lost = [folder for folder in (self.towers, self.cvr) if not is_trained(folder)]
        return lost if (self.matrix / META).is_file() else [*lost, self.matrix]


def models_of(context: Context) -> dict[str, str]:
    """What names this config's models in a release: their fingerprints, their space if they were mapped, codes."""
    made = {"towers": towers_fingerprint(context), "cvr": cvr_fingerprint(context)}
    mapped = {"towers": mapped_into(towers_path(context)), "cvr": mapped_into(cvr_path(context))}
    space = [str(mapped[name].get("id", made[name])) for name in made]
    codes = codes_of(context, space[0])
    return {**made, **({"space": "-".join(space)} if any(mapped.values()) else {}), **codes}


def mapped_into(folder: Path) -> dict[str, object]:
    """The space into which a training mapped its model; empty if it did not, or has not ended."""
    return read_result(folder).get("space", {}) if is_trained(folder) else {}


Earlier = tuple[Release, ReleaseModels]


def earlier_models(context: Context) -> Earlier | None:
    """The release into whose space the towers of this config were mapped, with its models; None if there is none."""
    release_id = mapped_into(towers_path(context)).get("release")
    if release_id is None:
        return None
    release = find_release(context.tables, str(release_id), readable=False)
    return release, ReleaseModels.of(context.tables, release)


def before_towers(context: Context) -> Earlier | None:
    """The release into whose space the towers that are to be trained will be mapped; None: they begin their own.

    Raises:
        ConfigError: there is no such release, or its models are gone.
    """
    wanted = context.config.towers.compatible_with
    if wanted == NONE:
        return None
    if wanted == PREVIOUS:
        release = newest_release(context.tables, {}, without={"towers": towers_fingerprint(context)})
    else:
        release = find_release(context.tables, wanted, readable=False)
    return release and (release, _whole(context, release))


def before_cvr(context: Context) -> Earlier | None:
    """The release into whose space mid_emb of the next conversion model will be mapped; None: it begins its own.

    It is the newest release by the same towers, else the one into whose space the towers were mapped. Raises what
    `before_towers` raises.
    """
    if context.config.towers.compatible_with == NONE:
        return None
    towers, cvr = towers_fingerprint(context), cvr_fingerprint(context)
    release = newest_release(context.tables, {"towers": towers}, without={"cvr": cvr})
    if release is None:
        earlier = earlier_models(context)
        if earlier is None:
            return None
        release, _ = earlier
    return release, _whole(context, release)


def _whole(context: Context, release: Release) -> ReleaseModels:
    models = ReleaseModels.of(context.tables, release)
    if lacking := models.lacking:
        raise ConfigError(
            f"new models are to get the space of release {release.release_id}, but {lacking[0]} is gone: bring it back"
            f" (learn-spark repair), or {_WAY_OUT}"
        )
    return models
