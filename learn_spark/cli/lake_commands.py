"""Commands beside the steps: releases, the point-in-time join for consumers, the upkeep of the tables."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from learn_spark.bridge.folders import require_absent
from learn_spark.config.load import Config, load_config
from learn_spark.errors import ConfigError
from learn_spark.features.maintenance import maintain_tables
from learn_spark.lake.lock import lake_lock
from learn_spark.lake.session import build_session
from learn_spark.lake.tables import Tables
from learn_spark.pipeline import STEPS
from learn_spark.releases.join import join_features
from learn_spark.releases.join_audit import audit_join
from learn_spark.releases.lineage import compared, lines_of, listed, shown
from learn_spark.releases.online import export_online
from learn_spark.releases.registry import CURRENT, find_release, releases, roll_back
from learn_spark.releases.vectors import export_vectors
from learn_spark.runs.fingerprints import Marks
from learn_spark.runs.ledger import Ledger
from learn_spark.runs.progress import Progress
from learn_spark.runs.steps import Context
from learn_spark.sequences.audit import AuditFigure, require_no_leak

Summary = dict[str, object]
ACTIONS = ("list", "show", "diff", "rollback")


@dataclass(frozen=True)
class LakeCommand:
    """A command on a lake that is there: what `--help` says, its arguments, and what it does."""

    name: str
    does: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Context, Namespace, Summary], None]
    writes: Callable[[Namespace], bool]


def run_lake_command(name: str, args: Namespace, summary: Summary) -> int:
    """Runs one; only those that write to the lake take its lock.

    Raises:
        LearnError: what the command raises; where there is no lake, with the way out.
    """
    command = LAKE_COMMANDS[name]
    config = load_config(args.config, args.set or ())
    if not (config.lake.root / "releases").is_dir():
        raise ConfigError(f"there is no lake with releases at {config.lake.root}; run write_features first")
    with lake_lock(config.lake.root) if command.writes(args) else nullcontext(), _context(config, name) as context:
        command.run(context, args, summary)
    return 0


@contextmanager
def _context(config: Config, name: str) -> Iterator[Context]:
    spark = build_session(config, name)
    try:
        tables = Tables(spark, config.lake.root)
        ledger = Ledger(spark, tables)
        with Progress(spark) as progress:
            yield Context(config, spark, tables, ledger, Marks(config, STEPS, ledger.recorded), progress)
    finally:
        spark.stop()


def _release_arguments(command: ArgumentParser) -> None:
    command.add_argument("action", choices=ACTIONS, help="list all, show one, diff two, or rollback to an older one")
    command.add_argument("names", nargs="*", metavar="RELEASE", help=f"release ids, or {CURRENT}")


def _release(context: Context, args: Namespace, summary: Summary) -> None:
    names, most = args.names, {"list": 0, "show": 1, "diff": 2, "rollback": 1}[args.action]
    if len(names) > most or (args.action == "diff" and not names):
        raise ConfigError(f"release {args.action} takes {'1 or 2' if most == 2 else f'at most {most}'} release ids")
    {"list": _list, "show": _show, "diff": _diff, "rollback": _roll_back}[args.action](context, names, summary)


def _list(context: Context, names: list[str], summary: Summary) -> None:
    summary["releases"] = [listed(release) for release in releases(context.tables)]
    current = next((line["release"] for line in summary["releases"] if line["status"] == "published"), None)
    for line in summary["releases"]:
        sign = "*" if line["release"] == current else " "
        print(f"{sign} {line['release']}  {line['status']:<12}{line['published_at']}  {line['days']}", flush=True)


def _show(context: Context, names: list[str], summary: Summary) -> None:
    release = find_release(context.tables, *(names or [CURRENT]), readable=False)
    summary["release"] = shown(release, context.tables, context.ledger)
    print("\n".join(lines_of(summary["release"])), flush=True)


def _diff(context: Context, names: list[str], summary: Summary) -> None:
    """One name is compared with the current release."""
    pair = names if len(names) == 2 else [*names, CURRENT]
    first, second = (find_release(context.tables, name, readable=False) for name in pair)
    summary["diff"] = compared(first, second)
    print("\n".join(lines_of(summary["diff"])), flush=True)


def _roll_back(context: Context, names: list[str], summary: Summary) -> None:
    """The withdrawn days are stale: the next run makes them again, once their cause is mended."""
    withdrawn = roll_back(context.tables, *names)
    recorded = context.ledger.recorded()
    days = {("write_features", day) for release in withdrawn for day in release.days}
    context.ledger.mark_stale(sorted(days & recorded.keys()))
    current = find_release(context.tables)
    summary["withdrawn"] = [release.release_id for release in withdrawn]
    summary["current"] = current.release_id
    print(f"rolled back {', '.join(summary['withdrawn'])}; current is {current.release_id}", flush=True)


def _export_arguments(command: ArgumentParser) -> None:
    command.add_argument("--out", required=True, metavar="PATH", help="where to write; must not exist yet")
    command.add_argument("--release", default=CURRENT, metavar="ID", help=f"a release id ({CURRENT})")


def _join_arguments(command: ArgumentParser) -> None:
    command.add_argument("--samples", required=True, metavar="PATH", help="a Delta or Parquet folder with ids and days")
    _export_arguments(command)
    command.add_argument("--format", choices=("delta", "parquet"), default="parquet", help="of the output (parquet)")
    command.add_argument("--max-age-days", type=int, metavar="N", help="older rows are unknown (releases.max_age_days)")
    command.add_argument("--pairs", action="store_true", help="add the conversion model's mid_emb and cvr_score")


def _join(context: Context, args: Namespace, summary: Summary) -> None:
    out = Path(args.out).absolute()
    require_absent(out)
    release = find_release(context.tables, args.release)
    samples = context.tables.read_samples(Path(args.samples).absolute())
    age = context.config.releases.max_age_days if args.max_age_days is None else args.max_age_days
    rows = join_features(samples, context.tables.root, release.release_id, age, args.pairs)
    context.tables.export(rows, out, args.format)
    summary["release"] = release.release_id
    summary["out"] = str(out)
    print(f"joined release {release.release_id} to {args.samples}: {out}", flush=True)


def _join_audit_arguments(command: ArgumentParser) -> None:
    command.add_argument("--joined", required=True, metavar="PATH", help="a Delta or Parquet folder with vectors")
    command.add_argument("--release", default=CURRENT, metavar="ID", help=f"a release id ({CURRENT})")


def _audit_join(context: Context, args: Namespace, summary: Summary) -> None:
    release = find_release(context.tables, args.release)
    joined = context.tables.read_samples(Path(args.joined).absolute())
    summary["release"] = release.release_id
    show_audit(audit_join(joined, context.tables, release, context.config.releases.max_age_days), summary)


def show_audit(figures: list[AuditFigure], summary: Summary) -> None:
    """Prints an audit's figures and puts them into the summary.

    Raises:
        QualityError: where any rule is broken.
    """
    summary["audit"] = [vars(figure) for figure in figures]
    print(*figures, sep="\n", flush=True)
    require_no_leak(figures)


def _online_arguments(command: ArgumentParser) -> None:
    _export_arguments(command)
    command.add_argument("--no-onnx", action="store_true", help="no .onnx files, whose packages are an extra (online)")


def _online(context: Context, args: Namespace, summary: Summary) -> None:
    release = find_release(context.tables, args.release)
    out = Path(args.out).absolute()
    formats = ["pt2"] if args.no_onnx else ["pt2", "onnx"]
    summary.update(export_online(context, release, out, formats), release=release.release_id, out=str(out))
    print(
        f"exported the models of release {release.release_id}, as {' and '.join(formats)} and pyfunc: {out}", flush=True
    )


def _vector_arguments(command: ArgumentParser) -> None:
    _export_arguments(command)
    kinds = ("hnsw", "ivf", "flat", "none")
    command.add_argument("--index", choices=kinds, default="hnsw", help="of faiss, an extra (ann); hnsw")


def _vectors(context: Context, args: Namespace, summary: Summary) -> None:
    release = find_release(context.tables, args.release)
    out = Path(args.out).absolute()
    about = export_vectors(context, release, out, args.index)
    summary.update(about, release=release.release_id, out=str(out))
    for name, part in {**about["copies"], **({args.index: about["index"]} if "index" in about else {})}.items():
        print(f"{name:<8} {part['bytes']:>14,} bytes  recall@{about['k']} {part['recall']:.4f}", flush=True)
    print(f"exported {about['items']:,} item vectors of release {release.release_id}: {out}", flush=True)


def _maintain(context: Context, args: Namespace, summary: Summary) -> None:
    summary.update(maintain_tables(context))
    print("\n".join(lines_of({key: summary[key] for key in ("kept", "expired", "tables")})), flush=True)


LAKE_COMMANDS = {
    command.name: command
    for command in (
        LakeCommand(
            "release",
            "Lists, shows with lineage, compares and withdraws releases of the feature tables.",
            _release_arguments,
            _release,
            writes=lambda args: args.action == "rollback",
        ),
        LakeCommand(
            "join_features",
            "Joins a table of samples with what a release knew before each sample's day.",
            _join_arguments,
            _join,
            writes=lambda args: False,
        ),
        LakeCommand(
            "audit_join",
            "Audits a joined table, whoever joined it: no vector may be from after its sample's day.",
            _join_audit_arguments,
            _audit_join,
            writes=lambda args: False,
        ),
        LakeCommand(
            "export_online",
            "Writes a release's towers and conversion model for a server: torch.export, ONNX, an MLflow model.",
            _online_arguments,
            _online,
            writes=lambda args: False,
        ),
        LakeCommand(
            "export_vectors",
            "Writes a release's item vectors: a faiss index, fp32, fp16 and int8 copies, and what each loses.",
            _vector_arguments,
            _vectors,
            writes=lambda args: True,
        ),
        LakeCommand(
            "maintain_tables",
            "Expires old releases, gathers small files, and deletes files that no kept version reads.",
            lambda command: None,
            _maintain,
            writes=lambda args: True,
        ),
    )
}
