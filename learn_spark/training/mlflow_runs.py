"""Logs trainings to MLflow: parameters, metrics by step, snapshots, the registered model."""

import hashlib
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from learn_spark.config.load import Config
from learn_spark.config.secrets import redacted
from models.contract.result import METRICS, RESULT, SPEC, read_result
from models.contract.snapshot import MANIFEST, read_manifest
from models.contract.training_specs import TrainingSpec
from models.contract.whole_files import write_whole

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_log = logging.getLogger(__name__)

FINGERPRINT = "fingerprint"
PENDING = "mlflow_pending.json"
ALIAS = "candidate"
_METRICS_A_BATCH = 1000
_NOISY = ("alembic", "mlflow.store.db.utils", "mlflow.tracking", "mlflow.store.model_registry", "urllib3")


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        model: registered model name.
        fingerprint: of everything that it was made from.
        folder: the model's folder, with metrics.jsonl and result.json.
        spec: what the trainer was told.
        snapshots: its data by role (train, val).
        is_registered: whether it becomes a version of the registered model. A comparison's trainings do not, so that
            nobody deploys them; their weights stay in the lake.
    """

    model: str
    fingerprint: str
    folder: Path
    spec: Mapping[str, object]
    snapshots: Mapping[str, Path]
    is_registered: bool = True

    @classmethod
    def of(cls, spec: TrainingSpec, model: str, fingerprint: str, is_registered: bool = True) -> "Training":
        """The training that a spec describes."""
        snapshots = {"train": spec.train_snapshot, "val": spec.val_snapshot}
        return cls(model, fingerprint, spec.out_dir, spec.told(), snapshots, is_registered)


def log_training(config: Config, training: Training) -> dict[str, str | None]:
    """Logs a training, unless its fingerprint is logged already; also earlier ones that could not be sent before.

    The newest version of the registered model gets the alias `candidate`.

    Returns:
        `mlflow_run_id`, `model_version` and `mlflow` (the tracking URI without passwords); or, without MLflow, only
        `mlflow`: "unreachable: …". The job goes on then: the model's folder holds all figures, and a file that says
        that they are not sent yet. The next training that reaches MLflow sends them.
    """
    _note_pending(training)
    try:
        client = client_of(config)
        experiment = experiment_of(client, config)
        earlier = [one for one in _pending(training.folder.parent) if one.folder != training.folder]
        _send_each(client, experiment, earlier)
        run_id, version = _sent(client, experiment, training)
    except Exception as error:  # whatever MLflow, its database or the network raise
        reason = f"unreachable: {one_line(error)}"
        _log.warning("warning: MLflow is %s; training goes on, the figures are sent later", reason)
        return {"mlflow": reason}
    return {"mlflow": redacted(tracking_uri(config)), "mlflow_run_id": run_id, "model_version": version}


def log_runs(config: Config, trainings: Sequence[Training]) -> None:
    """Logs trainings that are not registered, each once; if MLflow cannot be used, warns, and they are sent later."""
    for training in trainings:
        _note_pending(training)
    try:
        client = client_of(config)
        experiment = experiment_of(client, config)
    except Exception as error:  # whatever MLflow, its database or the network raise
        _log.warning("warning: MLflow is unreachable: %s; the trainings' figures are sent later", one_line(error))
        return
    _send_each(client, experiment, trainings)


def _send_each(client: "MlflowClient", experiment: str, trainings: Iterable[Training]) -> None:
    """Sends trainings; one whose snapshot is gone, or that MLflow refuses, does not hold back the others."""
    for training in trainings:
        try:
            _sent(client, experiment, training)
        except Exception as error:
            _log.warning("warning: %s stays, not sent: %s", training.folder / PENDING, one_line(error))


def _sent(client: "MlflowClient", experiment: str, training: Training) -> tuple[str, str | None]:
    run_id = _finished_run(client, experiment, training) or _new_run(client, experiment, training)
    version = _registered(client, training, run_id) if training.is_registered else None
    (training.folder / PENDING).unlink(missing_ok=True)
    return run_id, version


def _note_pending(training: Training) -> None:
    write_whole(training.folder / PENDING, json.dumps(asdict(training), indent=1, default=str) + "\n")


def _pending(models: Path) -> list[Training]:
    """Finished trainings that MLflow does not have yet, the oldest first."""
    files = sorted(models.glob(f"*/{PENDING}"), key=lambda file: file.stat().st_mtime)
    told = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [
        Training(
            values["model"],
            values["fingerprint"],
            file.parent,
            values["spec"],
            {role: Path(path) for role, path in values["snapshots"].items()},
            values.get("is_registered", True),
        )
        for file, values in zip(files, told, strict=True)
    ]


def tracking_uri(config: Config) -> str:
    """The configured tracking server, or SQLite in the output folder."""
    return config.mlflow.tracking_uri or f"sqlite:///{config.output.folder}/mlflow.db"


def loss_curve(folder: Path, points: int = 200) -> list[dict[str, float]]:
    """The numbers of metrics.jsonl, the losses thinned evenly to about `points`; all evaluations stay."""
    lines = [{key: value for key, value in line.items() if _is_drawn(value)} for line in _metric_lines(folder)]
    steps = [line for line in lines if "loss" in line]
    stride = max(1, -(-len(steps) // max(1, points)))
    kept = {id(line) for line in [*steps[::stride], *steps[-1:]]}
    return [line for line in lines if id(line) in kept or "loss" not in line]


def _is_drawn(value: object) -> bool:
    """Whether a value belongs into a curve: lists do not; they are tables of evaluations (result.json has the best)."""
    return not isinstance(value, list)


def _metric_lines(folder: Path) -> Iterator[dict[str, float]]:
    file = folder / METRICS
    if file.is_file():
        with file.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())


def _keep_quiet() -> None:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def client_of(config: Config) -> "MlflowClient":
    """A client for the config's tracking server, with quiet logging."""
    from mlflow import MlflowClient

    _keep_quiet()
    if config.mlflow.tracking_uri is None:
        config.output.folder.mkdir(parents=True, exist_ok=True)
    uri = tracking_uri(config)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_of(client: "MlflowClient", config: Config) -> str:
    """The id of the config's experiment, which is made if it is missing."""
    name = config.mlflow.experiment
    known = client.get_experiment_by_name(name)
    if known is not None:
        return known.experiment_id
    is_local = config.mlflow.tracking_uri is None
    return client.create_experiment(name, (config.output.folder / "mlartifacts").as_uri() if is_local else None)


