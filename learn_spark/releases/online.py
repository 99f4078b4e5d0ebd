"""A release's models for a server: exported programs, ONNX files, and an MLflow model around them."""

from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Literal

from learn_spark.bridge.folders import require_absent, written_whole
from learn_spark.bridge.launch import run_trainer
from learn_spark.bridge.trained import towers_fingerprint
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import ConfigError
from learn_spark.releases.registry import Release
from learn_spark.runs.details import EvaluationDetails, newest_details
from learn_spark.runs.steps import EVALUATE_FEATURES, Context
from learn_spark.storage import Place
from models.contract.content_matrix import META, read_meta
from models.contract.export_specs import PT2, OnlineSpec, RetrievalWeights
from models.contract.result import RESULT

PYFUNC = "pyfunc"
_MODEL = "online_model.py"
_PACKAGES = ("mlflow", "numpy", "pandas", "torch")
_PROGRAMS = ("user_tower", "item_tower", "cvr")


def export_online(
    context: Context, release: Release, out: Place, formats: Sequence[Literal["pt2", "onnx"]]
) -> dict[str, Any]:
    """Writes the folder `out`, whole or not at all: `models.export.online_programs` and the `pyfunc` of `online_model`.

    Args:
        context: has the config that made the release.
        release: its towers and conversion model are exported.
        out: a folder that does not exist yet, or a place in a store.
        formats: some of `pt2` (which the MLflow model needs) and `onnx`.

    Returns:
        The content of `out/result.json`: sizes, files, inputs, outputs.

    Raises:
        ConfigError: the folder exists already, the models' folders or the content matrix are gone, the matrix is of
            another encoder, or a package for a format is missing.
    """
    require_absent(out)
    matrix = _matrix_of(context, release)
    models = context.tables.artifacts.path("models")
    towers, cvr = (models / f"{name}-{release.models[name]}" for name in ("towers", "cvr"))
    with written_whole(out) as folder:
        weights = _retrieval_weights(context, release)
        spec = OnlineSpec(towers=towers, cvr=cvr, retrieval=weights, formats=tuple(formats), out_dir=folder)
        about = run_trainer(spec)
        _save_pyfunc(folder, matrix, context.config.sequences.history_length)
    return about


def _retrieval_weights(context: Context, release: Release) -> RetrievalWeights | None:
    """The weights that `evaluate_features` has chosen for these towers; None if it has not."""
    details = newest_details(context.ledger.recorded().values(), EVALUATE_FEATURES)
    weights = (EvaluationDetails.from_json(details).retrieval or {}).get("weights")
    if not weights or release.models["towers"] != towers_fingerprint(context):
        return None
    return RetrievalWeights(
        repeat_bias=weights["repeat_bias"],
        popularity_prior=weights["popularity_prior"],
        popularity_days=context.config.retrieval.popularity_days,
    )


def _matrix_of(context: Context, release: Release) -> Path:
    """The content matrix that the release was scored with."""
    matrix = matrix_path(context)
    if not (matrix / META).is_file():
        raise ConfigError(f"there is no content matrix at {matrix}: export with the config that made the release")
    encoder = read_meta(matrix).encoder_id
    if encoder != release.encoder_id:
        raise ConfigError(
            f"release {release.release_id} was made with encoder {release.encoder_id}, but this config's content is"
            f" {encoder}'s: export with the config that made it"
        )
    return matrix


def _save_pyfunc(folder: Path, matrix: Path, history_length: int) -> None:
    """Saves the MLflow model with its own copy of the programs, so that it can be shipped, but not of the matrix."""
    import mlflow

    code = folder / _MODEL  # a copy, as ours may be in the zip of --py-files
    code.write_bytes(resources.files("learn_spark.releases").joinpath(_MODEL).read_bytes())
    programs = {name: str(folder / f"{name}.{PT2}") for name in _PROGRAMS}
    mlflow.pyfunc.save_model(
        folder / PYFUNC,
        python_model=str(code),
        artifacts={**programs, "about": str(folder / RESULT)},
        model_config={"content_matrix": str(matrix), "history_length": history_length},
        pip_requirements=[f"{name}=={metadata.version(name)}" for name in _PACKAGES],
    )
    code.unlink()
