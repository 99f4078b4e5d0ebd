"""The commands that look for leakage: in the lake, and in a joined table."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass

from learn_spark.cli.command import Call, Command, Outcome, Summary, with_config, with_plan
from learn_spark.cli.estimate import dry_run
from learn_spark.cli.releases import existing_lake, with_release
from learn_spark.cli.runs import effects
from learn_spark.errors import QualityError
from learn_spark.lake.catalog import OWN_TABLE, table_argument
from learn_spark.lake.lock import without_writers
from learn_spark.releases.join_audit import audit_join
from learn_spark.releases.registry import find_release
from learn_spark.runs.plan import Plan
from learn_spark.sequences.audit import AuditFigure, audit_sequences, require_no_leak


@dataclass(frozen=True)
class AuditSummary(Summary):
    """The figures of an audit, and the release that a joined table was audited against."""

    audit: Sequence[AuditFigure]
    release: str | None = None


def _audited(figures: Sequence[AuditFigure], release: str | None = None) -> Outcome:
    """Prints the figures; the outcome has an error if any rule is broken."""
    print(*figures, sep="\n", flush=True)
    summary = AuditSummary(figures, release)
    try:
        require_no_leak(figures)
    except QualityError as error:
        return Outcome(summary, error=error)
    return Outcome(summary)


def _audit_leakage(call: Call) -> Outcome:
    if call.args.dry_run:
        return dry_run(Plan(()), call.config)
    with without_writers(call.config.lake.root), existing_lake(call) as context:
        return _audited(audit_sequences(context.tables, call.config))


def _join_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--joined", required=True, metavar="PATH", help="with vectors: " + OWN_TABLE)
    with_release(parser)


def _audit_join(call: Call) -> Outcome:
    with existing_lake(call) as context:
        release = find_release(context.tables, call.args.release)
        place = table_argument(call.args.joined, "--joined", call.config.lake.options)
        joined = context.tables.read_samples(place)
        max_age = context.config.releases.max_age_days
        return _audited(audit_join(joined, context.tables, release, max_age), release.release_id)


COMMANDS = (
    Command(
        "audit_leakage",
        "Audits every sequence, history and sample of the lake for leakage from later days.",
        (with_config, with_plan),
        _audit_leakage,
        effects("sequences, user_history, samples", "nothing; prints the figures, exit code 3 where a rule is broken"),
    ),
    Command(
        "audit_join",
        "Audits a joined table, whoever joined it: no vector may be from after its sample's day.",
        (_join_arguments, with_config),
        _audit_join,
    ),
)
