"""The report: one HTML file that explains the run, and summary.json beside it. Writing them never changes the lake."""

from collections.abc import Mapping
from typing import Any

from learn_spark.evaluation.html import template
from learn_spark.evaluation.mlflow_report import log_report
from learn_spark.evaluation.summary import (
    REPORT,
    SUMMARY,
    build_summary,
    candidates_of,
    current_release,
    refused_release,
    retriever_of,
    totals,
    write_json,
)
from learn_spark.lake.schemas import TABLES
from learn_spark.runs.details import IngestDetails, TrainingDetails, newest_details
from learn_spark.runs.ledger import Recorded
from learn_spark.runs.steps import (
    BUILD_SEQUENCES,
    EMBED_ITEMS,
    EVALUATE_FEATURES,
    INGEST_EVENTS,
    TRAIN_CVR,
    TRAIN_TOWERS,
    WRITE_FEATURES,
    Context,
    StepName,
)
from models.contract.whole_files import write_whole

STAGES: dict[StepName, str] = {
    INGEST_EVENTS: "Raw log files become events; a line that cannot be used is rejected with its reason.",
    BUILD_SEQUENCES: "Users' histories and targets around as-of dates, and the samples for CVR and ranker.",
    EMBED_ITEMS: "A frozen language model reads every distinct item text once.",
    TRAIN_TOWERS: "User and item tower learn which items follow which histories.",
    TRAIN_CVR: "A small network learns conversion from both embeddings; its middle layer is a feature.",
    WRITE_FEATURES: "All users, items and pairs are scored, checked by gates and published as one release.",
    EVALUATE_FEATURES: "Retrieval, and a ranker with and without the features, on data no model has seen.",
}
SEGMENTS = {
    "cold_users": "Cold users",
    "other_users": "Other users",
    "cold_items": "Cold items",
    "long_tail_items": "Long-tail items",
    "other_items": "Other items",
    "new_to_user": "New to the user",
}
TRIALS = {
    "user_emb": "Base + user_emb",
    "item_emb": "Base + item_emb",
    "mid_emb": "Base + mid_emb",
    "item_content": "Base + raw item content",
    "item_id": "Base + random vector by item",
    "shuffled": "Base + all three, shuffled",
    "item_codes": "Base + item codes as categories",
    "item_code_prefixes": "Base + prefixes of item codes",
    "item_emb_and_codes": "Base + item_emb + item codes",
}
SCORERS = {
    "fitted_": "Towers, two weights fitted afterwards",
    "": "Towers, popularity weight as configured",
    "without_prior_": "Towers without popularity",
    "popularity_": "Popularity",
    "last_item_": "Last item",
    "mean_content_": "Mean content",
    "mean_content_with_prior_": "Mean content + popularity",
}
BASELINES = ("popularity_", "last_item_", "mean_content_", "mean_content_with_prior_")


def publish_report(context: Context, peak_rss_mb: int) -> dict[str, Any]:
    """Writes `output.dir/summary.json` and the report, and logs both to MLflow; returns the summary."""
    output, windows = context.config.output.folder, context.config.windows
    summary = build_summary(context) | {"peak_rss_mb": int(peak_rss_mb)}
    recorded = list(context.ledger.recorded().values())
    rows = current_release(context), refused_release(context)
    release, refused = (row.asDict(recursive=True) if row else None for row in rows)
    page = render(summary, recorded, release, context.config.as_text(), refused)
    write_json(output / SUMMARY, summary)
    target = output / REPORT
    write_whole(target, page)
    fingerprint = context.made_as(EVALUATE_FEATURES, windows.end)
    log_report(context.config, fingerprint, [target, output / SUMMARY], summary)
    return summary


def render(
    summary: Mapping[str, Any],
    recorded: list[Recorded],
    release: Mapping[str, Any] | None,
    config_text: str,
    refused: Mapping[str, Any] | None = None,
) -> str:
    """Renders the page as HTML. What has not run yet is left out.

    Args:
        summary: from `build_summary`, with `peak_rss_mb`.
        recorded: the ledger's rows, whose details are shown by stage.
        release: the row of the release that was published last, or None.
        config_text: the config as YAML.
        refused: the row of a newer release that was stopped by its gates, or None.
    """
    details = {stage: newest_details(recorded, stage) for stage in STAGES}
    retrieval = summary["retrieval"] or {}
    return template("report.html.jinja").render(
        summary=summary,
        stages=STAGES,
        segments=SEGMENTS,
        trials=TRIALS,
        rivals=_rivals(summary["ranker"] or {}),
        scorers=_scorers_of(retrieval),
        retriever=retriever_of(retrieval),
        best_baseline=_best_baseline(retrieval),
        candidates=candidates_of(retrieval) if retrieval else "",
        details=details,
        duplicates=sum(IngestDetails.from_json(row.details).duplicates for row in recorded),
        release=release,
        refused=refused,
        health=details[WRITE_FEATURES],
        charts=_charts(summary, details),
        calibration=_calibrated(details),
        other_labels=_other_labels(details),
        tables={name: (TABLES[name].doc, values) for name, values in summary["tables"].items()},
        runs=_runs(recorded),
        seconds=sum(stage["seconds"] for stage in summary["stages"].values()),
        config_text=config_text,
    )


