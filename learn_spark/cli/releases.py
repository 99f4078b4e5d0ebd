"""The commands on releases: list and compare them, join features for consumers, maintain the tables."""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from learn_spark.bridge.folders import require_absent
from learn_spark.cli.command import Call, Command, Outcome, Summary, with_config
from learn_spark.config.secrets import redacted
from learn_spark.errors import ConfigError
from learn_spark.features.maintenance import maintain_tables
from learn_spark.lake.catalog import OWN_TABLE, TableName, table_argument
from learn_spark.lake.lock import lake_lock
from learn_spark.lake.tables import is_lake
from learn_spark.releases.join import join_features
from learn_spark.releases.lineage import compared, lines_of, listed, shown
from learn_spark.releases.registry import CURRENT, find_release, releases
from learn_spark.releases.release import roll_back
from learn_spark.runs.steps import Context


@dataclass(frozen=True)
class ReleasesSummary(Summary):
    """What the command `release` found or did; only the fields of the requested action are set."""

    releases: Sequence[dict[str, object]] | None = None
    release: dict[str, object] | None = None
    diff: dict[str, object] | None = None
    withdrawn: Sequence[str] | None = None
    current: str | None = None


@dataclass(frozen=True)
class JoinSummary(Summary):
    """The release that was joined, and where the rows are."""

    release: str
    out: str


@dataclass(frozen=True)
class UpkeepSummary(Summary):
    """What `maintain_tables` returns."""

    kept: Sequence[str]
    expired: Sequence[str]
    tables: dict[str, dict[str, object]]


@contextmanager
def existing_lake(call: Call, writes: bool = False) -> Iterator[Context]:
    """Opens the config's lake; locks it if the command `writes`.

    Raises:
        ConfigError: there is no lake; the message says how to make one.
    """
    root = call.config.lake.root
    if not is_lake(root):
        raise ConfigError(f"there is no lake at {root}; run_pipeline makes one")
    with lake_lock(root) if writes else nullcontext(), call.context() as context:
        yield context


def with_release(parser: ArgumentParser) -> None:
    """Adds the argument of every command that reads a release."""
    parser.add_argument("--release", default=CURRENT, metavar="ID", help=f"a release id ({CURRENT})")


def with_out(parser: ArgumentParser) -> None:
    """Adds the arguments of every command that writes a release's data elsewhere."""
    parser.add_argument("--out", required=True, metavar="PATH", help="where to write; must not exist yet")
    with_release(parser)


def _list(context: Context, names: Sequence[str]) -> ReleasesSummary:
    lines = [listed(release) for release in releases(context.tables)]
    current = next((line["release"] for line in lines if line["status"] == "published"), None)
    for line in lines:
        sign = "*" if line["release"] == current else " "
        told = f"{line['release']}  {line['status']:<12}{line['published_at']}  {line['days']}  space {line['space']}"
        print(f"{sign} {told}", flush=True)
    return ReleasesSummary(releases=lines)


def _show(context: Context, names: Sequence[str]) -> ReleasesSummary:
    release = find_release(context.tables, *(names or [CURRENT]), readable=False)
    about = shown(release, context.tables, context.ledger)
    print(redacted("\n".join(lines_of(about))), flush=True)  # lakes of earlier versions hold URIs with passwords
    return ReleasesSummary(release=about)


def _diff(context: Context, names: Sequence[str]) -> ReleasesSummary:
    """Compares two releases, or one with the current release."""
    pair = names if len(names) == 2 else [*names, CURRENT]
    first, second = (find_release(context.tables, name, readable=False) for name in pair)
    diff = compared(first, second, context.ledger.recorded().values())
    print("\n".join(lines_of(diff)), flush=True)
    return ReleasesSummary(diff=diff)


def _roll_back(context: Context, names: Sequence[str]) -> ReleasesSummary:
    gone = [release.release_id for release in roll_back(context, *names)]
    current = find_release(context.tables).release_id
    print(f"rolled back {', '.join(gone)}; current is {current}", flush=True)
    return ReleasesSummary(withdrawn=gone, current=current)


_ACTIONS = {"list": (_list, 0), "show": (_show, 1), "diff": (_diff, 2), "rollback": (_roll_back, 1)}  # most ids


def _release_arguments(parser: ArgumentParser) -> None:
    said = "list all, show one, diff two, or rollback to an older one"
    parser.add_argument("action", choices=tuple(_ACTIONS), help=said)
    parser.add_argument("names", nargs="*", metavar="RELEASE", help=f"release ids, or {CURRENT}")


def _release(call: Call) -> Outcome:
    with existing_lake(call, writes=call.args.action == "rollback") as context:
        action, names = call.args.action, call.args.names
        act, most = _ACTIONS[action]
        if len(names) > most or (action == "diff" and not names):
            raise ConfigError(f"release {action} takes {'1 or 2' if most == 2 else f'at most {most}'} release ids")
        return Outcome(act(context, names))


def _join_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--samples", required=True, metavar="PATH", help="with ids and days: " + OWN_TABLE)
    with_out(parser)
    parser.add_argument("--format", choices=("delta", "parquet"), default="parquet", help="of the output (parquet)")
    parser.add_argument("--max-age-days", type=int, metavar="N", help="older rows are unknown (releases.max_age_days)")
    parser.add_argument("--pairs", action="store_true", help="add the conversion model's mid_emb and cvr_score")


def _join(call: Call) -> Outcome:
    args = call.args
    with existing_lake(call) as context:
        options = context.config.lake.options
        out, samples = table_argument(args.out, "--out", options), table_argument(args.samples, "--samples", options)
        if not isinstance(out, TableName):
            require_absent(out)
        release = find_release(context.tables, args.release)
        age = context.config.releases.max_age_days if args.max_age_days is None else args.max_age_days
        rows = join_features(
            context.tables.read_samples(samples), context.tables.root, release.release_id, age, args.pairs
        )
        context.tables.export(rows, out, args.format)
    print(f"joined release {release.release_id} to {args.samples}: {out}", flush=True)
    return Outcome(JoinSummary(release.release_id, str(out)))


def _maintain(call: Call) -> Outcome:
    with existing_lake(call, writes=True) as context:
        summary = UpkeepSummary(**maintain_tables(context))
    print("\n".join(lines_of(summary.as_json())), flush=True)
    return Outcome(summary)


COMMANDS = (
    Command(
        "release",
        "Lists, shows with lineage, compares and withdraws releases of the feature tables.",
        (_release_arguments, with_config),
        _release,
    ),
    Command(
        "join_features",
        "Joins a table of samples with what a release knew before each sample's day.",
        (_join_arguments, with_config),
        _join,
    ),
    Command(
        "maintain_tables",
        "Expires old releases, gathers small files, and deletes files that no kept version reads.",
        (with_config,),
        _maintain,
    ),
)
