"""The commands that run steps: each step by itself, the whole journey, a backfill."""

import logging
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import cast

from learn_spark.cli.command import Call, Command, Outcome, Summary, count, names, with_config, with_plan
from learn_spark.cli.estimate import dry_run, needs_no_lake
from learn_spark.config.load import Config
from learn_spark.errors import NOTHING_TO_DO, ConfigError, ReleaseRefused
from learn_spark.evaluation.report import publish_report
from learn_spark.evaluation.summary import REPORT, SUMMARY, headline, totals
from learn_spark.forgetting.models import due_lines, retrain_due
from learn_spark.lake.catalog import register
from learn_spark.lake.days import DayRange, contiguous
from learn_spark.lake.lock import lake_lock
from learn_spark.pipeline import STEPS, as_plan, backfill_days, pipeline_days
from learn_spark.releases.views import create_current_views
from learn_spark.runs.ledger import Recorded, pieces
from learn_spark.runs.memory import PeakMemory
from learn_spark.runs.plan import Plan, Standing
from learn_spark.runs.runner import RunOptions, RunReport, run_plan
from learn_spark.runs.steps import (
    BUILD_SEQUENCES,
    EMBED_ITEMS,
    EVALUATE_FEATURES,
    INGEST_EVENTS,
    TRAIN_CVR,
    TRAIN_TOWERS,
    WRITE_FEATURES,
    Context,
    StepName,
)
from learn_spark.sequences.counts import require_training_days

_log = logging.getLogger(__name__)
_RETURNS = (
    "returns  0 done, 99 nothing to do, 2 wrong config or arguments, 3 stopped by a quality gate,\n"
    "         75 try again later, 1 anything else"
)


@dataclass(frozen=True)
class RunSummary(Summary):
    """What a run did: days, sums and figures of each step, what failed with `--keep-going`, models to train again."""

    run_id: str
    steps: dict[str, object]
    failures: list[str]
    retrain_due: list[str]


def effects(reads: str, writes: str) -> str:
    """The lines of `--help` that say what a command touches and returns."""
    return f"reads    {reads}\nwrites   {writes}\n{_RETURNS}"


def _run(call: Call, asked: Callable[[Namespace, Config], Plan]) -> Outcome:
    """Runs what is missing. The runner gets the whole plan, since late events may make more of it stale on the way."""
    plan = asked(call.args, call.config)
    if plan.has(TRAIN_CVR) and call.config.sequences.protocol == "time":
        require_training_days(call.config)
    if call.args.dry_run and needs_no_lake(call.config):
        return dry_run(plan, call.config)
    with lake_lock(call.config.lake.root), PeakMemory() as memory, call.context() as context:
        context.tables.create_all()
        if call.args.dry_run:
            return dry_run(plan, call.config, context)
        if catalog := call.config.lake.catalog:
            register(context.spark, catalog, call.config.lake.root)
            create_current_views(context.spark, catalog)
        todo = plan.missing(Standing.of(context))
        report = None
        if todo:
            try:
                report = run_plan(plan, context, _options(call.args))
            except ReleaseRefused:
                _show_refusal(context, memory)
                raise
        else:
            context.progress.say("nothing is missing, nothing was recomputed")
        return _ended(call.name, plan, report, context, memory)


def _options(args: Namespace) -> RunOptions:
    return RunOptions(**{key: getattr(args, key) for key in ("step_days", "max_parallel", "keep_going") if key in args})


def _ended(name: str, plan: Plan, report: RunReport | None, context: Context, memory: PeakMemory) -> Outcome:
    """Writes the report if the plan has the evaluation, prints failures and due trainings, and returns the summary."""
    failures = report.failures if report else []
    if plan.has(EVALUATE_FEATURES) and not failures:
        if report or not (context.config.output.folder / SUMMARY).exists():
            publish_report(context, memory.peak_mb)
        print(headline(context.config), flush=True)
    if any(isinstance(failure.error, ReleaseRefused) for failure in failures):
        _show_refusal(context, memory)
    for failure in failures:
        _log.error("%s: error: %s", name, failure)
    due = retrain_due(context)
    print(*due_lines(due), sep="\n", end="\n" if due else "", flush=True)
    if report is None:
        return Outcome(code=NOTHING_TO_DO)
    summary = RunSummary(report.run_id, steps_done(report, context), [str(failure) for failure in failures], due)
    return Outcome(summary, failures[0].error.exit_code if failures else 0)


def _show_refusal(context: Context, memory: PeakMemory) -> None:
    publish_report(context, memory.peak_mb)
    print(f"report     {context.config.output.dir / REPORT}", flush=True)


def steps_done(report: RunReport, context: Context) -> dict[str, object]:
    """Each step's days, sums and own figures; also per piece, if the step was done in several pieces."""
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


def _asked_range(args: Namespace, config: Config) -> DayRange | None:
    start, end = getattr(args, "start", None), getattr(args, "end", None)
    if start is None and end is None:
        return None
    if start is None or end is None:
        raise ConfigError("give --start and --end together; the end is exclusive")
    days = DayRange(start, end)
    if days.start < config.ingest.start:
        raise ConfigError(f"--start {days.start} lies before ingest.start {config.ingest.start}")
    return days


