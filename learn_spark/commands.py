"""What every job reads, writes and returns, and how one runs: from the config to the exit code."""

import json
import sys
import traceback
from argparse import Namespace
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from learn_spark.core.config import Config, load_config
from learn_spark.core.days import DayRange, contiguous, spans
from learn_spark.core.errors import NOTHING_TO_DO, ConfigError, LearnError, TemporaryError
from learn_spark.core.ledger import Ledger
from learn_spark.core.progress import Progress
from learn_spark.core.session import build_session
from learn_spark.core.steps import Context, Marks, Plan, lake_lock, missing, run_plan
from learn_spark.core.tables import Tables
from learn_spark.estimate import estimate_lines
from learn_spark.evaluation.memory import PeakMemory
from learn_spark.evaluation.report import publish_report
from learn_spark.evaluation.summary import headline
from learn_spark.pipeline import STEPS, as_plan, backfill_days, pipeline_days

PIPELINE, BACKFILL = "run_pipeline", "run_backfill"


@dataclass(frozen=True)
class Job:
    """A command: what `--help` says of it, and whether a range of days can or must be given."""

    name: str
    does: str
    reads: str
    writes: str
    days: str = "none"  # none, optional or required

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
            "interactions, item_index",
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
            "evaluate_features",
            "Measures retrieval, and a ranker with and without the features; writes report and summary.",
            "the feature tables, samples, interactions, item_index",
            "output.dir/report/index.html, output.dir/summary.json, an MLflow artifact",
        ),
        Job(
            PIPELINE,
            "Runs the whole journey: whatever of it the ledger does not have yet.",
            "the files of ingest.path",
            "every table, both models, report and summary",
        ),
        Job(
            BACKFILL,
            "Runs the missing days' ingest, features and release, in order, with the models that there are.",
            "the files of ingest.path, both models",
            "the days' rows of every table, a release",
            "required",
        ),
    )
}


def run_job(name: str, args: Namespace) -> int:
    """Runs a job and turns every outcome into an exit code and, where asked, a JSON summary."""
    summary: dict[str, object] = {"job": name}
    try:
        code = _run(name, args, summary)
    except LearnError as error:
        code = _report_error(name, error, error.exit_code, summary)
    except KeyboardInterrupt:
        code = _report_error(name, ValueError("interrupted; the same command goes on where it stopped"), 130, summary)
    except Exception as error:
        known = _known_trouble(error)
        if known is None:
            traceback.print_exc()
        code = _report_error(name, known or error, known.exit_code if known else 1, summary)
    summary["exit_code"] = code
    if args.json_out:
        Path(args.json_out).write_text(json.dumps(summary, indent=2, default=str) + "\n", encoding="utf-8")
    return code


def _run(name: str, args: Namespace, summary: dict[str, object]) -> int:
    config = load_config(args.config, args.set or ())
    plan = as_plan(_asked_days(name, args, config), only=name if name in STEPS else None)
    if args.dry_run and not (config.lake.root / "intervals").exists():
        return _print_plan(plan, config, Marks(config, STEPS), "the lake is empty", summary)
    mark = Marks(config, STEPS)
    with lake_lock(config.lake.root), PeakMemory() as memory:
        spark = build_session(config, name)
        try:
            tables = Tables(spark, config.lake.root)
            tables.create_all()
            ledger = Ledger(spark, tables)
            todo = missing(plan, config, mark, ledger.recorded(), args.restate)
            if args.dry_run:
                return _print_plan(todo, config, mark, "missing in the ledger", summary)
            with Progress(spark) as progress:
                context = Context(config, spark, tables, ledger, mark, progress)
                return _execute(name, todo, context, memory, summary)
        finally:
            spark.stop()


def _execute(name: str, todo: Plan, context: Context, memory: PeakMemory, summary: dict[str, object]) -> int:
    if todo:
        summary["run_id"] = run_plan(todo, context)
        summary["steps"] = _steps_done(todo, context)
    else:
        context.progress.say("nothing is missing, nothing was recomputed")
    if name in (PIPELINE, "evaluate_features"):
        if todo or not (context.config.output.dir / "summary.json").exists():
            publish_report(context, memory.peak_mb)
        print(headline(context.config), flush=True)
    return 0 if todo else NOTHING_TO_DO


def _steps_done(todo: Plan, context: Context) -> dict[str, object]:
    recorded = context.ledger.recorded()
    done = {}
    for step, days in todo:
        row = recorded[step.name, days[-1]]
        done[step.name] = {
            "days": [str(span) for span in contiguous(days)],
            "rows_in": row.rows_in,
            "rows_out": row.rows_out,
            "seconds": row.seconds,
            **row.details,
        }
    return done


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
        raise ConfigError(f"{name} has no day before windows.towers_end {first}; asked were {days}")
    return {name: wanted}


def _print_plan(plan: Plan, config: Config, mark: Marks, why: str, summary: dict[str, object]) -> int:
    lines = [f"plan ({why}):"] if plan else ["plan: nothing is missing"]
    for number, (step, days) in enumerate(plan, start=1):
        lines.append(f"  {number}. {step.name:<18} {len(days):4d} days  {spans(days)}")
    print("\n".join([*lines, *estimate_lines(config)]), flush=True)
    summary["plan"] = {step.name: {str(day): mark(step.name, day) for day in days} for step, days in plan}
    return 0 if plan else NOTHING_TO_DO


def _report_error(name: str, error: Exception, code: int, summary: dict[str, object]) -> int:
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"{name}: error: {line}", file=sys.stderr, flush=True)
    summary["error"] = line
    return code


def _known_trouble(error: Exception) -> LearnError | None:
    """Troubles of the machine rather than of the job."""
    text = str(error)
    if getattr(error, "errno", None) == 28 or "No space left on device" in text:
        return TemporaryError(f"no space left on device; free some under lake.root or spark.local.dir: {text[:300]}")
    if "ConcurrentModificationException" in text or "ConcurrentAppendException" in text:
        return TemporaryError(f"another writer committed at the same time: {text[:300]}")
    return None
