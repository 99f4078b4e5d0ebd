"""The models that a config trains and scores with: their fingerprints and folders."""

from pathlib import Path

from learn_spark.runs.steps import Context, cvr_day, towers_day


def towers_path(context: Context) -> Path:
    """The folder of the towers that this config trains."""
    return context.tables.artifact("models", f"towers-{towers_fingerprint(context)}")


def cvr_path(context: Context) -> Path:
    """The folder of the conversion model that this config trains."""
    return context.tables.artifact("models", f"cvr-{cvr_fingerprint(context)}")


def towers_fingerprint(context: Context) -> str:
    """The fingerprint of the towers."""
    return context.made_as(*towers_day(context.config))


def cvr_fingerprint(context: Context) -> str:
    """The fingerprint of the conversion model."""
    return context.made_as(*cvr_day(context.config))
