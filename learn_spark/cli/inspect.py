"""`learn-spark inspect`: a first config of unknown log files."""

from argparse import ArgumentParser
from pathlib import Path

from learn_spark.cli.command import Call, Command, Outcome
from learn_spark.errors import ConfigError
from learn_spark.inspect.first_config import first_config


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--path", required=True, metavar="P", help="a log file, or a folder of them")
    parser.add_argument("--out", metavar="FILE", help="where to write the config; without it, to stdout")


def _run(call: Call) -> Outcome:
    """Findings to stderr, the config to stdout or `--out`."""
    out = Path(call.args.out).absolute() if call.args.out else None
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists already; give another --out")
    text = first_config(Path(call.args.path).absolute())
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")
    return Outcome()


COMMANDS = (
    Command(
        "inspect",
        "Looks at unknown log files, says what they hold, and writes a first config; without Spark.",
        (_arguments,),
        _run,
    ),
)
