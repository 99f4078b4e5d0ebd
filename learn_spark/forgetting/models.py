"""Models that learned from forgotten users and items: finds them, and says which must be trained again.

A model's folder gets a file that names the requests and the digest of the weights. So a model is due for as long as it
has these weights, whatever happens to the ledger and the snapshots.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from learn_spark.forgetting.held_files import Sought, snapshot_holds
from learn_spark.runs.details import TrainingDetails
from learn_spark.runs.steps import TRAIN_CVR, TRAIN_TOWERS, Context
from models.contract.failures import BadInput
from models.contract.result import RESULT, SPEC
from models.contract.trained_model import WEIGHTS
from models.contract.verified import file_digest
from models.contract.whole_files import read_json, write_whole

LEARNED = "learned_from_forgotten.json"


@dataclass(frozen=True)
class Learned:
    """A model that has learned, or may have learned, from forgotten users or items.

    Attributes:
        folder: of the model.
        why: how that is known.
        is_kept: whether it stays because releases need it; others are deleted, and trained again on demand.
    """

    folder: Path
    why: str
    is_kept: bool


def learned_models(models: Path, snapshots: Path, sought: Sought) -> list[Learned]:
    """All models, finished or not, whose training or validation snapshot has rows of the sought, or is gone."""
    found: list[Learned] = []
    folders = sorted(path for path in models.glob("[!.]*") if path.is_dir())
    whys = {folder: _why(folder, snapshots, sought) for folder in folders}
    is_mixed = any(why for folder, why in whys.items() if folder.name.startswith("towers-"))
    for folder, why in whys.items():
        if why is None and is_mixed and folder.name.startswith("cvr-"):
            why = "it learned on vectors of towers that did"
        if why is not None:
            is_kept = (folder / RESULT).is_file() and not folder.name.startswith("compare-")
            found.append(Learned(folder, why, is_kept))
    return found


def mark(learned: Sequence[Learned], requests: Sequence[str]) -> None:
    """Notes the requests in the folders of models that stay; to be called before the telling snapshots are deleted."""
    for model in learned:
        if model.is_kept:
            weights = _weights(model.folder)
            known, same = _noted(model.folder)
            told = {"requests": sorted({*(known if same == weights else ()), *requests}), "weights": weights}
            write_whole(model.folder / LEARNED, json.dumps(told, indent=1) + "\n")


def retrain_due(context: Context) -> list[str]:
    """The ledger's models whose current weights learned from forgotten users or items."""
    rows = [row for (step, _), row in context.ledger.recorded().items() if step in (TRAIN_TOWERS, TRAIN_CVR)]
    said = [model for row in rows if (model := TrainingDetails.from_json(row.details).model)]
    names = sorted({Path(model).name for model in said})
    return [name for name in names if _is_due(context.tables.artifacts.path("models", name))]


def due_lines(due: Sequence[str]) -> list[str]:
    """Lines that say what to do about models that are due; empty if none is due."""
    if not due:
        return []
    return [
        f"retrain due: {', '.join(due)} learned from somebody who is forgotten; move windows.*, or change"
        f" towers.train.seed and cvr.train.seed, and run_pipeline --restate"
    ]


def _is_due(folder: Path) -> bool:
    return (folder / LEARNED).is_file() and _noted(folder)[1] == _weights(folder)


def _why(folder: Path, snapshots: Path, sought: Sought) -> str | None:
    try:
        spec = read_json(folder / SPEC, "spec")
        here = [snapshots / Path(spec[f"{role}_snapshot"]).name for role in ("train", "val")]
    except (BadInput, KeyError):
        return "what it learned from is not known"
    if any(snapshot.is_dir() and snapshot_holds(snapshot, sought) for snapshot in here):
        return "its snapshots have their rows"
    if not all(snapshot.is_dir() for snapshot in here):
        return "its snapshots are gone, so it may have learned from them"
    return None


def _noted(folder: Path) -> tuple[list[str], str | None]:
    """The noted requests, and the digest of the weights that they refer to."""
    file = folder / LEARNED
    values = read_json(file, "model") if file.is_file() else {"requests": [], "weights": None}
    return values["requests"], values["weights"]


def _weights(folder: Path) -> str | None:
    file = folder / WEIGHTS
    return file_digest(file) if file.is_file() else None
