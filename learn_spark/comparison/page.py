"""The comparison's page: bars with intervals, curves of the trainings, segments, costs, the protocol."""

from collections.abc import Mapping
from typing import Any

from learn_spark.comparison.sampled_table import SAMPLED_METRICS, by_mrr, is_prompt, note_on
from learn_spark.comparison.table import ordered, short
from learn_spark.evaluation.html import template
from learn_spark.evaluation.report import SEGMENTS

Curves = dict[tuple[str, int], list[dict[str, float]]]


def render(comparison: Mapping[str, Any], curves: Curves, picked_by: str) -> str:
    """Renders the page as HTML.

    Args:
        comparison: what `compare` returns.
        curves: lines of metrics.jsonl by system and seed; the first seed's are drawn.
        picked_by: the validation metric whose curves are drawn.
    """
    systems: Mapping[str, dict] = comparison["systems"]
    rows = ordered(systems)
    metrics = list(rows[0]["metrics"])
    return template("comparison.html.jinja").render(
        name=comparison["name"],
        rows=rows,
        metrics=[(metric, short(metric)) for metric in metrics],
        published=comparison["published"],
        diverged=comparison["diverged"],
        sampled=_sampled(comparison["sampled"]),
        protocol=comparison["protocol"],
        data=comparison["data"],
        segments={name: SEGMENTS.get(name, name) for name in rows[0]["segments"]},
        charts=_charts(rows, metrics, _by_title(comparison, curves), picked_by),
    )


def _sampled(sampled: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if sampled is None:
        return None
    rows = by_mrr(sampled)
    return {
        "protocol": sampled["protocol"],
        "metrics": [(metric, short(metric)) for metric in SAMPLED_METRICS],
        "rows": [(row, is_prompt(row)) for row in rows],
        "notes": [(row["title"], note) for row in rows if (note := note_on(row))],
    }


def _by_title(comparison: Mapping[str, Any], curves: Curves) -> dict[str, list[dict[str, float]]]:
    """The lines of each system's first seed, by the system's title."""
    rows = {**comparison["systems"], **(comparison["sampled"] or {"systems": {}})["systems"]}
    first = {name: seed for name, seed in reversed(curves)}
    return {rows[name]["title"]: curves[name, seed] for name, seed in first.items()}


def _charts(
    rows: list[dict], metrics: list[str], lines: Mapping[str, list[dict[str, float]]], picked_by: str
) -> dict[str, str]:
    from learn_spark.evaluation import charts  # matplotlib is slow to import, and only pages need it

    bars = [(row["title"], row["metrics"][metrics[-1]]["mean"], *row["ci90"][metrics[-1]]) for row in rows]
    drawn = {"figures": charts.intervals(bars, f"{short(metrics[-1])}, 90% interval over users")}
    for key, wanted in (("loss", "loss"), ("validation", picked_by)):
        points = {title: charts.points(curve, wanted) for title, curve in lines.items()}
        there = {title: each for title, each in points.items() if each}
        label = "training loss" if key == "loss" else f"validation {short(picked_by)}"
        drawn[key] = charts.curves(there, "step", label, "" if key == "loss" else "o") if there else ""
    return drawn
