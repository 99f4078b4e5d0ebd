"""The report and its figures as an MLflow run."""

import sys
from collections.abc import Mapping
from pathlib import Path

from learn_spark.core.config import Config
from learn_spark.training.tracking import FINGERPRINT, client_of, experiment_of

KIND = "evaluation"


def log_report(config: Config, mark: str, files: list[Path], summary: Mapping[str, object]) -> str | None:
    """Logs the report and its headline figures; see `log_figures`."""
    return log_figures(config, KIND, mark, files, _figures(summary))


def log_figures(config: Config, kind: str, mark: str, files: list[Path], figures: Mapping[str, float]) -> str | None:
    """Logs files and figures in the experiment of the trainings; one run a kind and mark, updated by a rerun.

    Returns:
        The run's id; None where MLflow cannot be used. The job goes on then.
    """
    try:
        client = client_of(config)
        experiment = experiment_of(client, config)
        wanted = f"tags.{FINGERPRINT} = '{mark}' AND tags.model = '{kind}'"
        known = client.search_runs([experiment], wanted, max_results=1)
        tags = {FINGERPRINT: mark, "model": kind}
        run = known[0] if known else client.create_run(experiment, tags=tags, run_name=kind)
        for name, value in figures.items():
            client.log_metric(run.info.run_id, name, value)
        for file in files:
            client.log_artifact(run.info.run_id, str(file))
        client.set_terminated(run.info.run_id)
    except Exception as error:  # whatever MLflow, its database or the network raise
        reason = " ".join(str(error).split())[:200]
        print(
            f"warning: {kind} is not in MLflow: {type(error).__name__}: {reason}",
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
