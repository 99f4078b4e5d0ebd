"""A sweep removes everything that is forgotten from a lake: it searches, then deletes or changes what it has found.

The order ensures that a kill at any point leaves more to do, never less. The request's file and the tombstones are
written first, so that nothing is ingested again; then models are marked, while the snapshots still show what they
learned from; then files are deleted, matrices and tables rewritten (each table in one commit), and the tables' history
is cut; last, the request becomes `done`. The search is by the tombstones' hashes, so a repeated sweep finds what is
left.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from learn_spark.config.secrets import redacted
from learn_spark.forgetting.held_files import Doomed, Sought, doomed_files, matrices_with, take_away, without_rows
from learn_spark.forgetting.models import Learned, learned_models, mark
from learn_spark.forgetting.rows import SEARCHED, Gone, affected, numbers_of, searched_columns, sweep
from learn_spark.lake.forget_requests import CERTIFICATE, Request, place_of, write_request
from learn_spark.lake.schemas import TABLES
from learn_spark.lake.tables import Tables
from learn_spark.lake.tombstones import ITEM, USER, add_tombstones, tombstones_of
from learn_spark.runs.steps import Context
from learn_spark.storage import Location, Place, write_whole
from learn_spark.training.mlflow_runs import tracking_uri
from models.contract.verified import file_digest

_COPIES = (
    "copies of its files on other machines (LEARN_SPARK_CACHE), which these throw away when they next look; what"
    " runs that were killed there have left, and what the store itself keeps of deleted files (versions of a bucket)"
)


@dataclass(frozen=True)
class Sweep:
    """The plan of a sweep; `--dry-run` prints it.

    Attributes:
        requests: the requests that it completes.
        gone: what is searched for.
        rows: by table and partition, how many rows are deleted or changed.
        files: the files to delete.
        matrices: content matrices, and their rows that become zeros.
        models: the models that learned from what is removed.
        tables: map a path of this machine's copies to its place in the lake.
    """

    requests: Sequence[Request]
    gone: Gone
    rows: Mapping[str, Mapping[object, int]]
    files: Sequence[Doomed]
    matrices: Mapping[Path, Sequence[int]]
    models: Sequence[Learned]
    tables: Tables

    def is_needed(self) -> bool:
        """Whether anything is found."""
        return any(self.rows.values()) or bool(self.files or self.matrices)

    def found(self) -> dict[str, dict[str, object]]:
        """What was found, by place."""
        found: dict[str, dict[str, object]] = {}
        for name, parts in self.rows.items():
            if parts:
                found[f"table {name}"] = {"rows": sum(parts.values())}
        for each in self.files:
            found[f"file {self._named(each.path)}"] = {"why": each.why, "sha256": _digest(each.path)}
        for folder, rows in self.matrices.items():
            found[f"matrix {self._named(folder)}"] = {"vectors": len(rows)}
        for model in self.models:
            found[f"model {model.folder.name}"] = {"why": model.why, "dropped": not model.is_kept}
        return found

    def lines(self) -> list[str]:
        """The plan in words."""
        users, items = (sum(request.count(kind) for request in self.requests) for kind in (USER, ITEM))
        lines = [f"forget {users:,} users and {items:,} items:"]
        for name, parts in self.rows.items():
            if parts:
                days = f" in {len(parts)} partitions" if TABLES[name].partition else ""
                lines.append(f"  {sum(parts.values()):,} rows of {name}{days}")
        lines += [f"  {len(rows)} vectors of {self._named(folder)}" for folder, rows in self.matrices.items()]
        lines += [f"  {self._named(each.path)}: {each.why}" for each in self.files]
        for model in self.models:
            lines.append(f"  {model.folder.name}: {'retrain due' if model.is_kept else 'dropped'}, {model.why}")
        lines.append(f"  then every older version and change feed of all {len(TABLES)} tables: who reads one loses it")
        return lines

    def _named(self, path: Place) -> Place:
        return self.tables.artifacts.place_of(path) if isinstance(path, Path) else path


def plan_sweep(context: Context, requests: Sequence[Request]) -> Sweep:
    """Searches all tables and files for what the requests name."""
    tables, stones = context.tables, tombstones_of(context.spark, requests)
    gone = Gone(stones, numbers_of(tables, stones))
    rows = {name: affected(tables, name, gone) for name in SEARCHED}
    hashes = {kind: frozenset(name for one in requests for name in one.hashes.get(kind, ())) for kind in (USER, ITEM)}
    sought = Sought(stones.salt, hashes, frozenset(gone.numbers))
    is_found = any(rows.values()) or any(request.found for request in requests)
    files = doomed_files(tables, context.config, sought, is_found)
    models = learned_models(tables.artifacts.path("models"), tables.artifacts.path("snapshots"), sought)
    return Sweep(requests, gone, rows, files, matrices_with(tables, gone.numbers), models, tables)


def run_sweep(context: Context, plan: Sweep) -> list[Place]:
    """Carries out the plan, and completes its requests.

    Returns:
        The certificates.
    """
    root, tables = context.tables.root, context.tables
    found = plan.found()
    requests = [replace(one, found={**found, **one.found}) for one in plan.requests]
    for request in requests:
        write_request(root, request)
        add_tombstones(tables, request)
    mark(plan.models, [request.request for request in requests])
    tables.artifacts.publish()
    dropped = [Doomed(model.folder, model.why) for model in plan.models if not model.is_kept]
    take_away(tables, context.config, [*plan.files, *dropped])
    for folder, rows in plan.matrices.items():
        without_rows(folder, list(rows))
    tables.artifacts.publish()
    tables.artifacts.cut_history()
    for name, parts in plan.rows.items():
        if parts:
            context.progress.say(f"{name}: {sum(parts.values()):,} rows")
            sweep(tables, name, plan.gone, list(parts))
    cut = {}
    for name in TABLES:
        cut[name] = {"version": tables.version(name), "log_files_removed": tables.cut_history(name)}
    certificates = [_certify(context, root, request, cut) for request in requests]
    for request in requests:
        write_request(root, request.ended())
    return certificates


def _certify(context: Context, root: Place, request: Request, cut: Mapping[str, Mapping[str, int]]) -> Place:
    """Writes the certificate: what was searched, found and done, without any id."""
    told = {
        "request": request.request,
        "asked_at": request.asked_at,
        "done_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "users": request.count(USER),
        "items": request.count(ITEM),
        "ids": "SHA-256 of the lake's salt and the id, in request.json beside this file",
        "searched": {
            "tables": {name: searched_columns(name) for name in SEARCHED},
            "files": ["snapshots", "models", "matrix", "comparisons", "evaluation", "_lost", "logs"],
        },
        "found": dict(request.found),
        "tables": {name: {**figures, "log_sha256": _log_digest(context, root / name)} for name, figures in cut.items()},
        "not_searched": _not_searched(context),
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    file = place_of(root, request) / CERTIFICATE
    write_whole(file, json.dumps({**told, "sha256": digest}, indent=1) + "\n")
    return file


def _not_searched(context: Context) -> list[str]:
    """Places that may hold copies which this program does not know or cannot reach."""
    config = context.config
    return [
        f"the raw files below {config.ingest.path}: they are yours; their lines are left out of every delivery",
        f"MLflow at {redacted(tracking_uri(config))}: it holds settings, figures and weights, no ids of users",
        "names of raw files, and titles, keywords and attributes of items: an id may be among their words",
        "what was exported (export_vectors, export_codes, export_online, join_features) or copied out of the lake, and"
        " its backups",
        *([_COPIES] if isinstance(config.lake.root, Location) else []),
        "weights of models marked `retrain due`, and vectors of other users that these models made",
    ]


def _log_digest(context: Context, table: Place) -> str:
    version = context.tables.version(table.name)
    return _digest(table / "_delta_log" / f"{version:020d}.json") or ""


def _digest(path: Place) -> str | None:
    """SHA-256 of a file, or of a folder's manifest; None if there is none."""
    file = path / "manifest.json" if path.is_dir() else path
    if not file.is_file():
        return None
    return file_digest(file) if isinstance(file, Path) else hashlib.sha256(file.read_bytes()).hexdigest()
