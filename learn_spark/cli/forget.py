"""The command that takes users and items out of a lake, and keeps them out."""

from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from learn_spark.cli.command import Call, Command, Outcome, Summary, with_config
from learn_spark.cli.releases import existing_lake
from learn_spark.comparison.job import COMPARISONS
from learn_spark.errors import NOTHING_TO_DO, ConfigError
from learn_spark.forgetting.models import due_lines, retrain_due
from learn_spark.forgetting.sweep import plan_sweep, run_sweep
from learn_spark.ingest.own_table import read_own_table
from learn_spark.lake.forget_requests import OPEN, Request, hash_of, request_id, requests_of, salt_of
from learn_spark.lake.tombstones import COLUMNS, ITEM, USER
from learn_spark.runs.steps import Context


@dataclass(frozen=True)
class ForgetSummary(Summary):
    """The requests, what was found in each place, the certificates, and the models that must be trained again."""

    requests: Sequence[str]
    found: dict[str, dict[str, object]]
    certificates: Sequence[str]
    retrain_due: Sequence[str]


def _arguments(parser: ArgumentParser) -> None:
    told = "a text with an id per line, or a table (csv, tsv, JSON lines, Parquet, Delta) with a column {}_id"
    parser.add_argument("--users", metavar="FILE", help=told.format(USER))
    parser.add_argument("--items", metavar="FILE", help=told.format(ITEM))
    parser.add_argument("--dry-run", action="store_true", help="say what would go and stop")


def _forget(call: Call) -> Outcome:
    """Forgets the listed ids; without a list, finishes open requests and searches again for all ids ever forgotten."""
    args, root = call.args, call.config.lake.root
    with existing_lake(call, writes=True) as context, _no_comparison(context):
        if not args.dry_run:
            context.tables.create_all()
        requests = _requests(context, {USER: args.users, ITEM: args.items})
        if not requests:
            raise ConfigError("nothing was forgotten here yet: name a list by --users FILE or --items FILE")
        plan = plan_sweep(context, requests)
        print(*plan.lines(), sep="\n", flush=True)
        names, found = [request.request for request in requests], plan.found()
        if args.dry_run:
            return Outcome(ForgetSummary(names, found, [], retrain_due(context)))
        states = {request.request: request.state for request in requests_of(root)}
        if not plan.is_needed() and OPEN not in states.values() and states.keys() >= set(names):
            context.progress.say("nothing of them is there")
            due = retrain_due(context)
            return Outcome(ForgetSummary(names, {}, [], due), NOTHING_TO_DO)
        files = [str(file) for file in run_sweep(context, plan)]
        due = retrain_due(context)
    print(*(f"certificate {file}" for file in files), *due_lines(due), sep="\n", flush=True)
    return Outcome(ForgetSummary(names, found, files, due))


def _no_comparison(context: Context) -> AbstractContextManager[object]:
    return context.tables.artifacts.locked(COMPARISONS, "a comparison trains on this lake, from what is to go")


def _requests(context: Context, lists: dict[str, str | None]) -> list[Request]:
    """The request for these lists, after all earlier unfinished ones; without a list, all requests ever made."""
    known = requests_of(context.tables.root)
    hashes, salt = {}, salt_of(known)
    for kind, file in lists.items():
        if file is not None:
            hashes[kind] = sorted({hash_of(salt, name) for name in _ids(context, Path(file).absolute(), kind)})
    if not hashes:
        return known
    pairs = [(kind, name) for kind, names in hashes.items() for name in names]
    asked = Request(request_id(pairs), salt, datetime.now(UTC).isoformat(timespec="seconds"), hashes)
    same = next((one for one in known if one.request == asked.request), asked)
    return [*(one for one in known if one.state == OPEN and one.request != same.request), same]


def _ids(context: Context, file: Path, kind: str) -> set[str]:
    """The ids of a list, without the spaces around them.

    Raises:
        ConfigError: there is no such file, it holds no id, or a table lacks the column.
    """
    column = COLUMNS[kind]
    if file.suffix in ("", ".txt", ".list") and file.is_file():
        try:
            found = {line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()}
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--{kind}s {file} cannot be read as UTF-8: {error}") from None
    else:
        table = read_own_table(context.spark, context.tables, file)
        if column not in table.columns:
            raise ConfigError(f"--{kind}s {file} has no column {column}; it has {', '.join(table.columns)}")
        rows = table.select(table[column].cast("string")).distinct().collect()
        found = {row[0].strip() for row in rows if row[0] is not None}
    found.discard("")
    if not found:
        raise ConfigError(f"--{kind}s {file} holds no id")
    return found


COMMANDS = (
    Command(
        "forget",
        "Takes users and items out of all tables and files of a lake, and keeps them out; writes a certificate.",
        (_arguments, with_config),
        _forget,
        "reads    the lists, every table and artifact of the lake\n"
        "writes   every table that holds them; drops snapshots and older versions; _artifacts/forgetting\n"
        "returns  0 done, 99 nothing of them is there, 2 wrong config or lists, 75 the lake is in use, 1 anything else",
    ),
)
