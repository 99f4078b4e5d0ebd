"""`learn-spark <command> …`: the same arguments as `spark-submit jobs/<command>.py …`."""

import logging
import sys
from argparse import ArgumentParser, HelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from learn_spark import __version__
from learn_spark.cli import adoption, audits, compare, exports, inspect, releases, repair, runs
from learn_spark.cli.command import Call, Command, Outcome
from learn_spark.cli.troubles import Interrupted, in_a_line
from learn_spark.errors import LearnError
from learn_spark.evaluation.summary import write_json

COMMANDS: dict[str, Command] = {
    command.name: command
    for family in (runs, audits, compare, releases, adoption, repair, exports, inspect)
    for command in family.COMMANDS
}
_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and runs the command; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and not given[0].startswith("-"):
        given[0] = given[0].replace("-", "_")  # compare-towers is compare_towers
    args = build_parser().parse_args(given)
    call = Call(args.job, args)
    with _logging(call):
        outcome = _outcome(call)
        if outcome.reason:
            _log.error("%s: error: %s", args.job, outcome.reason)
        if json_out := getattr(args, "json_out", None):
            return _write_summary(Path(json_out), args.job, outcome)
        return outcome.exit_code


def main_of(name: str) -> int:
    """What `jobs/<name>.py` runs."""
    return main([name, *sys.argv[1:]])


def build_parser() -> ArgumentParser:
    """Every command with its arguments."""
    parser = ArgumentParser(prog="learn-spark", description="Aligned LLM embeddings, from raw logs to feature tables.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="job", required=True, metavar="<job>")
    for command in COMMANDS.values():
        text = f"{command.help}\n\n{command.details}" if command.details else command.help
        formatter = RawDescriptionHelpFormatter if command.details else HelpFormatter
        own = commands.add_parser(command.name, help=command.help, description=text, formatter_class=formatter)
        for add_arguments in command.arguments:
            add_arguments(own)
    return parser


def _outcome(call: Call) -> Outcome:
    """What the command returns; any error as an outcome with a reason in one line."""
    try:
        return COMMANDS[call.name].run(call)
    except LearnError as error:
        return Outcome(error=error)
    except KeyboardInterrupt:
        return Outcome(error=Interrupted("interrupted; the same command goes on where it stopped"))
    except Exception as error:
        return Outcome(error=in_a_line(error, call.keep))


def _write_summary(file: Path, job: str, outcome: Outcome) -> int:
    error = {"error": outcome.reason} if outcome.reason else {}
    try:
        write_json(file, {"job": job, **outcome.summary.as_json(), **error, "exit_code": outcome.exit_code})
    except OSError as cause:
        _log.error("%s: error: --json-out %s cannot be written: %s", job, file, cause.strerror)
        return outcome.exit_code or LearnError.exit_code
    return outcome.exit_code


class _Handler(logging.Handler):
    """Hands each message to a function."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__(logging.INFO)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(self.format(record))


@contextmanager
def _logging(call: Call) -> Iterator[None]:
    """Prints our own messages on stderr; keeps what py4j says of a JVM that is gone in the call's log."""
    ours, py4j = logging.getLogger("learn_spark"), logging.getLogger("py4j")
    on_stderr, in_log = _Handler(lambda text: print(text, file=sys.stderr, flush=True)), _Handler(call.keep)
    level = ours.level
    ours.addHandler(on_stderr)
    ours.setLevel(logging.INFO)
    py4j.addHandler(in_log)
    try:
        yield
    finally:
        ours.removeHandler(on_stderr)
        ours.setLevel(level)
        py4j.removeHandler(in_log)


if __name__ == "__main__":
    sys.exit(main())