def _asked_steps(args: Namespace) -> list[StepName]:
    asked = names(args.steps or "")
    unknown = [step for step in asked if step not in STEPS]
    if unknown:
        raise ConfigError(f"--steps names {', '.join(unknown)}; there are {', '.join(STEPS)}")
    return cast(list[StepName], asked)  # checked above


def _step_plan(args: Namespace, config: Config, name: StepName) -> Plan:
    """The step's days of the whole journey, or the days from `--start` to `--end` that the step can have."""
    asked = _asked_range(args, config)
    if asked is None:
        return as_plan(pipeline_days(config), [name], args.restate)
    days = [day for day in asked if STEPS[name].source or day >= config.windows.towers_end]
    if not days:
        raise ConfigError(f"{name} begins on windows.towers_end {config.windows.towers_end}; asked were {asked}")
    return as_plan({name: days}, restate=args.restate)


def _pipeline_plan(args: Namespace, config: Config) -> Plan:
    return as_plan(pipeline_days(config), _asked_steps(args), args.restate)


def _backfill_plan(args: Namespace, config: Config) -> Plan:
    asked = _asked_range(args, config)
    assert asked is not None, "--start and --end are required"
    return as_plan(backfill_days(config, asked), _asked_steps(args), args.restate, follow_late=True)


def _with_days(parser: ArgumentParser, required: bool = False) -> None:
    parser.add_argument("--start", type=_day, required=required, metavar="DAY", help="first day, as 2011-12-01")
    parser.add_argument("--end", type=_day, required=required, metavar="DAY", help="the day after the last")


def _with_pieces(parser: ArgumentParser) -> None:
    parser.add_argument("--steps", metavar="A,B", help="only these steps")
    parser.add_argument("--step-days", type=count, metavar="N", help="days of a step at once (all)")
    parser.add_argument(
        "--max-parallel", type=count, default=1, metavar="N", help="runs of ingest at once, with --step-days (1)"
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="after a failure do what does not need the failed days"
    )


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a day; write 2011-12-01") from None


def _with_rivals(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rivals",
        dest="set",
        action="append",
        type=lambda text: f"evaluation.rivals=[{text}]",
        metavar="NAME,…",
        help="systems whose features the ranker gets, too: evaluation.rivals",
    )


def _step(name: StepName, does: str, reads: str, writes: str, *own: Callable[[ArgumentParser], None]) -> Command:
    run = partial(_run, asked=partial(_step_plan, name=name))
    return Command(name, does, (with_config, with_plan, *own), run, effects(reads, writes))


_TRAINED = "a snapshot, a model folder, an MLflow run and model version"
COMMANDS = (
    _step(
        INGEST_EVENTS,
        "Turns raw daily log files into events and items; what cannot be used gets a reason.",
        "the files of ingest.path",
        "interactions, rejects, items, item_index",
        _with_days,
    ),
    _step(
        BUILD_SEQUENCES,
        "Builds histories and targets by as-of date, and the samples of all windows; audits leakage.",
        "interactions",
        "sequences, user_history, samples",
        _with_days,
    ),
    _step(
        EMBED_ITEMS,
        "Encodes every distinct new item text once with the frozen LLM, by a pandas UDF.",
        "items, item_index, the model folder",
        "item_text, content_embeddings, the memory-mapped content matrix",
    ),
    _step(
        TRAIN_TOWERS,
        "Trains user and item tower by all-action InfoNCE on a Petastorm-streamed snapshot.",
        "sequences, the content matrix",
        _TRAINED,
    ),
    _step(
        TRAIN_CVR,
        "Trains the conversion MLP on both towers' embeddings.",
        "samples, user_history, the towers",
        _TRAINED,
    ),
    _step(
        WRITE_FEATURES,
        "Scores users, items and pairs, checks the gates and publishes a release.",
        "user_history, item_index, samples, both models",
        "user_features, item_features, pair_features, releases (last)",
        _with_days,
    ),
    _step(
        EVALUATE_FEATURES,
        "Measures retrieval, and a ranker with and without the features; writes report and summary.",
        "the feature tables, samples, interactions, item_index",
        "output.dir/report/index.html, output.dir/summary.json, an MLflow artifact",
        _with_rivals,
    ),
    Command(
        "run_pipeline",
        "Runs the whole journey: whatever of it the ledger does not have yet.",
        (with_config, with_plan, _with_pieces),
        partial(_run, asked=_pipeline_plan),
        effects("the files of ingest.path", "every table, both models, report and summary"),
    ),
    Command(
        "run_backfill",
        "Runs the missing days' ingest, features and release, in order, with the models that there are.",
        (with_config, with_plan, _with_pieces, partial(_with_days, required=True)),
        partial(_run, asked=_backfill_plan),
        effects("the files of ingest.path, both models", "the days' rows of every table, a release"),
    ),
)
