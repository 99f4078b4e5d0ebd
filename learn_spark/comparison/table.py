"""The comparison's figures: gathered over seeds, and as lines for a terminal."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from learn_spark.config.comparison import SystemSettings
from models.contract.result import read_result


def gathered(
    chosen: Mapping[str, SystemSettings], ranked: Mapping[str, dict], models: Mapping[tuple[str, int], Path]
) -> dict[str, dict]:
    """By system: title, paper, figures with mean and deviation over its seeds, segments, parameters, costs.

    Prompts are left out: they rank only sampled candidates, see `sampled_table`.

    Args:
        chosen: the systems.
        ranked: figures of `evaluate-systems`, by `name.seed`, or by name for untrained systems.
        models: the trained models' folders.
    """
    rows = {}
    for name, system in chosen.items():
        if system.kind == "prompt":
            continue
        seeds = [seed for model, seed in models if model == name]
        found = [ranked[f"{name}.{seed}"] for seed in seeds] or [ranked[name]]
        trained = [read_result(models[name, seed]) for seed in seeds]
        rows[name] = {
            "title": system.title,
            "paper": system.paper,
            "kind": system.kind,
            "seeds": seeds,
            "metrics": {metric: over_seeds(each[metric] for each in found) for metric in metrics_of(found[0])},
            "ci90": found[0]["ci90"],
            "segments": _segments(found),
            "parameters": trained[0]["parameters"] if trained else 0,
            "train_seconds": fmean(each["seconds"] for each in trained) if trained else 0.0,
            "steps": [each["best_step"] for each in trained],
            "seconds_per_user": fmean(each["seconds_per_user"] for each in found),
        }
    return rows


def metrics_of(figures: Mapping[str, Any]) -> list[str]:
    """Names of the quality metrics (recall, NDCG) among a system's figures."""
    return [name for name in figures if name.startswith(("recall_at_", "ndcg_at_"))]


def over_seeds(values: Iterable[float]) -> dict[str, Any]:
    """Mean, standard deviation (null for one seed) and the values themselves."""
    values = list(values)
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else None, "values": values}


def lines(comparison: Mapping[str, Any]) -> list[str]:
    """The table for a terminal, best by the last metric first, published rows at the end."""
    systems: Mapping[str, dict] = comparison["systems"]
    metrics = list(next(iter(systems.values()))["metrics"])
    titles = [row["title"] for row in systems.values()] + list(comparison["published"])
    width = max(map(len, titles))
    head = "".join(f"{short(metric):>16}" for metric in metrics)
    data = comparison["data"]
    found = [
        f"{comparison['protocol']['rows_measured']} rows: {data['users']:,} users, {data['targets']:,} targets;"
        f" candidates: {comparison['protocol']['candidates']}"
    ]
    found += [f"{'':<{width}}{head}{'parameters':>14}{'training s':>12}{'us per user':>13}"]
    for row in ordered(systems):
        cells = "".join(f"{cell(row['metrics'][metric]):>16}" for metric in metrics)
        costs = f"{row['parameters']:>14,}{row['train_seconds']:>12,.0f}{row['seconds_per_user'] * 1e6:>11,.0f}"
        found.append(f"{row['title']:<{width}}{cells}{costs}")
    for title, figures in comparison["published"].items():
        cells = "".join(f"{figures[m]:>16.4f}" if m in figures else f"{'':>16}" for m in metrics)
        found.append(f"{title:<{width}}{cells}   published")
    return found + [f"{training} has no model: {reason}" for training, reason in comparison["diverged"].items()]


def ordered(systems: Mapping[str, dict]) -> list[dict]:
    """The rows, the best by the last metric first."""
    last = list(next(iter(systems.values()))["metrics"])[-1]
    return sorted(systems.values(), key=lambda row: -row["metrics"][last]["mean"])


def short(metric: str) -> str:
    """`recall_at_50` -> `R@50`."""
    name, _, k = metric.partition("_at_")
    return f"{'R' if name == 'recall' else 'N'}@{k}" if k else metric.upper()


def cell(values: Mapping[str, Any]) -> str:
    """A figure's mean, and its deviation if there are several seeds."""
    deviation = f" ±{values['std']:.4f}" if values["std"] is not None else ""
    return f"{values['mean']:.4f}{deviation}"


def _segments(found: list[dict]) -> dict[str, dict[str, float]]:
    """The segments' figures as means over the seeds, without the intervals."""
    return {
        segment: {
            key: fmean(each["segments"][segment][key] for each in found)
            for key, value in values.items()
            if isinstance(value, int | float)
        }
        for segment, values in found[0]["segments"].items()
    }
