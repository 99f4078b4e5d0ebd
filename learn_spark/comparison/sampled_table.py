"""The comparison's second table: every system, also prompts, on the same few sampled candidates."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from learn_spark.comparison.table import cell, over_seeds, short
from learn_spark.config.comparison import SystemSettings

SAMPLED_METRICS = ("recall_at_1", "recall_at_5", "ndcg_at_10", "mrr")
COSTS = ("model_parameters", "tokens_per_user", "seconds_per_user", "seconds_per_user_all_items")
SMALL = 100_000_000  # parameters; a smaller language model only shows mechanics and cost


def sampled_table(
    protocol: Mapping[str, int],
    chosen: Mapping[str, SystemSettings],
    ranked: Mapping[str, dict],
    models: Mapping[tuple[str, int], Path],
) -> dict[str, Any] | None:
    """The figures on sampled candidates, in a table of their own, with their protocol; None if none were asked for.

    Args:
        protocol: rows that were asked for (there may be fewer), candidates per row, seed.
        chosen, ranked, models: as for `gathered`.
    """
    if not protocol["rows"]:
        return None
    rows = {}
    for name, system in chosen.items():
        seeds = [seed for model, seed in models if model == name]
        found = [ranked[f"{name}.{seed}"]["sampled"] for seed in seeds] or [ranked[name]["sampled"]]
        costs = [key for key in COSTS if key in found[0]]
        rows[name] = {
            "title": system.title,
            "metrics": {key: over_seeds(each[key] for each in found) for key in SAMPLED_METRICS},
            **{key: fmean(each[key] for each in found) for key in costs},
        }
    drawn = "uniformly among the candidates, without the row's own items; the target is the row's first"
    return {"protocol": {**protocol, "rows": found[0]["rows"], "drawn": drawn}, "systems": rows}


def sampled_lines(sampled: Mapping[str, Any] | None) -> list[str]:
    """The table for a terminal, the best by MRR first."""
    if sampled is None:
        return []
    protocol, systems = sampled["protocol"], sampled["systems"]
    width = max(len(row["title"]) for row in systems.values())
    head = "".join(f"{short(metric):>16}" for metric in SAMPLED_METRICS)
    found = [
        f"{protocol['rows']} rows, {protocol['candidates']} sampled candidates each: not comparable with the above"
    ]
    found.append(f"{'':<{width}}{head}{'tokens per user':>17}{'s per user':>12}{'all items':>11}")
    for row in by_mrr(sampled):
        cells = "".join(f"{cell(row['metrics'][metric]):>16}" for metric in SAMPLED_METRICS)
        costs = [f"{row['tokens_per_user']:>15,.0f}", f"{row['seconds_per_user']:>10.3f}"] if is_prompt(row) else []
        costs += [f"{row['seconds_per_user_all_items']:>9,.1f} s"] if is_prompt(row) else []
        found.append(f"{row['title']:<{width}}{cells}{''.join(costs)}")
    return found + [f"{row['title']}: {note}" for row in systems.values() if (note := note_on(row))]


def by_mrr(sampled: Mapping[str, Any]) -> list[dict]:
    """The rows, the best first."""
    return sorted(sampled["systems"].values(), key=lambda row: -row["metrics"]["mrr"]["mean"])


def is_prompt(row: Mapping[str, Any]) -> bool:
    """Whether a row of the sampled table belongs to a prompt, and so has costs per user."""
    return "tokens_per_user" in row


def note_on(row: Mapping[str, Any]) -> str:
    """A note that a reader of a row of the sampled table needs; empty if none."""
    size = row.get("model_parameters", SMALL)
    if size >= SMALL:
        return ""
    return f"a language model of {size:,.0f} parameters shows mechanics and cost, not what such systems can do"
