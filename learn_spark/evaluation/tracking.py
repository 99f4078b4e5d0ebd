"""The report and its figures as an MLflow run."""

import sys
from collections.abc import Mapping
from pathlib import Path

from learn_spark.core.config import Config
from learn_spark.training.tracking import FINGERPRINT, tracking_uri

KIND = "evaluation"


def log_report(config: Config, mark: str, files: list[Path], summary: Mapping[str, object]) -> str | None:
    """Logs files and headline figures in the experiment of the trainings; one run a mark, updated by a rerun.

    Returns:
        The run's id; None where MLflow cannot be used or has no such experiment. The job goes on then.
    """
    try:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=tracking_uri(config))
        experiment = client.get_experiment_by_name(config.mlflow.experiment)
        if experiment is None:
            return None
        wanted = f"tags.{FINGERPRINT} = '{mark}' AND tags.model = '{KIND}'"
        known = client.search_runs([experiment.experiment_id], wanted, max_results=1)
        tags = {FINGERPRINT: mark, "model": KIND}
        run = known[0] if known else client.create_run(experiment.experiment_id, tags=tags, run_name=KIND)
        for name, value in _figures(summary).items():
            client.log_metric(run.info.run_id, name, value)
        for file in files:
            client.log_artifact(run.info.run_id, str(file))
        client.set_terminated(run.info.run_id)
    except Exception as error:  # whatever MLflow, its database or the network raise
        reason = " ".join(str(error).split())[:200]
        print(
            f"warning: the report is not in MLflow: {type(error).__name__}: {reason}",
            file=sys.stderr,
            flush=True,
        )
        return None
    return run.info.run_id


def _figures(summary: Mapping[str, object]) -> dict[str, float]:
    """Numbers of the two top levels of retrieval and ranker, by dotted name."""
    return {
        f"{part}.{name}": float(value)
        for part in ("retrieval", "ranker")
        for name, value in (summary[part] or {}).items()
        if isinstance(value, int | float)
    }
