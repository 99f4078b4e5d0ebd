"""What every job reads, writes and returns, and how one runs: from the config to the exit code."""

import re
import sys
import traceback
from argparse import Namespace
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from learn_spark.cli.estimate import estimate_lines, expected_rows
from learn_spark.cli.lake_commands import LAKE_COMMANDS, run_lake_command, show_audit
from learn_spark.comparison.job import compare, write_trainings
from learn_spark.comparison.systems import TOWER_VARIANTS, chosen_systems
from learn_spark.config.load import Config, load_config
from learn_spark.embedding.cost import EmbeddingEstimate, embedding_estimate
from learn_spark.errors import NOTHING_TO_DO, ConfigError, LearnError, QualityError, ReleaseRefused, TemporaryError
from learn_spark.evaluation.report import publish_report
from learn_spark.evaluation.summary import REPORT, headline, totals, write_json
from learn_spark.lake.days import DayRange, contiguous, spans
from learn_spark.lake.lock import Release, lake_lock
from learn_spark.lake.session import build_session
from learn_spark.lake.tables import Tables
from learn_spark.pipeline import STEPS, as_plan, backfill_days, pipeline_days
from learn_spark.runs.fingerprints import Marks
from learn_spark.runs.ledger import Ledger, Recorded, Rows, pieces
from learn_spark.runs.memory import PeakMemory
from learn_spark.runs.plan import Plan, missing, with_stale_days
from learn_spark.runs.progress import Progress
from learn_spark.runs.runner import RunOptions, RunReport, run_plan
from learn_spark.runs.steps import Context
from learn_spark.sequences.audit import audit_sequences

PIPELINE, BACKFILL, EVALUATION, AUDIT = "run_pipeline", "run_backfill", "evaluate_features", "audit_leakage"
COMPARISON, VARIANTS = "compare", "compare_towers"
COMPARED = ("ingest_events", "build_sequences", "embed_items")  # the steps that a comparison stands on


@dataclass(frozen=True)
class Job:
    """A command: what `--help` says of it, and whether a range of days can or must be given."""

    name: str
    does: str
    reads: str
    writes: str
    days: str = "none"  # none, optional or required
    is_run: bool = False  # goes through several steps
    compares: bool = False

    @property
    def help(self) -> str:
        return (
            f"{self.does}\n\nreads    {self.reads}\nwrites   {self.writes}\n"
            "returns  0 done, 99 nothing to do, 2 wrong config or arguments, 3 stopped by a quality gate,\n"
            "         75 try again later, 1 anything else"
        )


JOBS = {
    job.name: job
    for job in (
        Job(
            "ingest_events",
            "Turns raw daily log files into events and items; what cannot be used gets a reason.",
            "the files of ingest.path",
            "interactions, rejects, items, item_index",
            "optional",
        ),
        Job(
            "build_sequences",
            "Builds histories and targets by as-of date, and the samples of all windows; audits leakage.",
            "interactions",
            "sequences, user_history, samples",
            "optional",
        ),
        Job(
            "embed_items",
            "Encodes every distinct new item text once with the frozen LLM, by a pandas UDF.",
            "items, item_index, the model folder",
            "item_text, content_embeddings, the memory-mapped content matrix",
        ),
        Job(
            "train_towers",
            "Trains user and item tower by all-action InfoNCE on a Petastorm-streamed snapshot.",
            "sequences, the content matrix",
            "a snapshot, a model folder, an MLflow run and model version",
        ),
        Job(
            "train_cvr",
            "Trains the conversion MLP on both towers' embeddings.",
            "samples, user_history, the towers",
            "a snapshot, a model folder, an MLflow run and model version",
        ),
        Job(
            "write_features",
            "Scores users, items and pairs, checks the gates and publishes a release.",
            "user_history, item_index, samples, both models",
            "user_features, item_features, pair_features, releases (last)",
            "optional",
        ),
        Job(
            AUDIT,
            "Audits every sequence, history and sample of the lake for leakage from later days.",
            "sequences, user_history, samples",
            "nothing; prints the figures, exit code 3 where a rule is broken",
        ),
        Job(
            EVALUATION,
            "Measures retrieval, and a ranker with and without the features; writes report and summary.",
            "the feature tables, samples, interactions, item_index",
            "output.dir/report/index.html, output.dir/summary.json, an MLflow artifact",
        ),
        Job(
            COMPARISON,
            "Trains what is missing of several systems and compares them on the test rows, over seeds.",
            "the files of ingest.path, sequences, the content matrix",
            "models, output.dir/comparison/compare.json and .html, an MLflow run",
            compares=True,
        ),
        Job(
            VARIANTS,
            "As compare, of the item tower's variants: 1, 2, 3 and mlp.",
            "the files of ingest.path, sequences, the content matrix",
            "models, output.dir/comparison/compare_towers.json and .html, an MLflow run",
            compares=True,
        ),
        Job(
            PIPELINE,
            "Runs the whole journey: whatever of it the ledger does not have yet.",
            "the files of ingest.path",
            "every table, both models, report and summary",
            is_run=True,
        ),
        Job(
            BACKFILL,
            "Runs the missing days' ingest, features and release, in order, with the models that there are.",
            "the files of ingest.path, both models",
            "the days' rows of every table, a release",
            "required",
            is_run=True,
        ),
    )
}


