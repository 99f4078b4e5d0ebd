"""`learn-spark <job> …`: the same arguments as `spark-submit jobs/<job>.py …`."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from datetime import date

from learn_spark import __version__
from learn_spark.cli.lake_commands import LAKE_COMMANDS
from learn_spark.cli.run_commands import JOBS, Job, run_job
from learn_spark.inspect.inspect import run_inspect

INSPECT = "inspect"
LOOKS = "Looks at unknown log files, says what they hold, and writes a first config; without Spark."


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and runs the job; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and not given[0].startswith("-"):
        given[0] = given[0].replace("-", "_")  # compare-towers is compare_towers
    args = build_parser().parse_args(given)
    return run_inspect(args) if args.job == INSPECT else run_job(args.job, args)


def build_parser() -> ArgumentParser:
    """Every job with its arguments."""
    parser = ArgumentParser(prog="learn-spark", description="Aligned LLM embeddings, from raw logs to feature tables.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="job", required=True, metavar="<job>")
    for job in JOBS.values():
        command = commands.add_parser(
            job.name, help=job.does, description=job.help, formatter_class=RawDescriptionHelpFormatter
        )
        _add_arguments(command, job)
    for known in LAKE_COMMANDS.values():
        command = commands.add_parser(known.name, help=known.does, description=known.does)
        known.add_arguments(command)
        _add_common(command)
    _add_inspect(commands.add_parser(INSPECT, help=LOOKS, description=LOOKS))
    return parser


def run_from_job_file(name: str, argv: Sequence[str] | None) -> int:
    """What `jobs/<name>.py` calls."""
    return main([name, *(sys.argv[1:] if argv is None else argv)])


def _add_inspect(command: ArgumentParser) -> None:
    command.add_argument("--path", required=True, metavar="P", help="a log file, or a folder of them")
    command.add_argument("--out", metavar="FILE", help="where to write the config; without it, to stdout")


def _add_common(command: ArgumentParser) -> None:
    command.add_argument("--config", required=True, metavar="FILE", help="YAML, as conf/demo.yaml")
    command.add_argument("--set", action="append", metavar="KEY=VALUE", help="overrides one key, as spark.ui=true")
    command.add_argument("--json-out", metavar="FILE", help="write a machine-readable summary")


def _add_arguments(command: ArgumentParser, job: Job) -> None:
    _add_common(command)
    command.add_argument("--restate", action="store_true", help="make anew what other code, config or input made")
    command.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    if job.is_run:
        command.add_argument("--steps", metavar="A,B", help="only these steps")
        command.add_argument("--step-days", type=_count, metavar="N", help="days of a step at once (all)")
        command.add_argument(
            "--max-parallel", type=_count, default=1, metavar="N", help="runs of ingest at once, with --step-days (1)"
        )
        command.add_argument(
            "--keep-going", action="store_true", help="after a failure do what does not need the failed days"
        )
    if job.compares:
        command.add_argument("--systems", type=_names, metavar="A,B", help="instead of comparison.systems")
        command.add_argument("--seeds", type=_numbers, metavar="1,2", help="instead of comparison.seeds")
        command.add_argument(
            "--prepare", metavar="FILE", help="train nothing: write the missing trainings' commands, for other machines"
        )
    if job.days != "none":
        required = job.days == "required"
        command.add_argument("--start", type=_day, required=required, metavar="DAY", help="first day, as 2011-12-01")
        command.add_argument("--end", type=_day, required=required, metavar="DAY", help="the day after the last")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a day; write 2011-12-01") from None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    if not all(name.isdecimal() for name in _names(text)) or not _names(text):
        raise ArgumentTypeError(f"{text!r} is no list of numbers; write 1,2,3")
    return [int(name) for name in _names(text)]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
