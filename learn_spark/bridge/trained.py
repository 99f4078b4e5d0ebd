"""The models that a config trains and scores with: their fingerprints and folders."""

from collections.abc import Collection
from datetime import date
from pathlib import Path

from learn_spark.runs.steps import Context, cvr_day, towers_day
from models.contract.result import RESULT
from models.contract.trained_model import CONFIG, WEIGHTS

MODEL_FILES = (RESULT, WEIGHTS, CONFIG)


def towers_path(context: Context) -> Path:
    """The folder of the towers that this config trains."""
    return context.tables.artifacts.path("models", f"towers-{towers_fingerprint(context)}")


def cvr_path(context: Context) -> Path:
    """The folder of the conversion model that this config trains."""
    return context.tables.artifacts.path("models", f"cvr-{cvr_fingerprint(context)}")


def lost_towers(context: Context, days: Collection[date]) -> Collection[date]:
    """The given days if the towers' folder lacks a file, else none."""
    return () if is_trained(towers_path(context)) else days


def lost_cvr(context: Context, days: Collection[date]) -> Collection[date]:
    """The given days if the conversion model's folder lacks a file, else none."""
    return () if is_trained(cvr_path(context)) else days


def is_trained(folder: Path) -> bool:
    """Whether a trained model's files are there."""
    return all((folder / name).is_file() for name in MODEL_FILES)


def towers_fingerprint(context: Context) -> str:
    """The fingerprint of the towers."""
    return context.made_as(*towers_day(context.config))


def cvr_fingerprint(context: Context) -> str:
    """The fingerprint of the conversion model."""
    return context.made_as(*cvr_day(context.config))
