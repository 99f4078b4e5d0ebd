"""Trains towers and conversion model: pinned snapshots, a trainer process, MLflow."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np

from learn_spark.bridge.launch import run_trainer
from learn_spark.bridge.trained import cvr_fingerprint, cvr_path, is_trained, towers_fingerprint, towers_path
from learn_spark.config.load import Config
from learn_spark.config.model_sections import Launch
from learn_spark.embedding.matrix import matrix_path
from learn_spark.lake.days import DayRange
from learn_spark.releases.spaces import before_cvr, before_towers
from learn_spark.runs.ledger import StepResult
from learn_spark.runs.steps import Context
from learn_spark.training.mlflow_runs import Training, log_training, loss_curve
from learn_spark.training.pair_snapshots import pair_snapshot, pairs_of_both
from learn_spark.training.sequence_snapshots import sequence_snapshot
from models.contract.result import RESULT
from models.contract.settings import ValidationConfig
from models.contract.snapshot import read_manifest
from models.contract.training_specs import CVRSpec, EarlierConversion, EarlierTowers, TowersSpec, TrainingSpec


def train_towers(context: Context, days: Sequence[date]) -> StepResult:
    """Trains user and item towers on the as-of dates before `windows.towers_end`; `days` is that one day."""
    config, fingerprint = context.config, towers_fingerprint(context)
    version = context.tables.version("sequences")
    spec = TowersSpec(
        train_snapshot=sequence_snapshot(context, "train", version, fingerprint),
        val_snapshot=sequence_snapshot(context, "val", version, fingerprint),
        content_matrix=matrix_path(context),
        towers=config.towers.model,
        loss=config.towers.loss,
        train=config.towers.train,
        stream=config.stream,
        validation=validation_of(config),
        earlier=_earlier_towers(context),
        out_dir=towers_path(context),
    )
    return _trained(context, spec, "learn-towers", fingerprint)


def train_cvr(context: Context, days: Sequence[date]) -> StepResult:
    """Trains the conversion model on the samples before `windows.cvr_end`; `days` is that one day."""
    config, fingerprint = context.config, cvr_fingerprint(context)
    version = context.tables.version("samples")
    validation = config.windows.cvr_end - timedelta(days=config.cvr.validation_days)
    spans = {
        "train": DayRange(config.windows.towers_end, validation),
        "val": DayRange(validation, config.windows.cvr_end),
    }
    snapshots = {role: pair_snapshot(context, role, span, version, fingerprint) for role, span in spans.items()}
    spec = CVRSpec(
        train_snapshot=snapshots["train"],
        val_snapshot=snapshots["val"],
        log_q=config.cvr.log_q,
        other_labels={name: config.cvr.label_weights.get(name, 1.0) for name in config.samples.names_of_others},
        cvr=config.cvr.model,
        train=config.cvr.train,
        stream=config.stream,
        earlier=_earlier_conversion(context, version, fingerprint),
        out_dir=cvr_path(context),
    )
    return _trained(context, spec, "learn-cvr", fingerprint)


def _earlier_towers(context: Context) -> EarlierTowers | None:
    if not (earlier := before_towers(context)):
        return None
    (release, models), (space, _) = earlier, earlier[0].space
    return EarlierTowers(release=release.release_id, space=space, towers=models.towers, content_matrix=models.matrix)


def _earlier_conversion(context: Context, version: int, fingerprint: str) -> EarlierConversion | None:
    if not (earlier := before_cvr(context)):
        return None
    (release, models), (_, space) = earlier, earlier[0].space
    pairs = pairs_of_both(context, earlier, version, fingerprint)
    return EarlierConversion(release=release.release_id, space=space, cvr=models.cvr, pairs=pairs)


def validation_of(config: Config) -> ValidationConfig:
    """How the towers are evaluated when training chooses the best state."""
    retrieval = config.retrieval
    metric, _, k = retrieval.picked_by.partition("_at_")
    prior = {"popularity_prior": retrieval.popularity_prior, "popularity_days": retrieval.popularity_days}
    return ValidationConfig.model_validate({"metric": metric, "k": int(k), **prior})


def _trained(context: Context, spec: TrainingSpec, model: str, fingerprint: str) -> StepResult:
    training = Training.of(spec, model, fingerprint)
    rows = {role: read_manifest(path).rows for role, path in training.snapshots.items()}
    if not is_trained(spec.out_dir):
        (spec.out_dir / RESULT).unlink(missing_ok=True)  # it would say that there is nothing to train
    context.progress.say(f"{spec.command}: snapshots of {rows} rows; training starts")
    alone = Launch(environment=context.config.training.environment)
    launch = context.config.launch if isinstance(spec, TowersSpec) else alone
    result = run_trainer(spec, launch, context.spark)
    if result.get("space"):
        context.progress.say(f"{spec.command}: {_said(result['space'])}")
    details = {
        "model": str(training.folder),
        "fingerprint": training.fingerprint,
        "snapshots": {role: str(path) for role, path in training.snapshots.items()},
        "rows": rows,
        "result": result,
        "curve": loss_curve(training.folder),
        "registered_model": training.model,
        **log_training(context.config, training),
    }
    total = sum(rows.values())
    return StepResult(rows_in=total, rows_out=total, details=details)


def _said(space: dict[str, Any]) -> str:
    """Into which space a model was mapped, and how well."""
    figures = {
        "item_cosine": "cosine of item vectors",
        "user_cosine": "of user vectors",
        "mid_explained": "explained of mid_emb",
    }
    told = [
        f"{name} {' -> '.join(f'{value:.2f}' for value in np.atleast_1d(space[key]))}"
        for key, name in figures.items()
        if key in space
    ]
    return f"mapped into the space of release {space['release']}: {', '.join(told)}"