def run_job(name: str, args: Namespace) -> int:
    """Runs a job and turns every outcome into an exit code and, where asked, a JSON summary."""
    summary: dict[str, object] = {"job": name}
    try:
        code = (run_lake_command if name in LAKE_COMMANDS else _run)(name, args, summary)
    except LearnError as error:
        code = _report_error(name, error, error.exit_code, summary)
    except KeyboardInterrupt:
        code = _report_error(name, ValueError("interrupted; the same command goes on where it stopped"), 130, summary)
    except Exception as error:
        known = known_trouble(error)
        if known is None:
            traceback.print_exc()
        code = _report_error(name, known or error, known.exit_code if known else 1, summary)
    summary["exit_code"] = code
    if args.json_out:
        write_json(Path(args.json_out), summary)
    return code


def _run(name: str, args: Namespace, summary: dict[str, object]) -> int:
    config = load_config(args.config, args.set or ())
    if JOBS[name].compares:
        chosen_systems(config, _systems(name, args, config))
    plan = as_plan(_asked_days(name, args, config), only=_asked_steps(name, args))
    if args.dry_run and not (config.lake.root / "intervals").exists():
        return _print_plan(plan, config, {}, summary)
    with lake_lock(config.lake.root) as release_lake, PeakMemory() as memory:
        spark = build_session(config, name)
        try:
            tables = Tables(spark, config.lake.root)
            tables.create_all()
            ledger = Ledger(spark, tables)
            mark = Marks(config, STEPS, ledger.recorded)
            with Progress(spark) as progress:
                context = Context(config, spark, tables, ledger, mark, progress)
                if name == AUDIT:
                    return _audit(context, summary)
                recorded = ledger.recorded()
                followed = with_stale_days(plan, recorded) if name == BACKFILL else plan
                todo = missing(followed, config, mark, recorded, args.restate)
                if args.dry_run:
                    return _print_plan(todo, config, recorded, summary, _encoding(todo, context))
                if JOBS[name].compares:
                    return _compare(name, args, plan if todo else [], context, release_lake, summary)
                return _execute(name, plan, todo, context, _options(name, args), memory, summary)
        finally:
            spark.stop()


def _options(name: str, args: Namespace) -> RunOptions:
    given = {key: getattr(args, key) for key in ("step_days", "max_parallel", "keep_going") if hasattr(args, key)}
    return RunOptions(restate=args.restate, follow_late=name == BACKFILL, **given)


def _execute(
    name: str,
    plan: Plan,
    todo: Plan,
    context: Context,
    options: RunOptions,
    memory: PeakMemory,
    summary: dict[str, object],
) -> int:
    """Runs what is missing; the whole plan is gone through, as late events may make more of it stale on the way."""
    failures = []
    if todo:
        try:
            report = run_plan(plan, context, options)
        except ReleaseRefused:
            _show_refusal(context, memory)
            raise
        failures = report.failures
        summary["run_id"] = report.run_id
        summary["steps"] = steps_done(report, context)
        summary["failures"] = [str(failure) for failure in failures]
    else:
        context.progress.say("nothing is missing, nothing was recomputed")
    if name in (PIPELINE, EVALUATION) and not failures and _is_planned(EVALUATION, plan):
        if todo or not (context.config.output.dir / "summary.json").exists():
            publish_report(context, memory.peak_mb)
        print(headline(context.config), flush=True)
    if any(isinstance(failure.error, ReleaseRefused) for failure in failures):
        _show_refusal(context, memory)
    for failure in failures:
        print(f"{name}: error: {failure}", file=sys.stderr, flush=True)
    if failures:
        return failures[0].error.exit_code
    return 0 if todo else NOTHING_TO_DO


def _show_refusal(context: Context, memory: PeakMemory) -> None:
    publish_report(context, memory.peak_mb)
    print(f"report     {context.config.output.dir / REPORT}", flush=True)


def _is_planned(step: str, plan: Plan) -> bool:
    return any(planned.name == step for planned, _ in plan)


def _compare(
    name: str, args: Namespace, plan: Plan, context: Context, release_lake: Release, summary: dict[str, object]
) -> int:
    """Runs the missing steps that a comparison stands on, then compares, or writes down what has to be trained."""
    run_plan(plan, context, _options(name, args))
    seeds = list(dict.fromkeys(args.seeds or context.config.comparison.seeds))
    systems = _systems(name, args, context.config)
    if args.prepare:
        summary["missing"] = write_trainings(context, systems, seeds, Path(args.prepare))
        print(f"{summary['missing']} trainings are missing: {args.prepare}", flush=True)
    else:
        summary["comparison"] = comparison = compare(context, name, systems, seeds, release_lake)
        if comparison["diverged"]:
            raise QualityError(f"the comparison lacks {', '.join(comparison['diverged'])}: the loss was not finite")
    return 0


