"""Tracking with the real MLflow on SQLite, and with an unreachable server."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyspark
import pytest

from learn_spark.config.load import Config
from learn_spark.training.mlflow_runs import PENDING, Training, log_training, loss_curve, tracking_uri


@pytest.fixture
def training(tmp_path: Path) -> Training:
    """A finished training as the trainer leaves it: 2,500 losses, three evaluations."""
    folder, snapshot = tmp_path / "towers-abc", tmp_path / "towers-train-abc"
    folder.mkdir()
    snapshot.mkdir()
    lines = []
    for step in range(2500):
        if step % 1000 == 0:
            lines.append({"step": step, "recall_at_50": step / 1e4, "seconds": step / 10})
        lines.append({"step": step, "loss": 5.0 - step / 1e3, "lr": 1e-3, "seconds": step / 10})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text('{"best": {"recall_at_50": 0.2}, "steps": 2500, "stopped": "epochs"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    manifest = {
        "source_table": "sequences",
        "source_version": 4,
        "schema": {"a": "int"},
        "rows": 9,
        "files": [],
    }
    (snapshot / "manifest.json").write_text(json.dumps(manifest))
    return Training("learn-towers", "abc123", folder, {"train": {"lr": 0.001}}, {"train": snapshot})


@pytest.mark.process
def test_everything_is_logged_once(config: Config, training: Training, capfd: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    logged = log_training(config, training)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert logged["model_version"] == "1"
    assert log_training(config, training) == logged
    client = MlflowClient(tracking_uri(config), tracking_uri(config))
    run = client.get_run(logged["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.lr"] == "0.001"
    assert run.data.metrics["result.best.recall_at_50"] == 0.2
    assert run.data.tags["fingerprint"] == "abc123"
    assert run.data.tags["dataset.train"].startswith("sequences@4 ")
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 2500
    assert [m.step for m in client.get_metric_history(run.info.run_id, "recall_at_50")] == [0, 1000, 2000]
    (used,) = run.inputs.dataset_inputs
    assert json.loads(used.dataset.source) == {"table": "sequences", "version": 4}
    artifacts = {
        a.path for folder in ("model", "snapshots/train") for a in client.list_artifacts(run.info.run_id, folder)
    }
    assert {"model/model.safetensors", "snapshots/train/manifest.json"} <= artifacts
    (version,) = client.search_model_versions("name = 'learn-towers'")
    assert version.run_id == run.info.run_id
    assert client.get_model_version_by_alias("learn-towers", "candidate").version == version.version
    environment = client.download_artifacts(run.info.run_id, "environment.json")
    assert json.loads(Path(environment).read_text())["pyspark"] == pyspark.__version__
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    assert not (training.folder / PENDING).exists()
    assert (config.output.dir / "mlflow.db").is_file()


@pytest.mark.parametrize("uri", ["http://joe:p4ssw0rd@127.0.0.1:9?token=t0ken", "sqlite:////proc/no/such/mlflow.db"])
def test_an_unreachable_server_is_a_warning(
    config: Config, training: Training, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    away = config.model_copy(update={"mlflow": config.mlflow.model_copy(update={"tracking_uri": uri})})
    logged = log_training(away, training)
    assert list(logged) == ["mlflow"]
    assert logged["mlflow"].startswith("unreachable: ")
    assert not any(secret in f"{logged} {caplog.text}" for secret in ("p4ssw0rd", "t0ken"))
    assert "training goes on" in caplog.text


@pytest.mark.process
def test_what_could_not_be_sent_is_sent_by_the_next_training(config: Config, training: Training) -> None:
    from mlflow import MlflowClient

    config.output.dir.parent.mkdir(parents=True, exist_ok=True)
    config.output.dir.write_text("a file where the folder of the database should be")
    assert log_training(config, training)["mlflow"].startswith("unreachable: ")
    assert (training.folder / PENDING).is_file()
    config.output.dir.unlink()
    later = replace(training, fingerprint="def456", folder=training.folder.with_name("towers-def"))
    shutil.copytree(training.folder, later.folder)
    logged = log_training(config, later)
    client = MlflowClient(tracking_uri(config), tracking_uri(config))
    versions = {v.tags["fingerprint"]: v for v in client.search_model_versions("name = 'learn-towers'")}
    assert versions["def456"].run_id == logged["mlflow_run_id"]
    sent = client.get_run(versions["abc123"].run_id)
    assert (sent.info.status, sent.data.params["train.lr"]) == ("FINISHED", "0.001")
    assert len(client.get_metric_history(sent.info.run_id, "loss")) == 2500
    assert client.get_model_version_by_alias("learn-towers", "candidate").version == versions["def456"].version
    assert not list(training.folder.parent.glob(f"*/{PENDING}"))


@pytest.mark.process
def test_a_training_that_cannot_be_sent_any_more_keeps_nobody_back(
    config: Config, training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    config.output.dir.parent.mkdir(parents=True, exist_ok=True)
    config.output.dir.write_text("a file where the folder of the database should be")
    log_training(config, training)
    config.output.dir.unlink()
    later = replace(training, fingerprint="def456", folder=training.folder.with_name("towers-def"))
    shutil.copytree(training.folder, later.folder)
    kept = training.snapshots["train"].rename(training.snapshots["train"].with_name("kept"))
    later = replace(later, snapshots={"train": kept})
    assert log_training(config, later)["model_version"] == "1"
    assert f"{training.folder / PENDING} stays, not sent: " in caplog.text
    assert (training.folder / PENDING).is_file() and not (later.folder / PENDING).exists()


def test_a_loss_curve_is_thinned_and_keeps_the_evaluations(training: Training) -> None:
    curve = loss_curve(training.folder)
    losses = [line for line in curve if "loss" in line]
    assert 190 <= len(losses) <= 201
    assert (losses[0]["step"], losses[-1]["step"]) == (0, 2499)
    assert [line["step"] for line in curve if "recall_at_50" in line] == [0, 1000, 2000]
