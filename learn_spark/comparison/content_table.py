"""The measured variants of content vectors as lines for a terminal."""

from collections.abc import Mapping
from typing import Any

from learn_spark.comparison.table import short


def content_lines(told: Mapping[str, Any]) -> list[str]:
    """The table, best first, with a star if no faster variant is as good; then the config lines to take."""
    metric, rows = told["metric"], told["variants"]
    whole = {row["template"]: told["templates"][row["template"]]["seconds"] for row in rows}
    found = [
        f"{told['model']}, {told['layers']} layers; {told['sample']}",
        f"{told['data']['users']:,} users, {told['data']['targets']:,} targets among {told['data']['candidates']:,}"
        " candidates; gains are over the config's own, with 90% intervals over users",
        f"  {'template':<14}{'layer':>5} {'pooling':<8}{short(metric):>6}  {'gain':<26}"
        f"{'s/1,000':>8}{'saved':>6}{'tokens/1,000':>14}  {'ranker AUC gain' if _is_ranked(rows) else ''}".rstrip(),
    ]
    found += [_line(row, metric, whole[row["template"]]) for row in rows]
    found += _warnings(told)
    front = [row for row in rows if row["is_front"]]
    found += ["", "to take, in place of what the config's section embedding has (* above, the best first):"]
    return found + [f"  {row['line']}" for row in front] + _words(rows, metric)


def _line(row: Mapping[str, Any], metric: str, seconds: Mapping[str, float]) -> str:
    deepest = max(seconds.values())
    gain = "the config's" if row["is_base"] else _interval(row["gain"][metric], row["gain"]["ci90"][metric])
    ranker = _interval(row["ranker"]["auc_gain"], row["ranker"]["auc_gain_ci90"]) if row["ranker"] else ""
    saved = 1 - seconds[str(row["layer"])] / deepest
    return (
        f"{'*' if row['is_front'] else ' '} {row['template']:<14}{row['layer']:>5} {row['pooling']:<8}"
        f"{row[metric]:>6.4f}  {gain:<26}{row['seconds']:>8.2f}{saved:>6.0%}{row['tokens']:>14,.0f}  {ranker}".rstrip()
    )


def _is_ranked(rows: list[dict[str, Any]]) -> bool:
    return any(row["ranker"] for row in rows)


def _interval(value: float, ends: list[float]) -> str:
    return f"{value:+.4f} ({ends[0]:+.4f} .. {ends[1]:+.4f})"


def _warnings(told: Mapping[str, Any]) -> list[str]:
    """Lines about variants with unusable vectors, and about templates that give some items no text."""
    bad = [row for row in told["variants"] if row["bad"]]
    lost = [f"{row['name']}: {row['bad']:,} texts have no usable vector in fp16: not to be taken" for row in bad]
    without = {name: about["items_without"] for name, about in told["templates"].items() if about["items_without"]}
    return lost + [f"{name}: {count:,} items of the sample have no text" for name, count in without.items()]


def _words(rows: list[dict[str, Any]], metric: str) -> list[str]:
    """A line on whether the best variant is really better than the config's own."""
    best = next((row for row in rows if row["is_front"]), None)
    if best is None:
        return ["  none: fp16 does not hold the vectors of any of these"]
    if best["is_base"]:
        return ["the config's own content is the best of these"]
    low = best["gain"]["ci90"][metric][0]
    if low <= 0:
        return ["the best one's gain may be chance: its interval holds 0"]
    return [f"the best one's interval lies above 0; it was picked out of {len(rows)}, so expect less"]
