"""The report and its figures as an MLflow run."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from learn_spark.config.load import Config
from learn_spark.training.mlflow_runs import FINGERPRINT, client_of, experiment_of, flattened, one_line

_log = logging.getLogger(__name__)

KIND = "evaluation"


def log_report(config: Config, fingerprint: str, files: list[Path], summary: Mapping[str, object]) -> str | None:
    """Logs the report and its headline figures; see `log_figures`."""
    return log_figures(config, KIND, fingerprint, files, _figures(summary))


def log_figures(
    config: Config, kind: str, fingerprint: str, files: list[Path], figures: Mapping[str, float]
) -> str | None:
    """Logs files and figures in the experiment of the trainings; one run per kind and fingerprint, updated by a rerun.

    Returns:
        The run's id; None if MLflow cannot be used, which does not stop the job.
    """
    try:
        from mlflow.entities import Metric

        client = client_of(config)
        experiment = experiment_of(client, config)
        wanted = f"tags.{FINGERPRINT} = '{fingerprint}' AND tags.model = '{kind}'"
        known = client.search_runs([experiment], wanted, max_results=1)
        tags = {FINGERPRINT: fingerprint, "model": kind}
        run = known[0] if known else client.create_run(experiment, tags=tags, run_name=kind)
        now = time.time_ns() // 1_000_000
        client.log_batch(run.info.run_id, metrics=[Metric(name, value, now, 0) for name, value in figures.items()])
        for file in files:
            client.log_artifact(run.info.run_id, str(file))
        client.set_terminated(run.info.run_id)
    except Exception as error:  # whatever MLflow, its database or the network raise
        _log.warning("warning: %s is not in MLflow: %s", kind, one_line(error))
        return None
    return run.info.run_id


def _figures(summary: Mapping[str, object]) -> dict[str, float]:
    """All numbers of retrieval and ranker by dotted name, also of segments and controls; interval ends as .0 and .1."""
    parts = {part: summary[part] or {} for part in ("retrieval", "ranker")}
    figures = {}
    for name, value in flattened(parts):
        named = {f"{name}.{i}": end for i, end in enumerate(value)} if isinstance(value, list) else {name: value}
        figures |= {key: float(figure) for key, figure in named.items() if isinstance(figure, int | float)}
    return figures