def _charts(summary: Mapping[str, Any], details: Mapping[str, dict]) -> dict[str, str]:
    """The charts for which there are figures, as SVG by name."""
    from learn_spark.evaluation import charts  # matplotlib is slow to import, and only pages need it

    drawn = {}
    for stage, quality in ((TRAIN_TOWERS, ("recall_at_", "ndcg_at_")), (TRAIN_CVR, ("auc",))):
        curve = TrainingDetails.from_json(details[stage]).curve
        loss = {"loss": charts.points(curve, "loss")}
        names = dict.fromkeys(name for line in curve for name in line if name.startswith(quality))
        evaluations = {name: charts.points(curve, name) for name in names}
        for name, lines, label, marker in (
            (f"{stage}_loss", loss, "training loss", ""),
            (f"{stage}_quality", evaluations, "validation", "o"),
        ):
            there = {line: points for line, points in lines.items() if points}
            if there:
                drawn[name] = charts.curves(there, "step", label, marker)
    if calibrated := _calibrated(details):
        pairs = [(row["predicted"], row["observed"]) for row in calibrated["calibration"]]
        drawn["calibration"] = charts.against(pairs, "predicted", "observed")
    if summary["retrieval"]:
        drawn["retrieval"] = charts.bars(*_retrieval_bars(summary["retrieval"]), "recall@50")
    if summary["ranker"]:
        drawn["segments"] = charts.intervals(_gains(summary["ranker"]), "AUC gain, 90% interval over users")
    return drawn


def _calibrated(details: Mapping[str, dict]) -> dict[str, Any] | None:
    """The conversion model's best evaluation; None if it says nothing about calibration."""
    best = TrainingDetails.from_json(details[TRAIN_CVR]).result.get("best", {})
    return best if best.get("calibration") else None


def _other_labels(details: Mapping[str, dict]) -> dict[str, dict[str, Any]]:
    """How well the conversion model's other labels are foreseen, by name, in its best evaluation."""
    best = TrainingDetails.from_json(details[TRAIN_CVR]).result.get("best", {})
    found: dict[str, dict[str, Any]] = {}
    for key, value in best.items():
        figure, dot, name = key.partition(".")
        if dot:
            found.setdefault(name, {})[figure] = value
    return found


def _retrieval_bars(found: Mapping[str, float]) -> tuple[list[str], dict[str, list[float]]]:
    """Names of the groups of bars, and each scorer's figure per group."""
    groups = {"": "All purchases", "new_": "New to the user"}
    there = [prefix for prefix in groups if f"{prefix}recall_at_50" in found]
    series = {
        title: [found[f"{scorer}{prefix}recall_at_50"] for prefix in there]
        for scorer, title in _scorers_of(found).items()
    }
    return [groups[prefix] for prefix in there], series


def _scorers_of(found: Mapping[str, Any]) -> dict[str, str]:
    """The rows of the retrieval table; figures of earlier versions have none with fitted weights."""
    return {prefix: title for prefix, title in SCORERS.items() if f"{prefix}recall_at_50" in found}


def _best_baseline(found: Mapping[str, Any]) -> tuple[str, float] | None:
    """The best row of the table that needs no training: its name and recall@50."""
    names = [prefix for prefix in _scorers_of(found) if prefix in BASELINES]
    rows = {SCORERS[prefix]: found[f"{prefix}recall_at_50"] for prefix in names}
    return max(rows.items(), key=lambda row: row[1]) if rows else None


def _rivals(ranker: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The rows of the table of other systems' features: title, figures; the last one is all of them together."""
    found = ranker.get("rivals")
    if not found:
        return []
    rows = [(found["titles"][name], part) for name, part in found["systems"].items()]
    return rows + [("All of these together", found["together"])] if "together" in found else rows


def _gains(ranker: Mapping[str, Any]) -> list[tuple[str, float, float, float]]:
    """The rows of the chart of gains; a segment without an interval is left out."""
    parts: list[tuple[Any, Any]] = [("All test samples", ranker)]
    parts += [(SEGMENTS.get(name, name), part) for name, part in ranker["segments"].items()]
    parts += [(TRIALS.get(name, name), part) for name, part in ranker.get("alone", {}).items()]
    return [
        (name, part["auc_gain"], low, high)
        for name, part in parts
        for low, high in (part["auc_gain_ci90"],)
        if None not in (part["auc_gain"], low, high)
    ]


def _runs(recorded: list[Recorded]) -> list[dict[str, Any]]:
    """One line per run of a step, in the order of the steps."""
    by_run: dict[tuple[str, str], list[Recorded]] = {}
    for row in recorded:
        by_run.setdefault((row.step, row.run), []).append(row)
    lines: list[dict[str, Any]] = [
        {
            "step": step,
            "run_id": run_id,
            "first": min(row.day for row in rows),
            "last": max(row.day for row in rows),
            "days": len(rows),
            **totals(rows),
        }
        for (step, run_id), rows in by_run.items()
    ]
    order = list(STAGES)
    return sorted(lines, key=lambda line: (order.index(line["step"]), line["last"]))
