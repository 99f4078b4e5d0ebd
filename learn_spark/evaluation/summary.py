"""`summary.json`: what the lake holds and how good it is, taken from the ledger and the tables."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyspark.sql import Row
from pyspark.sql import functions as F

from learn_spark.config.load import Config
from learn_spark.config.secrets import redacted
from learn_spark.lake.schemas import RELEASES, TABLES
from learn_spark.releases.registry import FAILED, PUBLISHED
from learn_spark.runs.details import EvaluationDetails, newest_details
from learn_spark.runs.ledger import Recorded, pieces
from learn_spark.runs.steps import EVALUATE_FEATURES, Context
from learn_spark.systems.test_day import candidate_words
from models.contract.whole_files import write_whole

SUMMARY = "summary.json"
REPORT = "report/index.html"


def build_summary(context: Context) -> dict[str, Any]:
    """The summary without `peak_rss_mb`, which only the caller knows.

    Returns:
        stages.<job>.{seconds, rows_in, rows_out, days, runs}, summed over the runs that made the ledger's days;
        tables.<name>.{path, version, rows}; rejects by reason; release_id; retrieval and ranker (null before
        `evaluate_features` has run).
    """
    recorded = list(context.ledger.recorded().values())
    evaluation = EvaluationDetails.from_json(newest_details(recorded, EVALUATE_FEATURES))
    return {
        "stages": _stages(recorded),
        "retrieval": evaluation.retrieval,
        "ranker": evaluation.ranker,
        "rejects": _rejects(context),
        "tables": _tables(context),
        "release_id": _release_id(context),
    }


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all, without secrets."""
    write_whole(path, redacted(json.dumps(values, indent=2, default=str)) + "\n")


def headline(config: Config) -> str:
    """The lines printed at the end of a run, from summary.json: figures, tables, report."""
    values = json.loads((config.output.folder / SUMMARY).read_text(encoding="utf-8"))
    lines = []
    if values["retrieval"]:
        found = values["retrieval"]
        lines.append(
            f"retrieval  recall@50 {found[retriever_of(found) + 'recall_at_50']:.3f} ({found['users']:,} users,"
            f" {candidates_of(found)}); without the weights fitted afterwards {found['recall_at_50']:.3f},"
            f" popularity {found['popularity_recall_at_50']:.3f},"
            f" last item {found['last_item_recall_at_50']:.3f},"
            f" mean content {found['mean_content_recall_at_50']:.3f},"
            f" both together {found['mean_content_with_prior_recall_at_50']:.3f}"
        )
    if values["ranker"]:
        found = values["ranker"]
        low, high = found["auc_gain_ci90"]
        lines.append(
            f"ranker     AUC {found['auc_without']:.4f} -> {found['auc_with']:.4f} with the features: "
            f"{found['auc_gain']:+.4f}, 90% interval {_signed(low)} .. {_signed(high)}"
        )
        if rivals := found.get("rivals"):
            low, high = rivals["on_top"]["auc_gain_ci90"]
            lines.append(
                f"rivals     beside those of {', '.join(rivals['titles'].values())} the features still bring"
                f" {_signed(rivals['on_top']['auc_gain'])}, 90% interval {_signed(low)} .. {_signed(high)}"
            )
        if kept := found.get("kept"):
            low, high = kept["share_ci90"]
            lines.append(
                f"retrain    a ranker of release {kept['release']} keeps {_share(kept['share'])} of its gain without"
                f" training anew, 90% interval {_share(low)} .. {_share(high)}"
            )
    seconds = sum(stage["seconds"] for stage in values["stages"].values())
    lines += [
        f"effort     {seconds:,.0f} s in the stages, peak memory {values['peak_rss_mb']:,} MiB",
        f"release    {values['release_id'] or 'none yet'}",
        f"tables     {config.lake.root}",
        f"summary    {config.output.dir / SUMMARY}",
        f"report     {config.output.dir / REPORT}",
    ]
    return "\n".join(lines)


def retriever_of(retrieval: Mapping[str, Any]) -> str:
    """The prefix of the best retriever's figures: towers with fitted weights, which older ledgers lack."""
    return "fitted_" if "fitted_recall_at_50" in retrieval else ""


def candidates_of(retrieval: Mapping[str, Any]) -> str:
    """The candidate set of the summary's retrieval figures, in words; ledgers before 0.2 name none and mean `known`."""
    return candidate_words(retrieval.get("candidates", "known"), retrieval["items"])


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.4f}"


def _share(value: float | None) -> str:
    return "an unknown share" if value is None else f"{value:.0%}"


def _stages(recorded: list[Recorded]) -> dict[str, dict[str, Any]]:
    by_step: dict[str, list[Recorded]] = {}
    for row in recorded:
        by_step.setdefault(row.step, []).append(row)
    return {
        step: {**totals(rows), "days": len(rows), "runs": len({row.run for row in rows})}
        for step, rows in by_step.items()
    }


def totals(rows: Iterable[Recorded]) -> dict[str, float]:
    """Seconds and rows of the runs that did these days; days done together count once."""
    firsts = [piece[0] for piece in pieces(rows)]
    return {
        "seconds": round(sum(row.seconds for row in firsts), 2),
        "rows_in": sum(row.rows_in for row in firsts),
        "rows_out": sum(row.rows_out for row in firsts),
    }


def _rejects(context: Context) -> dict[str, int]:
    counts = context.tables.read("rejects").groupBy("reason").count().orderBy(F.desc("count"), "reason")
    return {row["reason"]: row["count"] for row in counts.collect()}


def _tables(context: Context) -> dict[str, dict[str, Any]]:
    tables = context.tables
    return {
        name: {
            "path": tables.path(name),
            "version": tables.version(name),
            "rows": tables.read(name).count(),
        }
        for name in TABLES
    }


def current_release(context: Context) -> Row | None:
    """The row of the release that was published last; None if there is none."""
    return _newest(context, PUBLISHED)


def refused_release(context: Context) -> Row | None:
    """The row of the newest release that its gates stopped after the current one was published; None if none was."""
    refused, current = _newest(context, FAILED), current_release(context)
    return refused if refused and (current is None or refused.published_at > current.published_at) else None


def _newest(context: Context, status: str) -> Row | None:
    rows = context.tables.read(RELEASES.name).where(F.col("status") == status)
    return rows.orderBy(F.desc("published_at")).first()


def _release_id(context: Context) -> str | None:
    newest = current_release(context)
    return newest["release_id"] if newest else None