def _systems(name: str, args: Namespace, config: Config) -> list[str]:
    return args.systems or (list(TOWER_VARIANTS) if name == VARIANTS else config.comparison.systems)


def _audit(context: Context, summary: dict[str, object]) -> int:
    show_audit(audit_sequences(context.tables, context.config), summary)
    return 0


def steps_done(report: RunReport, context: Context) -> dict[str, object]:
    """Each step's days, sums and own figures; of several pieces, the figures piece by piece."""
    recorded = context.ledger.recorded()
    done = {}
    for step, days in report.done:
        parts = [_figures(rows) | rows[-1].details for rows in pieces(recorded[step.name, day] for day in days)]
        if parts:
            whole = _figures([recorded[step.name, day] for day in days])
            done[step.name] = parts[0] if len(parts) == 1 else whole | {"pieces": parts}
    return done


def _figures(rows: list[Recorded]) -> dict[str, object]:
    return {"days": [str(span) for span in contiguous(row.day for row in rows)], **totals(rows)}


def _asked_days(name: str, args: Namespace, config: Config) -> dict[str, list[date]]:
    start, end = getattr(args, "start", None), getattr(args, "end", None)
    if start is None and end is None:
        return pipeline_days(config)
    if start is None or end is None:
        raise ConfigError("give --start and --end together; the end is exclusive")
    days = DayRange(start, end)
    if days.start < config.ingest.start:
        raise ConfigError(f"--start {days.start} lies before ingest.start {config.ingest.start}")
    if name == BACKFILL:
        return backfill_days(config, days)
    first = config.ingest.start if name == "ingest_events" else config.windows.towers_end
    wanted = [day for day in days if day >= first]
    if not wanted:
        raise ConfigError(f"{name} begins on windows.towers_end {first}; asked were {days}")
    return {name: wanted}


def _asked_steps(name: str, args: Namespace) -> list[str]:
    """The steps of a run: of a job its own, else those of `--steps`, else all."""
    if name in STEPS:
        return [name]
    if JOBS[name].compares:
        return list(COMPARED)
    asked = [step for step in (getattr(args, "steps", None) or "").split(",") if step]
    unknown = [step for step in asked if step not in STEPS]
    if unknown:
        raise ConfigError(f"--steps names {', '.join(unknown)}; there are {', '.join(STEPS)}")
    return asked


def _encoding(todo: Plan, context: Context) -> EmbeddingEstimate | None:
    """What a planned embedding run will cost, by the items that there are and those that deliveries will bring."""
    days = {step.name: its for step, its in todo}
    if "embed_items" not in days:
        return None
    return embedding_estimate(context, max(days["embed_items"]), len(days.get("ingest_events", ())))


def _print_plan(
    plan: Plan,
    config: Config,
    recorded: Rows,
    summary: dict[str, object],
    encoding: EmbeddingEstimate | None = None,
) -> int:
    """Days, tables and sizes: as recorded days had them; without any, from the config's `scale`."""
    estimate: dict[str, object] = {}
    lines = ["plan (what the ledger does not have):"] if plan else ["plan: nothing is missing"]
    for number, (step, days) in enumerate(plan, start=1):
        rows = expected_rows(step.name, len(days), recorded)
        if encoding and step.name == "embed_items":
            rows = encoding.texts + encoding.expected
        estimate[step.name] = rows
        size = f"about {rows:,} rows" if rows is not None else "rows: see below"
        lines.append(f"  {number}. {step.name:<18} {len(days):4d} days  {spans(days)}")
        lines.append(f"     {size:<24} -> {', '.join(step.writes) or 'a model'}")
    if encoding:
        lines.append(f"  {encoding}")
        summary["encoding"] = asdict(encoding)
    if None in estimate.values() or not recorded:
        lines += estimate_lines(config)
    print("\n".join(lines), flush=True)
    summary["plan"] = {step.name: [str(day) for day in days] for step, days in plan}
    summary["rows"] = estimate
    return 0 if plan else NOTHING_TO_DO


def _report_error(name: str, error: Exception, code: int, summary: dict[str, object]) -> int:
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"{name}: error: {line}", file=sys.stderr, flush=True)
    summary["error"] = line
    return code


def known_trouble(error: Exception) -> LearnError | None:
    """Troubles of machine and lake rather than of the job, in a line; None for any other error."""
    text = str(error)
    if getattr(error, "errno", None) == 28 or "No space left on device" in text:
        return TemporaryError(f"no space left on device; free some under lake.root or spark.local.dir: {text[:300]}")
    if "ConcurrentModificationException" in text or "ConcurrentAppendException" in text:
        return TemporaryError(f"another writer committed at the same time: {text[:300]}")
    if "FILE_NOT_EXIST" in text or "FileNotFoundException" in text:
        named = re.search(r"\S+\.parquet", text)
        return ConfigError(
            f"a data file is gone, deleted or vacuumed by something else than maintain_tables:"
            f" {named.group() if named else text[:300]}; make its days again, or bring it back"
        )
    return None
