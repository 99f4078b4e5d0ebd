"""The command that takes over the days that an earlier version of the package recorded."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass

from learn_spark.cli.command import Call, Command, Outcome, Summary, names, with_config
from learn_spark.cli.releases import existing_lake
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import ConfigError
from learn_spark.pipeline import STEPS
from learn_spark.runs.adopt import plan_adoption
from learn_spark.runs.steps import EMBED_ITEMS


@dataclass(frozen=True)
class AdoptionSummary(Summary):
    """How many recorded days are current, adopted and refused, and the printed lines."""

    current: int
    adopted: int
    refused: int
    lines: Sequence[str]


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be adopted, and what refused; stop")
    told = "steps whose recorded days hold, whatever config, input or version they were made with"
    parser.add_argument("--accept", type=names, default=[], metavar="STEP,STEP", help=told)


def _adopt(call: Call) -> Outcome:
    args = call.args
    with existing_lake(call, writes=not args.dry_run) as context:
        matrix = matrix_path(context)
        if EMBED_ITEMS in args.accept and not matrix.is_dir():
            raise ConfigError(
                f"embed_items cannot be accepted: this config's encoder has no vectors in the lake ({matrix})"
            )
        plan = plan_adoption(context.config, STEPS, context.fingerprint, context.ledger.recorded(), args.accept)
        if not args.dry_run:
            context.ledger.adopt(plan.adopted)
    lines = plan.lines()
    done = "would adopt" if args.dry_run else "adopted"
    print(*lines, f"{done} {len(plan.adopted)} days, refused {len(plan.refused)}", sep="\n", flush=True)
    return Outcome(AdoptionSummary(len(plan.current), len(plan.adopted), len(plan.refused), lines))


COMMANDS = (
    Command(
        "adopt",
        "Takes over what an earlier release of this package recorded, without making it anew.",
        (_arguments, with_config),
        _adopt,
    ),
)
