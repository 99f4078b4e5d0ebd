"""`learn-spark inspect` and `learn-spark init`: write a first config for unknown log files."""

import logging
import os
import shlex
from argparse import ArgumentParser
from pathlib import Path

from learn_spark.cli.command import Call, Command, Outcome
from learn_spark.cli.estimate import dry_run
from learn_spark.config.load import load_config
from learn_spark.errors import ConfigError
from learn_spark.inspect.copies import Looked, looked, naming
from learn_spark.inspect.dialogue import ask, confirm_roles, confirm_targets
from learn_spark.inspect.findings import findings
from learn_spark.inspect.first_config import FirstConfig, config_of, folder_name
from learn_spark.inspect.folder import look_at
from learn_spark.inspect.roles import roles_of
from learn_spark.pipeline import as_plan, pipeline_days
from learn_spark.storage import place_argument

_log = logging.getLogger(__name__)


def _inspect_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--path", required=True, metavar="P", help="a log file, or a folder of them; also in a store")
    parser.add_argument("--out", metavar="FILE", help="where to write the config; without it, to stdout")


def _init_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--path", metavar="LOGS", help="a log file, or a folder of logs and a catalogue; asked for")
    parser.add_argument("--out", metavar="FILE", help="where to write the config (NAME.yaml here, after the folder)")
    parser.add_argument("--yes", action="store_true", help="take what is found, ask nothing")


def _inspect(call: Call) -> Outcome:
    """Prints the findings to stderr, and writes the config to stdout or `--out`."""
    out = _new_file(call.args.out) if call.args.out else None
    logs = _looked(call.args.path)
    with naming([logs]):
        roles = roles_of(look_at(logs.path))
        found = config_of(roles, out.stem if out else folder_name(roles.log.folder))
        for line in found.lines():
            _log.info(logs.named(line))
        text = logs.named(found.text())
        if out is None:
            print(text, end="", flush=True)
        else:
            _write(out, text)
        return _ended(found)


def _init(call: Call) -> Outcome:
    """Guides a first start: lets the user confirm what was found, writes the config, and tries it on the real files."""
    is_asked = not call.args.yes
    given = call.args.path or (ask("where are the logs (a file, or a folder)? ") if is_asked else None)
    if not given:
        raise ConfigError("--path is missing: name the logs, a file or a folder")
    logs = _looked(given)
    with naming([logs]):
        roles = roles_of(look_at(logs.path))
        out = _new_file(call.args.out or f"{folder_name(roles.log.folder)}.yaml")
        for line in findings(roles):
            _log.info(logs.named(line))
        if is_asked:
            confirm_roles(roles, ask)
        found = config_of(roles, out.stem)
        if is_asked and (targets := confirm_targets(found, ask)):
            found = config_of(roles, out.stem, targets)
        _write(out, logs.named(found.text()))
    if found.proposal.refusal:
        return _ended(found)
    config = load_config(out)
    outcome = dry_run(as_plan(pipeline_days(config)), config)
    name = shlex.quote(str(out.relative_to(Path.cwd())) if out.is_relative_to(Path.cwd()) else str(out))
    print(f"wrote      {out}\nnext       learn-spark run_pipeline --config {name}", flush=True)
    return outcome


def _looked(given: str) -> Looked:
    """The logs, copied to this machine if they lie in a store; the environment says how to reach the store."""
    return looked(place_argument(os.path.expanduser(given), "PATH", {}))


def _new_file(name: str) -> Path:
    out = Path(name).expanduser().absolute()
    if out.exists():
        raise ConfigError(f"{out} exists already; give another --out")
    return out


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}") from None


def _ended(found: FirstConfig) -> Outcome:
    """The outcome: an error if the log allows no windows; the rest of the config is written nevertheless."""
    refusal = found.proposal.refusal
    if refusal is None:
        return Outcome()
    return Outcome(error=ConfigError(f"the config is written, but no windows of this log will do: {refusal}"))


COMMANDS = (
    Command(
        "inspect",
        "Looks at unknown log files, says what they hold, and writes a first config; without Spark.",
        (_inspect_arguments,),
        _inspect,
    ),
    Command(
        "init",
        "A guided start with your own logs: looks, asks, writes a config, and tries it on the files; without Spark.",
        (_init_arguments,),
        _init,
    ),
)