def _finished_run(client: "MlflowClient", experiment: str, training: Training) -> str | None:
    wanted = f"tags.{FINGERPRINT} = '{training.fingerprint}' AND tags.model = '{training.model}'"
    runs = client.search_runs([experiment], f"{wanted} AND attributes.status = 'FINISHED'", max_results=1)
    return runs[0].info.run_id if runs else None


def _new_run(client: "MlflowClient", experiment: str, training: Training) -> str:
    tags = {FINGERPRINT: training.fingerprint, "model": training.model, **_git_tags()}
    name = f"{training.model}-{training.fingerprint[:8]}"
    run_id = client.create_run(experiment, tags=tags, run_name=name).info.run_id
    try:
        _log_parameters(client, run_id, training)
        _log_metrics(client, run_id, training.folder)
        for role, snapshot in training.snapshots.items():
            _log_snapshot(client, run_id, role, snapshot)
        for file in sorted(path for path in training.folder.iterdir() if _is_kept(path, training)):
            client.log_artifact(run_id, str(file), "model")
        client.log_dict(run_id, _packages(), "environment.json")
    except Exception:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _is_kept(file: Path, training: Training) -> bool:
    """Whether the run keeps a copy of the training's file."""
    return (
        not file.name.startswith(".")
        and file.name != PENDING
        and (training.is_registered or file.suffix in (".json", ".jsonl"))
    )


def _log_parameters(client: "MlflowClient", run_id: str, training: Training) -> None:
    from mlflow.entities import Param

    flat = dict(flattened(training.spec))
    client.log_batch(run_id, params=[Param(key, redacted(str(value))[:500]) for key, value in flat.items()])


def _log_metrics(client: "MlflowClient", run_id: str, folder: Path) -> None:
    from mlflow.entities import Metric

    metrics = list(_step_metrics(folder))
    started = int((folder / RESULT).stat().st_mtime * 1000)
    metrics += [
        Metric(f"result.{key}", float(value), started, 0)
        for key, value in flattened(read_result(folder))
        if isinstance(value, int | float)
    ]
    for start in range(0, len(metrics), _METRICS_A_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_A_BATCH])


def _step_metrics(folder: Path) -> Iterator["Metric"]:
    from mlflow.entities import Metric

    began = (folder / SPEC).stat().st_mtime if (folder / SPEC).is_file() else 0.0
    for line in _metric_lines(folder):
        time_ms = int((began + line.get("seconds", 0.0)) * 1000)
        for key, value in line.items():
            if key not in ("step", "seconds") and isinstance(value, int | float):
                yield Metric(key, float(value), time_ms, int(line["step"]))


def _log_snapshot(client: "MlflowClient", run_id: str, role: str, snapshot: Path) -> None:
    """Logs the manifest as an artifact and as the run's dataset; its hash stands for every byte of the data."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    manifest = read_manifest(snapshot)
    digest = hashlib.sha256((snapshot / MANIFEST).read_bytes()).hexdigest()[:16]
    source = {"table": manifest.source_table, "version": manifest.source_version}
    dataset = Dataset(
        name=snapshot.name,
        digest=digest,
        source_type="delta",
        source=json.dumps(source),
        schema=json.dumps(manifest.columns),
        profile=json.dumps({"rows": manifest.rows, "files": len(manifest.files)}),
    )
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", role)])])
    client.log_artifact(run_id, str(snapshot / MANIFEST), f"snapshots/{role}")
    client.set_tag(run_id, f"dataset.{role}", f"{source['table']}@{source['version']} {digest}")


def _registered(client: "MlflowClient", training: Training, run_id: str) -> str:
    """The run's version of the registered model, made if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(training.model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name = '{training.model}' AND run_id = '{run_id}'")
    if known:
        return str(known[0].version)
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    made = client.create_model_version(training.model, source, run_id=run_id, tags={FINGERPRINT: training.fingerprint})
    client.set_registered_model_alias(training.model, ALIAS, made.version)
    return str(made.version)


def _packages() -> dict[str, str]:
    """Python's version, and those of all installed packages."""
    found = {one.metadata["Name"]: one.version for one in distributions()}
    return {"python": platform.python_version()} | dict(sorted(found.items()))


def _git_tags() -> dict[str, str]:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": done.stdout.strip()}


def one_line(error: Exception) -> str:
    """The error's kind and the beginning of what it says, without secrets."""
    return f"{type(error).__name__}: {' '.join(redacted(str(error)).split())[:200]}"


def flattened(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested values by dotted name."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
