"""Types for what steps read of one another in the ledger's `details`: their fields are the keys of the JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from learn_spark.runs.ledger import Recorded
from learn_spark.runs.steps import StepName


@dataclass(frozen=True)
class Details:
    """Figures of a step: written by it, read by later steps, the report and `release show`."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Reads a ledger row's details; keys that older versions did not write keep their defaults, others are ignored.

        Only the last day of a run's piece has details, so those of other days are all defaults.
        """
        return cls(**{each.name: values[each.name] for each in fields(cls) if each.name in values})

    def as_json(self) -> dict[str, Any]:
        """All fields, as `from_json` reads them."""
        return asdict(self)


@dataclass(frozen=True)
class IngestDetails(Details):
    """Details of `ingest_events`.

    Attributes:
        files, bytes: how many were read.
        bad_files: what is wrong with each file that cannot be read to its end.
        no_behaviour: lines without an event.
        not_wanted: lines that the config leaves out, by reason: filtered, ignored, too early.
        rejects: lines by reason.
        duplicates: copies of events.
        empty_days: days without a line.
        late: by event day, events that arrived in a later day's delivery.
        unmapped_columns: columns that no mapping uses.
        catalogue_lines, catalogue_rejects: lines of the item catalogue, and those by reason that cannot be used.
        id_types: types of the columns that hold ids.
    """

    files: int = 0
    bytes: int = 0
    bad_files: dict[str, str] = field(default_factory=dict)
    no_behaviour: int = 0
    not_wanted: dict[str, int] = field(default_factory=dict)
    rejects: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    empty_days: list[str] = field(default_factory=list)
    late: dict[str, int] = field(default_factory=dict)
    unmapped_columns: list[str] = field(default_factory=list)
    catalogue_lines: int = 0
    catalogue_rejects: dict[str, int] = field(default_factory=dict)
    id_types: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingDetails(Details):
    """Details of `train_towers` and `train_cvr`, as far as others read them.

    Attributes:
        model: the model's folder.
        snapshots: folders by role.
        result: what the trainer returned.
        curve: loss and quality by step.
        mlflow, mlflow_run_id, registered_model, model_version: where MLflow has it; None if MLflow could not be used.
    """

    model: str | None = None
    snapshots: dict[str, str] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    mlflow: str | None = None
    mlflow_run_id: str | None = None
    registered_model: str | None = None
    model_version: str | None = None


@dataclass(frozen=True)
class FeatureDetails(Details):
    """Details of `write_features`; the JSON also has the figures of `features.checks`.

    Attributes:
        release_id: of the release that the step published.
        users, items, pairs: rows of the release's own days.
        gates: each with value and limits.
        neighbours: the nearest neighbours of the most popular items.
    """

    release_id: str = ""
    users: int = 0
    items: int = 0
    pairs: int = 0
    gates: list[dict[str, Any]] = field(default_factory=list)
    neighbours: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class EvaluationDetails(Details):
    """Details of `evaluate_features`: the figures of both evaluations; None before the step has run."""

    retrieval: dict[str, Any] | None = None
    ranker: dict[str, Any] | None = None


def newest_details(recorded: Iterable[Recorded], step: StepName) -> dict[str, Any]:
    """The details of a step's newest day that has any, as they are in the ledger; empty if it has not run."""
    rows = [row for row in recorded if row.step == step and row.details]
    return max(rows, key=lambda row: row.day).details if rows else {}
