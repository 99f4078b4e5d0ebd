"""The commands that compare systems."""

from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from learn_spark.bridge.folders import require_writable
from learn_spark.cli.command import Call, Command, Outcome, Summary, names, numbers, with_config, with_plan
from learn_spark.cli.estimate import dry_run, needs_no_lake
from learn_spark.cli.runs import effects
from learn_spark.comparison.job import compare
from learn_spark.config.comparison import SystemSettings
from learn_spark.config.load import Config
from learn_spark.errors import NOTHING_TO_DO, QualityError
from learn_spark.lake.lock import lake_lock
from learn_spark.pipeline import as_plan, pipeline_days
from learn_spark.runs.plan import Plan, Standing
from learn_spark.runs.runner import RunOptions, run_plan
from learn_spark.runs.steps import BUILD_SEQUENCES, EMBED_ITEMS, INGEST_EVENTS, Context
from learn_spark.storage import require_mounted
from learn_spark.systems.specs import TOWER_VARIANTS, chosen_systems
from learn_spark.systems.trainings import planned_trainings, write_trainings

_STEPS = (INGEST_EVENTS, BUILD_SEQUENCES, EMBED_ITEMS)  # what a comparison needs


@dataclass(frozen=True)
class TrainingsSummary(Summary):
    """The missing trainings, from a dry run on a lake that has everything else that a comparison needs."""

    trainings: list[str]


@dataclass(frozen=True)
class PreparedSummary(Summary):
    """How many trainings are missing, with `--prepare`."""

    missing: int


@dataclass(frozen=True)
class ComparedSummary(Summary):
    """The content of the comparison's JSON file."""

    comparison: dict[str, object]


def _compare(call: Call, usual: Callable[[Config], Sequence[str]]) -> Outcome:
    """Runs the missing steps that a comparison needs, then compares; `--prepare` only writes the missing trainings."""
    args, config = call.args, call.config
    systems = args.systems or list(usual(config))
    seeds = list(dict.fromkeys(args.seeds or config.comparison.seeds))
    chosen = chosen_systems(config, systems)  # a wrong name is refused before any work
    if args.prepare:
        require_mounted(config.lake.root, f"{call.name} --prepare")
        require_writable(Path(args.prepare).absolute().parent, "--prepare")
    plan = as_plan(pipeline_days(config), _STEPS, args.restate)
    if args.dry_run and needs_no_lake(config):
        return dry_run(plan, config)
    with lake_lock(config.lake.root) as unlock, call.context() as context:
        context.tables.create_all()
        if args.dry_run:
            return _dry_run(plan, context, chosen, seeds)
        if plan.missing(Standing.of(context)):
            run_plan(plan, context, RunOptions())
        if args.prepare:
            missing = write_trainings(context, systems, seeds, Path(args.prepare))
            print(f"{missing} trainings are missing: {args.prepare}", flush=True)
            return Outcome(PreparedSummary(missing))
        comparison = compare(context, call.name, systems, seeds, unlock, args.final)
    diverged = ", ".join(comparison["diverged"])
    error = QualityError(f"the comparison lacks {diverged}: the loss was not finite") if diverged else None
    return Outcome(ComparedSummary(comparison), error=error)


def _dry_run(plan: Plan, context: Context, chosen: Mapping[str, SystemSettings], seeds: Sequence[int]) -> Outcome:
    """Prints the missing steps or, if there are none, the missing trainings."""
    outcome = dry_run(plan, context.config, context)
    if outcome.exit_code != NOTHING_TO_DO:
        print(f"then {len(chosen)} systems are compared, trained ones with {len(seeds)} seeds", flush=True)
        return outcome
    planned = planned_trainings(context, chosen, seeds)
    missing = [f"{training.system} with seed {training.seed}" for training in planned if not training.is_finished]
    print(f"trainings: {len(missing)} of {len(planned)} are missing", *missing, sep="\n  ", flush=True)
    return Outcome(TrainingsSummary(missing))


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--systems", type=names, metavar="A,B", help="instead of comparison.systems")
    parser.add_argument("--seeds", type=numbers, metavar="1,2", help="instead of comparison.seeds")
    parser.add_argument(
        "--final", action="store_true", help="rank the test rows, too: once, when the validation rows have decided"
    )
    parser.add_argument(
        "--prepare", metavar="FILE", help="train nothing: write the missing trainings' commands, for other machines"
    )


def _command(name: str, does: str, usual: Callable[[Config], Sequence[str]]) -> Command:
    reads = "the files of ingest.path, sequences, the content matrix"
    writes = f"models, output.dir/comparison/{name}_validation.json and .html (--final: {name}.…, too), MLflow runs"
    arguments = (with_config, with_plan, _arguments)
    return Command(name, does, arguments, partial(_compare, usual=usual), effects(reads, writes))


COMMANDS = (
    _command(
        "compare",
        "Trains what is missing of several systems and compares them on the validation rows, over seeds.",
        lambda config: config.comparison.systems,
    ),
    _command(
        "compare_towers",
        "As compare, of the item tower's variants: 1, 2, 3 and mlp.",
        lambda config: TOWER_VARIANTS,
    ),
)
