"""`learn-spark <command> …`: the same arguments as `spark-submit jobs/<command>.py …`."""

import logging
import sys
from argparse import ArgumentParser, HelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

try:
    from learn_spark import __version__
    from learn_spark.bridge.folders import require_writable
    from learn_spark.cli import (
        adoption,
        audits,
        choose_content,
        compare,
        exports,
        forget,
        inspect,
        releases,
        repair,
        runs,
    )
    from learn_spark.cli.command import Call, Command, Outcome
    from learn_spark.cli.endings import Interrupted, signals_taken
    from learn_spark.cli.outputs import send_outputs
    from learn_spark.cli.troubles import in_a_line
    from learn_spark.config.secrets import redacted
    from learn_spark.errors import ConfigError, LearnError, TemporaryError
    from learn_spark.evaluation.summary import write_json
    from models.contract.failures import is_disk_full
except KeyboardInterrupt:  # Spark and pydantic take a second to import
    print("learn-spark: interrupted", file=sys.stderr)
    raise SystemExit(130) from None

COMMANDS: dict[str, Command] = {
    command.name: command
    for family in (runs, audits, compare, choose_content, releases, adoption, repair, forget, exports, inspect)
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
    with _logging(call), signals_taken():
        json_out = getattr(args, "json_out", None)
        refused = _refused(Path(json_out)) if json_out else None
        outcome = Outcome(error=refused) if refused else _outcome(call)
        if outcome.reason:
            _log.error("%s: error: %s", args.job, outcome.reason)
        if json_out and not refused:
            return _write_summary(Path(json_out), args.job, outcome)
        return outcome.exit_code


def main_of(name: str) -> int:
    """Runs one command: the entry point of `jobs/<name>.py`."""
    return main([name, *sys.argv[1:]])


def build_parser() -> ArgumentParser:
    """The parser for every command with its arguments."""
    parser = _Parser(prog="learn-spark", description="Aligned LLM embeddings, from raw logs to feature tables.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="job", required=True, metavar="<job>")
    for command in COMMANDS.values():
        text = f"{command.help}\n\n{command.details}" if command.details else command.help
        formatter = RawDescriptionHelpFormatter if command.details else HelpFormatter
        own = commands.add_parser(command.name, help=command.help, description=text, formatter_class=formatter)
        for add_arguments in command.arguments:
            add_arguments(own)
    return parser


class _Parser(ArgumentParser):
    """Repeats in its errors what was typed, but without secrets."""

    def error(self, message: str) -> NoReturn:
        super().error(redacted(message))


def _refused(json_out: Path) -> LearnError | None:
    """Why the summary will not be writable after the work; None if it will be."""
    if json_out.is_dir():
        return ConfigError(f"--json-out {json_out} is a folder: name a file")
    try:
        require_writable(json_out.absolute().parent, "--json-out")
    except LearnError as error:
        return error
    return None


def _outcome(call: Call) -> Outcome:
    """Runs the command; any error becomes an outcome with a one-line reason."""
    try:
        outcome = COMMANDS[call.name].run(call)
    except LearnError as error:
        outcome = Outcome(error=error)
    except KeyboardInterrupt as error:
        return Outcome(error=Interrupted(error))
    except Exception as error:
        outcome = Outcome(error=in_a_line(error, call.keep))
    return _with_outputs_sent(call, outcome)


def _with_outputs_sent(call: Call, outcome: Outcome) -> Outcome:
    """Sends the outputs to the store that output.dir names; a failure becomes the outcome's error if it has none."""
    if "config" in vars(call) and not getattr(call.args, "dry_run", False):
        try:
            send_outputs(call.config.output)
        except LearnError as error:
            return outcome if outcome.error else replace(outcome, error=error)
    return outcome


def _write_summary(file: Path, job: str, outcome: Outcome) -> int:
    error = {"error": outcome.reason} if outcome.reason else {}
    try:
        write_json(file, {"job": job, **outcome.summary.as_json(), **error, "exit_code": outcome.exit_code})
    except OSError as cause:
        _log.error("%s: error: --json-out %s cannot be written: %s", job, file, cause.strerror)
        return outcome.exit_code or (TemporaryError if is_disk_full(cause) else LearnError).exit_code
    return outcome.exit_code


class _Terminal(logging.Handler):
    """Prints each message, without its secrets, on stderr; silent once the terminal has been closed."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            print(redacted(self.format(record)), file=sys.stderr, flush=True)


class _Others(_Terminal):
    """Handles what libraries log: py4j's stacks of a dead JVM go to the call's log, the rest to stderr."""

    def __init__(self, keep: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        if "py4j" in Path(record.pathname).parts:
            self._keep(self.format(record))
        elif not _has_handlers(record.name):
            super().emit(record)


def _has_handlers(name: str) -> bool:
    """Whether a logger, or one above it except the root, has a handler of its own."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None and logger is not logging.getLogger():
        if logger.handlers:
            return True
        logger = logger.parent
    return False


@contextmanager
def _logging(call: Call) -> Iterator[None]:
    """Inside the block, prints our own messages and those of libraries on stderr."""
    ours, root = logging.getLogger("learn_spark"), logging.getLogger()
    terminal, others = _Terminal(logging.INFO), _Others(call.keep)
    level = ours.level
    ours.addHandler(terminal)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    root.addHandler(others)
    try:
        yield
    finally:
        root.removeHandler(others)
        ours.propagate = True
        ours.setLevel(level)
        ours.removeHandler(terminal)


if __name__ == "__main__":
    sys.exit(main())
