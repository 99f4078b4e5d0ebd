"""Training of towers and conversion model: pinned snapshots, a trainer process, MLflow."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.bridge.launch import run_trainer
from learn_spark.bridge.scoring import score_items, score_users
from learn_spark.bridge.snapshots import export
from learn_spark.bridge.trained import cvr_fingerprint, cvr_path, is_trained, towers_fingerprint, towers_path
from learn_spark.config.load import Config
from learn_spark.config.model_sections import Launch
from learn_spark.embedding.matrix import matrix_path
from learn_spark.lake.days import DayRange, days_predicate
from learn_spark.lake.point_in_time import latest_before
from learn_spark.releases.spaces import earlier_conversion, earlier_towers
from learn_spark.runs.ledger import StepResult
from learn_spark.runs.steps import Context
from learn_spark.sequences.samples import with_log_q
from learn_spark.training.mlflow_runs import Training, log_training, loss_curve
from learn_spark.training.sequence_snapshots import sequence_snapshot
from models.contract.result import RESULT
from models.contract.settings import ValidationConfig
from models.contract.snapshot import read_manifest
from models.contract.training_specs import CVRSpec, EarlierConversion, TowersSpec, TrainingSpec

EMBEDDINGS = ("user_emb", "item_emb")
MOST_PAIRS = 50_000  # that a map of mid_emb is fitted on
_PAIR_KEY = ("user_id", "item_id", "event_ts")


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
        earlier=earlier_towers(context),
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
    snapshots = {role: _pair_snapshot(context, role, span, version, fingerprint) for role, span in spans.items()}
    spec = CVRSpec(
        train_snapshot=snapshots["train"],
        val_snapshot=snapshots["val"],
        log_q=config.cvr.log_q,
        cvr=config.cvr.model,
        train=config.cvr.train,
        stream=config.stream,
        earlier=_earlier_conversion(context, fingerprint),
        out_dir=cvr_path(context),
    )
    return _trained(context, spec, "learn-cvr", fingerprint)


def validation_of(config: Config) -> ValidationConfig:
    """How the towers are ranked when training chooses the best state."""
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


def _pair_snapshot(context: Context, role: str, span: DayRange, version: int, fingerprint: str) -> Path:
    config = context.config
    samples = context.tables.read("samples", version).where("stage = 'cvr'")
    corrected = ["log_q"] if config.cvr.log_q else []
    if corrected:
        samples = with_log_q(samples, config.samples.negatives)
    samples = samples.where(days_predicate("ds", span))
    columns = ("user_emb", "item_emb", "label", "weight", *corrected)
    pairs = with_embeddings(context, samples).select(*_PAIR_KEY, *columns)
    return export(context, pairs, f"cvr-{role}-{fingerprint}", _PAIR_KEY, "samples", version, config.cvr.train.seed)


def _earlier_conversion(context: Context, fingerprint: str) -> EarlierConversion | None:
    """The model whose space mid_emb gets, and pairs of this training with the embeddings that both models read."""
    earlier = earlier_conversion(context)
    if earlier is None:
        return None
    release, models = earlier
    version, seed = context.tables.version("samples"), context.config.cvr.train.seed
    samples = context.tables.read("samples", version).where("stage = 'cvr'").select(*_PAIR_KEY, "ds")
    drawn = samples.orderBy(F.xxhash64(F.lit(seed), *_PAIR_KEY)).limit(MOST_PAIRS)
    before = with_embeddings(context, drawn, models.towers, models.matrix)
    before = before.select(*samples.columns, *(F.col(name).alias(f"earlier_{name}") for name in EMBEDDINGS))
    pairs = with_embeddings(context, before).select(
        *_PAIR_KEY, *EMBEDDINGS, *(f"earlier_{name}" for name in EMBEDDINGS)
    )
    folder = export(
        context, pairs, f"cvr-space-{fingerprint}-{release.release_id}", _PAIR_KEY, "samples", version, seed
    )
    _, space = release.space
    return EarlierConversion(release=release.release_id, space=space, cvr=models.cvr, pairs=folder)


def with_embeddings(
    context: Context, samples: DataFrame, towers: Path | None = None, matrix: Path | None = None
) -> DataFrame:
    """Adds `user_emb` (newest history with ds <= the sample's day) and `item_emb`, as releases show them on that day.

    So a new user's, and an item's whose first event is not before that day, are zeros. Every (user, history day) and
    every item is scored once.

    Args:
        context: of the run.
        samples: `user_id`, `item_id`, `ds`, and any other columns.
        towers, matrix: the model's and the content matrix's folders, where they are not those of the config.
    """
    tables, towers, matrix = context.tables, towers or towers_path(context), matrix or matrix_path(context)
    batch_rows = context.config.features.run.batch_rows
    is_feature_day = F.col("ds") >= F.lit(context.config.windows.towers_end)
    histories = tables.read("user_history").where(is_feature_day)
    dated = latest_before(samples, histories.select("user_id", "ds", F.col("ds").alias("history_ds")), "user_id")
    wanted = dated.where("history_ds IS NOT NULL").select("user_id", F.col("history_ds").alias("ds")).distinct()
    due = histories.select("user_id", "ds", "item_idx").join(wanted, on=["user_id", "ds"], how="left_semi")
    users = score_users(due.repartition("user_id", "ds"), towers, matrix, batch_rows)
    users = users.select("user_id", F.col("ds").alias("history_ds"), "user_emb")
    sold = tables.read("item_index").join(samples.select("item_id").distinct(), on="item_id", how="left_semi")
    items = score_items(sold.repartition("item_id"), towers, matrix, batch_rows).select("item_id", "item_emb")
    before = tables.read("interactions").where(F.col("ds") < F.lit(context.config.windows.end))
    seen = before.groupBy("item_id").agg(F.min("ds").alias("first_ds"))
    items = items.join(seen, on="item_id", how="left")
    joined = dated.join(users, on=["user_id", "history_ds"], how="left").join(items, on="item_id", how="inner")
    unknown = F.transform("item_emb", lambda _: F.lit(0.0).cast("float"))
    item_emb = F.when(F.col("first_ds") < F.col("ds"), F.col("item_emb")).otherwise(unknown)
    return joined.withColumns({"user_emb": F.coalesce("user_emb", unknown), "item_emb": item_emb})
