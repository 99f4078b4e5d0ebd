"""Describes releases: what one was made from, down to the files, and how two differ."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path

from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from learn_spark.errors import ConfigError
from learn_spark.lake.days import spans
from learn_spark.lake.forget_requests import requests_of
from learn_spark.lake.tables import Tables
from learn_spark.releases.codebooks import CODES, DIGEST
from learn_spark.releases.registry import Release
from learn_spark.runs.details import EvaluationDetails, TrainingDetails
from learn_spark.runs.ledger import Ledger, Recorded
from learn_spark.runs.steps import EVALUATE_FEATURES, TRAIN_CVR, TRAIN_TOWERS
from models.contract.snapshot import MANIFEST, read_manifest

_TRAINERS = {"towers": TRAIN_TOWERS, "cvr": TRAIN_CVR}
_TRACKED = ("mlflow", "mlflow_run_id", "registered_model", "model_version")
_FILES = 5
_COUNTS = ("users", "items", "pairs")


def listed(release: Release) -> dict[str, object]:
    """A release as an entry of a list."""
    return {
        "release": release.release_id,
        "status": release.status,
        "published_at": f"{release.published_at:%Y-%m-%d %H:%M:%S}",
        "days": spans(release.days),
        "towers": release.models["towers"],
        "cvr": release.models["cvr"],
        "space": "-".join(release.space),
    }


def shown(release: Release, tables: Tables, ledger: Ledger) -> dict[str, object]:
    """Everything about a release: its days, rows, gates, and the lineage from its models to the source files."""
    return {
        **listed(release),
        "shows_days": _days(release.parts),
        "rows": _counts(release),
        "widths": release.widths,
        "encoder": release.encoder_id,
        **{name: release.models[name] for name in (CODES, DIGEST) if name in release.models},
        "gates": [
            {"name": name, "value": value, "lower": lower, "upper": upper, "passed": passed}
            for name, value, lower, upper, passed in release.gates
        ],
        "lineage": {
            "models": {
                name: _model(name, fingerprint, ledger)
                for name, fingerprint in release.models.items()
                if name in _TRAINERS
            },
            "input_versions": release.inputs,
            "table_versions": release.tables,
            "source_files": source_files(tables, release),
            "forgotten_since": _forgotten_since(tables, release),
        },
    }


def compared(first: Release, second: Release, recorded: Iterable[Recorded] = ()) -> dict[str, object]:
    """What differs between two releases: models, encoder, days, rows, gates.

    `kept`: how much of its gain a ranker of the first release keeps when it is fed the second one's features, if
    `evaluate_features` has measured it for their towers.

    Args:
        first, second: the releases.
        recorded: the ledger's rows.
    """
    before, after = dict(first.parts), dict(second.parts)
    gates = {name: value for name, value, *_ in first.gates}
    other = {name: value for name, value, *_ in second.gates}
    return {
        "releases": [first.release_id, second.release_id],
        "models": _changed(first.models, second.models),
        "same_space": first.space == second.space,
        **_kept(first, second, recorded),
        "encoder": _changed({"encoder": first.encoder_id}, {"encoder": second.encoder_id}),
        "days_added": _days(after.keys() - before.keys()),
        "days_gone": _days(before.keys() - after.keys()),
        "days_with_other_rows": _days(
            day for day in before.keys() & after.keys() if before[day].release_id != after[day].release_id
        ),
        "rows": {name: [_counts(first)[name], _counts(second)[name]] for name in _COUNTS},
        "widths": _changed(first.widths, second.widths),
        "gates": _changed(gates, other),
    }


def _kept(first: Release, second: Release, recorded: Iterable[Recorded]) -> dict[str, object]:
    towers = [release.models["towers"] for release in (first, second)]
    details = (row.details for row in recorded if row.step == EVALUATE_FEATURES)
    figures = [(EvaluationDetails.from_json(each).ranker or {}).get("kept", {}) for each in details]
    return next(({"kept": kept} for kept in figures if kept.get("towers") == towers), {})


def source_files(tables: Tables, release: Release) -> dict[str, object]:
    """How many files the events behind a release came from, and the last of them by name."""
    version = release.inputs["interactions"]
    try:
        events = tables.read("interactions", version).where(F.col("ds") < F.lit(max(release.days)))
        files = events.groupBy("source_file").agg(F.count(F.lit(1)).alias("events"), F.max("ds").alias("last_ds"))
        newest = files.orderBy(F.desc("last_ds"), F.desc("source_file")).limit(_FILES).collect()
        return {"count": files.count(), "newest": {row.source_file: row.events for row in newest}}
    except (ConfigError, PySparkException):
        return {"unknown": f"version {version} of interactions has been vacuumed"}


def lines_of(values: dict[str, object], indent: int = 0) -> list[str]:
    """Nested values as indented lines."""
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"{' ' * indent}{key}", *lines_of(value, indent + 2)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{' ' * indent}{key}", *(" " * (indent + 2) + _gate_line(entry) for entry in value)]
        else:
            lines.append(f"{' ' * indent}{key:<{max(1, 24 - indent)}} {value}")
    return lines


def _gate_line(gate: dict[str, object]) -> str:
    limits = ", ".join(f"{name} {gate[name]:g}" for name in ("lower", "upper") if gate[name] is not None)
    return f"{'ok    ' if gate['passed'] else 'FAILED'} {gate['name']:<32} {gate['value']:<12g} {limits}"


def _model(name: str, fingerprint: str, ledger: Ledger) -> dict[str, object]:
    """A model's training, as the ledger has it: its MLflow run, and the snapshots' manifests."""
    rows = [row for (step, _), row in ledger.recorded().items() if step == _TRAINERS[name] and row.name == fingerprint]
    if not rows:
        return {"fingerprint": fingerprint, "run": "not in the ledger any more"}
    training = TrainingDetails.from_json(rows[0].details)
    run = {key: value for key in _TRACKED if (value := getattr(training, key)) is not None}
    snapshots = {role: _snapshot(Path(path)) for role, path in training.snapshots.items()}
    return {"fingerprint": fingerprint, "folder": training.model, **run, "snapshots": snapshots}


def _snapshot(folder: Path) -> dict[str, object]:
    file = folder / MANIFEST
    if not file.is_file():
        return {"manifest": f"{file} is gone"}
    manifest = read_manifest(folder)
    return {
        "manifest": str(file),
        "source": f"{manifest.source_table} version {manifest.source_version}",
        "rows": manifest.rows,
        "files": len(manifest.files),
    }


def _forgotten_since(tables: Tables, release: Release) -> str:
    """The forget requests made since it was published, which may have taken rows away that its counts still include."""
    if release.published_at is None:
        return "nothing"
    published = release.published_at.astimezone(UTC)
    since = [one.request for one in requests_of(tables.root) if datetime.fromisoformat(one.asked_at) > published]
    return ", ".join(since) or "nothing"


def _counts(release: Release) -> dict[str, int]:
    return {name: sum(getattr(part, name) for part in release.parts.values()) for name in _COUNTS}


def _changed(first: Mapping[str, object], second: Mapping[str, object]) -> dict[str, object]:
    names = sorted(first.keys() | second.keys())
    return {name: [first.get(name), second.get(name)] for name in names if first.get(name) != second.get(name)}


def _days(days: Iterable[date]) -> str:
    found = sorted(days)
    return spans(found) if found else ""
