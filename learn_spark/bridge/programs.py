"""Models as tasks score with them: by torch, or as programs for ONNX Runtime, exported once per model."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from learn_spark.bridge.launch import run_trainer
from learn_spark.bridge.trained import cvr_path, towers_path
from learn_spark.runs.steps import Context
from models.contract.export_specs import ONNX, OnlineSpec
from models.contract.failures import BadInput
from models.contract.result import is_finished, read_result
from models.contract.trained_model import CONFIG
from models.contract.verified import file_digest

PROGRAMS = "programs"  # the kind of artifact


def towers_to_score(context: Context, towers: Path | None = None) -> Path:
    """The folder that `score_users` and `score_items` take.

    Args:
        context: of the run; `features.run.runtime` chooses.
        towers: the model's folder; None: that of the config's own.
    """
    return _to_score(context, towers or towers_path(context), "towers")


def cvr_to_score(context: Context) -> Path:
    """The folder that `score_pairs` takes, likewise."""
    return _to_score(context, cvr_path(context), "cvr")


def _to_score(context: Context, model: Path, key: Literal["towers", "cvr"]) -> Path:
    if context.config.features.run.runtime == "torch":
        return model
    artifacts = context.tables.artifacts
    folder = artifacts.path(PROGRAMS, model.name)
    if not _is_whole(folder):
        artifacts.discard(artifacts.place_of(folder))
        context.progress.say(f"{model.name}: exporting programs for ONNX Runtime")
        run_trainer(OnlineSpec.model_validate({key: model, "formats": [ONNX], "out_dir": folder}))
        shutil.copy(model / CONFIG, folder)
        artifacts.publish()
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether the folder holds programs whose bytes are what was written."""
    if not is_finished(folder) or not (folder / CONFIG).is_file():
        return False
    try:
        programs: Mapping[str, Mapping[str, Mapping[str, str]]] = read_result(folder)["programs"]
        digests = {file: digest for each in programs.values() for file, digest in each["sha256"].items()}
        return all(file_digest(folder / file) == digest for file, digest in digests.items())
    except (BadInput, KeyError, AttributeError, OSError):
        return False
