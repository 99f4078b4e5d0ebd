"""A command (its name, help and arguments), one call of it, and the outcome that it returns."""

import logging
import tempfile
import traceback
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from learn_spark.cli.endings import JvmGone, JvmWatch
from learn_spark.cli.outputs import require_outputs
from learn_spark.config.load import Config, load_config
from learn_spark.config.secrets import redacted
from learn_spark.errors import LearnError
from learn_spark.lake.forget_requests import open_requests
from learn_spark.lake.session import build_session, is_alive, is_lost_connection, said_by_jvm
from learn_spark.lake.tables import Tables
from learn_spark.pipeline import STEPS
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.runs.ledger import Ledger
from learn_spark.runs.progress import Progress
from learn_spark.runs.steps import Context
from learn_spark.storage import Place

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What a command writes to `--json-out`; fields that are None are left out."""

    def as_json(self) -> dict[str, object]:
        """The fields that are not None, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        summary: what it did.
        code: the exit code if there is no `error`.
        error: why it failed; there may be a summary nevertheless, such as that of an audit that found leakage.
    """

    summary: Summary = field(default_factory=Summary)
    code: int = 0
    error: LearnError | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of the process, for a scheduler: that of the error, if there is one."""
        return self.error.exit_code if self.error else self.code

    @property
    def reason(self) -> str | None:
        """The error in one line, without secrets."""
        return (" ".join(redacted(str(self.error)).split()) or type(self.error).__name__) if self.error else None


class Call:
    """A command as it was called: its arguments, the config that they name, and where its errors are kept."""

    def __init__(self, name: str, args: Namespace) -> None:
        self.name = name
        self.args = args
        self._started = datetime.now()

    @cached_property
    def config(self) -> Config:
        """The config, loaded on first use; raises what `load_config` raises."""
        return load_config(self.args.config, self.args.set or ())

    @property
    def log(self) -> Path:
        """The file for errors with their stacks, which the terminal does not show; the first error creates it."""
        return self.config.output.folder / "logs" / f"{self.name}-{self._started:%Y%m%d-%H%M%S}.log"

    def keep(self, text: str) -> Path:
        """Appends text, without its secrets, to the log; to a temporary file if no config is loaded or the log fails.

        Returns:
            The file.
        """
        text = redacted(text)
        if "config" in vars(self):
            with suppress(OSError):
                self.log.parent.mkdir(parents=True, exist_ok=True)
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(f"{text}\n")
                return self.log
        prefix = f"learn-spark-{self.name}-"
        with tempfile.NamedTemporaryFile("w", prefix=prefix, suffix=".log", delete=False, encoding="utf-8") as file:
            file.write(f"{text}\n")
        return Path(file.name)

    @contextmanager
    def context(self, repairs: bool = False) -> Iterator[Context]:
        """Opens a session on the config's lake, with progress lines; a caller that writes must hold the lake's lock.

        Raises:
            ConfigError: a table is missing, foreign or older than the ledger says; not checked if the caller `repairs`.
            JvmGone: Spark's JVM ended inside the block.
        """
        config = self.config
        require_outputs(config.output)
        spark = build_session(config, self.name, self.log)
        try:
            tables = Tables(spark, config.lake.root)
            ledger = Ledger(spark, tables)
            if not repairs:
                tables.require_own(ledger.seen())
            self._say_unfinished(config.lake.root)
            with Progress(spark) as progress, JvmWatch(spark):
                yield Context(config, spark, tables, ledger, Fingerprints(config, STEPS, ledger.recorded), progress)
        except Exception as error:
            if is_alive(spark, patience=2.0 if is_lost_connection(error) else 0.0):
                raise
            file = self.keep(f"{''.join(traceback.format_exception(error))}\nSpark's JVM said:\n{said_by_jvm()}")
            raise JvmGone(
                f"Spark's JVM is gone: it was killed, or ended for lack of memory; {file} has the rest"
            ) from None
        finally:
            with suppress(Exception):  # stopping a killed JVM fails, and must not hide why the work ended
                spark.stop()

    def _say_unfinished(self, root: Place) -> None:
        for request in open_requests(root) if self.name != "forget" else ():
            _log.warning(
                "warning: request %s of %s to forget users or items is not finished: `learn-spark forget --config %s`"
                " goes on with it",
                request.request,
                request.asked_at,
                self.args.config,
            )


@dataclass(frozen=True)
class Command:
    """A command of `learn-spark`.

    Attributes:
        name: with underscores; the command line takes dashes, too.
        help: what it does, in a sentence.
        arguments: each adds arguments to the command's parser.
        run: does it; prints results on stdout and logs the rest.
        details: further lines of its own `--help`.
    """

    name: str
    help: str
    arguments: Sequence[Callable[[ArgumentParser], None]]
    run: Callable[[Call], Outcome]
    details: str = ""


def with_config(parser: ArgumentParser) -> None:
    """Adds the arguments of every command that works on a lake."""
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML, as conf/demo.yaml")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="overrides one key, as spark.ui=true")
    parser.add_argument("--json-out", metavar="FILE", help="write a machine-readable summary")


def with_plan(parser: ArgumentParser) -> None:
    """Adds the arguments of every command that runs steps."""
    parser.add_argument("--restate", action="store_true", help="make anew what other code, config or input made")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def names(text: str) -> list[str]:
    """`A, B` -> [A, B]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> list[int]:
    """`1,2` -> [1, 2]."""
    if not all(name.isdecimal() for name in names(text)) or not names(text):
        raise ArgumentTypeError(f"{text!r} is no list of numbers; write 1,2,3")
    return [int(name) for name in names(text)]


def count(text: str) -> int:
    """Parses a whole number that is at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)
