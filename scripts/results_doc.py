"""Writes the tables of docs/results/ and README.md, between their markers, from benchmarks/results/.

    python scripts/results_doc.py                                  # the tables, from the newest JSON of each name
    python scripts/results_doc.py --demo build/demo/summary.json   # and before it the demo's figures, from a run
    python scripts/results_doc.py --rivals summary.json            # or those of a run with evaluation.rivals

A table stands between `<!-- table KIND WORDS -->` and `<!-- end -->`; KIND is a key of KINDS, the words are its
function's arguments. Of `systems` they are `comparison:system,system` (`a+b:system`: its seeds stand in two
comparisons), `segments=…`, and `published=config` for the published rows that a file in conf/ names.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from statistics import mean, stdev

import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
JOURNEY = ("demo", "noted", "retrain", "rivals")
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs" / "results").glob("*.md")))
BLOCK = re.compile(r"(<!-- table (\w+)([^>]*) -->\n).*?(<!-- end -->)", re.DOTALL)

FIGURES = ("recall_at_10", "ndcg_at_10", "recall_at_50", "ndcg_at_50")
HEADS = ("R@10", "N@10", "R@50", "N@50")
SCORERS = {  # prefixes of the demo's retrieval figures in summary.json
    "fitted_": "towers, weights of repeats and popularity fitted afterwards",
    "": "towers (inner product + log recent popularity)",
    "without_prior_": "towers, without the popularity term",
    "last_item_": "last item: the history from its end, then popularity",
    "popularity_": "popularity of the last 28 days",
    "mean_content_": "mean content embedding of the history",
    "mean_content_with_prior_": "mean content + log recent popularity, untrained",
}
EXTRA = {
    "cold_items": "R@50 cold items",
    "long_tail_items": "long tail",
    "other_items": "other items",
    "cold_users": "cold users",
    "steps": "best step",
}
GAINS = {"auc": "AUC", "uauc": "UAUC", "wuauc": "WUAUC (users weighted by their samples)"}
SEGMENTS = {
    "cold_users": "cold users (fewer than 10 events), AUC",
    "long_tail_items": "long-tail items, AUC",
    "cold_items": "cold items, AUC",
}
ALONE = {
    "user_emb": "user embedding",
    "item_emb": "item embedding",
    "mid_emb": "mid embedding",
    "item_content": "the items' raw content, as wide",
    "item_id": "a random vector by item, as wide",
    "shuffled": "all three embeddings shuffled (the control)",
}


def newest(name: str) -> Path:
    """The newest JSON file of a comparison, `comparison/NAME_DATE.json` with the latest date."""
    dated = re.compile(rf"{name}_(\d{{4}}-\d\d-\d\d)\.json")
    found = [path for path in (RESULTS / "comparison").glob(f"{name}_*.json") if dated.fullmatch(path.name)]
    if not found:
        raise SystemExit(f"{RESULTS / 'comparison'} has no {name}_<date>.json, which a table of docs/results needs")
    return max(found)


def file(name: str) -> Path:
    """The JSON file of a comparison, or of one of JOURNEY."""
    return RESULTS / "journey" / f"{name}.json" if name in JOURNEY else newest(name)


def load(name: str) -> dict:
    """The content of the JSON file."""
    return json.loads(file(name).read_text(encoding="utf-8"))


def link(name: str) -> str:
    """A Markdown link from a page of docs/results to the JSON file."""
    return f"[{file(name).name}](../../{file(name).relative_to(ROOT).as_posix()})"


def day(name: str) -> str:
    """The date of a result."""
    return load(name)["date"] if name in JOURNEY else newest(name).stem.rpartition("_")[2]


def number(value: float, digits: int = 4) -> str:
    """0.2417 -> .2417."""
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """0.0182 -> +.0182, with a true minus sign."""
    return ("−" if value < 0 else "+") + number(abs(value))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def measured(system: str, names: Sequence[str]) -> dict:
    """A system's entry. If its seeds are spread over several comparisons, their values are merged."""
    entries = [load(name)["systems"][system] for name in names]
    if len(entries) == 1:
        return entries[0]
    values = {figure: [v for entry in entries for v in entry["metrics"][figure]["values"]] for figure in FIGURES}
    metrics = {figure: {"mean": mean(all_), "std": stdev(all_), "values": all_} for figure, all_ in values.items()}
    return {**entries[0], "metrics": metrics, "seeds": [seed for entry in entries for seed in entry["seeds"]]}


def cell(entry: dict, figure: str) -> str:
    """A figure with its standard deviation over seeds. With one seed, recall@50 has its interval over users instead."""
    value = entry["metrics"][figure]
    text = number(value["mean"])
    if len(value["values"]) > 1:
        return f"{text} ±{number(stdev(value['values']))}"
    low, high = entry["ci90"][figure]
    return f"{text} ({number(low)} .. {number(high)})" if figure == "recall_at_50" else text


def systems(*words: str) -> list[str]:
    """The table of systems of comparisons; the module docstring explains the words."""
    options = dict(word.split("=") for word in words if "=" in word)
    more = [name for name in options.get("segments", "").split(",") if name]
    rows, sources = [], {}
    for names, _, keys in (word.partition(":") for word in words if "=" not in word):
        sources.update(dict.fromkeys(names.split("+")))
        for system in keys.split(","):
            entry = measured(system, names.split("+"))
            cells = [f"{entry['title']} (`{system}`)", str(len(entry["seeds"]) or "")]
            cells += [cell(entry, figure) for figure in FIGURES]
            rows.append(cells + [extra(entry, name) for name in more])
    for title, figures in published(options.get("published")).items():
        cells = (number(figures[name]) if name in figures else "–" for name in FIGURES)
        rows.append([f"{title} (published)", "", *cells])
    head = ["system", "seeds", *HEADS, *(EXTRA[name] for name in more)]
    return [*table(head, rows), "", "From " + ", ".join(link(name) for name in sources) + "."]


def extra(entry: dict, name: str) -> str:
    """A segment's recall@50, or the steps at which the best states were found."""
    if name == "steps":
        return ", ".join(f"{step:,}" for step in entry["steps"])
    return number(entry["segments"][name]["recall_at_50"])


def protocol(name: str) -> list[str]:
    """The protocol behind a comparison's figures, as a list."""
    rules, data = load(name)["protocol"], load(name)["data"]
    sizes = ", ".join(f"{count:,} {kind}" for kind, count in rules["rows"].items())
    start = f", from {rules['test_from']} on" if rules["test_from"] else ""
    ranked = rules["candidates"] if "candidates" in data else f"{data['items']:,}, {rules['candidates']}"
    cap = rules.get("target_cap")  # comparisons before decision 0008
    targets = rules.get("targets") or ("one per row" if cap == 1 else f"the first {cap} of the window")
    return [
        f"- **Split**: {rules['split']}{start}. Rows: {sizes}.",
        f"- **Test**: {data['users']:,} users, {data['targets']:,} targets: {targets}.",
        f"- **Candidates**: {ranked}. Items of the history: {rules['seen_items']}.",
        f"- **Cold items**: {data['cold_items']:,} in no training row. **Long tail**: {data['long_tail_items']:,}.",
        f"- **Ties**: {rules['ties']}.",
        f"- **Lengths**: at most {rules['history_cap']} of history.",
        f"- **Figures**: {rules['metrics']}. Trained systems are picked by {rules['picked_by']}.",
        f"- JSON: {link(name)}.",
    ]


def sampled(name: str) -> list[str]:
    """The table of the systems that rank sampled candidates of sampled rows, best first."""
    found = load(name)["sampled"]
    figures = {"recall_at_1": "R@1", "recall_at_5": "R@5", "ndcg_at_10": "N@10", "mrr": "MRR"}
    best = sorted(found["systems"].items(), key=lambda item: -item[1]["metrics"]["mrr"]["mean"])
    rows = [
        [f"{entry['title']} (`{system}`)", *(number(entry["metrics"][f]["mean"], 3) for f in figures)]
        + [seconds(entry.get("seconds_per_user")), seconds(entry.get("seconds_per_user_all_items"))]
        for system, entry in best
    ]
    return table(["system", *figures.values(), "seconds per user", "for all items"], rows)


def seconds(value: float | None) -> str:
    """Seconds with three digits; empty for None."""
    return "" if value is None else f"{value:,.3g}"


def costs(name: str) -> list[str]:
    """What a comparison's systems cost in training and per ranked user."""
    rows = [
        [
            entry["title"],
            f"{entry['parameters']:,}",
            f"{entry['train_seconds']:,.0f}",
            seconds(1000 * entry["seconds_per_user"]),
        ]
        for entry in load(name)["systems"].values()
    ]
    return table(["system", "learned numbers", "seconds of training", "ms per user"], rows)


def demo_retrieval() -> list[str]:
    """The demo's retrieval figures from its report."""
    found = load("demo")["retrieval"]
    figures = ("recall_at_10", "recall_at_50", "ndcg_at_50", "new_recall_at_50")
    rows = [[entry["title"], *(number(entry[f], 3) for f in figures)] for entry in found["systems"]]
    head = [
        f"{found['users']:,} users, {found['candidates']:,} candidates",
        "R@10",
        "R@50",
        "N@50",
        "R@50, new to the user",
    ]
    return table(head, rows)


def gain(entry: dict, metric: str = "auc") -> str:
    """+.0182 (+.0148 .. +.0218)."""
    low, high = entry[f"{metric}_gain_ci90"]
    return f"{signed(entry[f'{metric}_gain'])} ({signed(low)} .. {signed(high)})"


def demo_ranker() -> list[str]:
    """The ranker with and without the features, and in segments."""
    found = load("demo")["ranker"]
    rows = [
        [title, number(found[f"{m}_without"]), number(found[f"{m}_with"]), gain(found, m)] for m, title in GAINS.items()
    ]
    for name, title in SEGMENTS.items():
        part = found["segments"][name]
        text = f"{title} ({part['rows']:,} samples)"
        rows.append([text, number(part["auc_without"]), number(part["auc_with"]), gain(part)])
    head = f"{found['rows']['test']:,} samples of {found['users']:,} users"
    return table([head, "without", "with the features", "gain, 90% interval"], rows)


def demo_alone() -> list[str]:
    """The gain of each embedding alone over the same base features."""
    found = load("demo")["ranker"]["alone"]
    rows = [[title, gain(found[name]), gain(found[name], "uauc")] for name, title in ALONE.items()]
    return table(["alone beside the same base features", "gain in AUC, 90% interval", "in UAUC"], rows)


def demo_rivals() -> list[str]:
    """The gains of other systems' features over the same base features, and those of the embeddings in their place."""
    ranker = load("rivals")["ranker"]
    rivals, base = ranker["rivals"], ranker["features"]["without"]
    rows = [["user, item and mid embedding", str(ranker["features"]["with"] - base), gain(ranker), "–"]]
    parts = [(rivals["titles"][name], part) for name, part in rivals["systems"].items()]
    for title, part in [*parts, ("all of these together", rivals["together"])]:
        rows.append([title, str(part["features"] - base), gain(part), gain(part["embeddings_instead"])])
    head = ["beside the same base features", "features", "gain in AUC, 90% interval", "the embeddings instead gain"]
    return [*table(head, rows), "", f"From {link('rivals')}."]


def demo_on_top() -> list[str]:
    """The gain of the embeddings on top of all other systems' features."""
    ranker = load("rivals")["ranker"]
    found, alone = ranker["rivals"]["on_top"], ranker["segments"]
    rows = [[title, gain(found, metric), gain(ranker, metric)] for metric, title in GAINS.items()]
    rows += [[title, gain(found["segments"][name]), gain(alone[name])] for name, title in SEGMENTS.items()]
    return table(["the embeddings gain", "on top of all these features", "on top of the base alone"], rows)


def noted(name: str) -> list[str]:
    """A table of figures that were noted by hand when their runs ended."""
    found = load("noted")[name]
    said = f"Noted on {found['date']}, {link('noted')}. Command: `{found['command']}`."
    return [*table(found["columns"], found["rows"]), "", said]


def demo_repeat_bias() -> list[str]:
    """The demo's ranker with and without a repeat bias in the towers."""
    found = load("noted")["demo_repeat_bias"]
    rows = [["without (the demo)", *found["without"][0]], ["with", *found["rows"][0]]]
    return [*table(["towers' repeat bias", *found["columns"]], rows), "", f"Noted on {found['date']}, {link('noted')}."]


def retrain() -> list[str]:
    """The gain that rankers of earlier releases keep, by the number of retrains in between."""
    found = load("retrain")
    rows = [
        _kept(f"{apart} retrain{'s' if apart > 1 else ''} with moved windows", one)
        for apart, one in zip(found["apart"], found["chain"]["kept"], strict=True)
    ]
    last = {
        "another seed": ("1 retrain of the same windows with another seed", 0),
        "content of 64 numbers per item": ("1 retrain more, with content of 64 numbers per item instead of 384", 0),
        "a space of its own": ("1 retrain with moved windows, **not mapped** (`compatible_with: none`)", 0),
    }
    rows += [_kept(title, found[name]["kept"][place]) for name, (title, place) in last.items() if name in found]
    head = [
        "between the ranker's release and the one that it is fed",
        "its gain from its own release",
        "kept, fed the later one",
    ]
    return [
        *table([*head, "share kept, 90% interval", "a ranker trained anew gains"], rows),
        "",
        f"From {link('retrain')}.",
    ]


def _kept(title: str, kept: dict) -> list[str]:
    low, high = kept["share_ci90"]
    share = f"{kept['share']:.0%} ({low:.0%} .. {high:.0%})"
    return [title, signed(kept["auc_gain_earlier"]), signed(kept["auc_gain_kept"]), share, gain(kept)]


CUSTOMERS = "demo_systems"
BASKETS = "online_retail_baskets"
LEADER = ("baskets_leader_and_untrained", "baskets_leader_seeds234", "baskets_leader_seed5")
LEAVE_ONE_OUT, LLM = "movielens_leave_one_out", "demo_llm"


def at_50(system: str, *names: str) -> float:
    """A system's recall@50, the mean over seeds."""
    return measured(system, names)["metrics"]["recall_at_50"]["mean"]


def named(system: str, *names: str) -> str:
    """A system's title and recall@50, for the index."""
    return f"{measured(system, names)['title']}: R@50 {number(at_50(system, *names))}"


def published(config: str | None) -> dict[str, dict[str, float]]:
    """Published figures by title, from a file in conf/."""
    if config is None:
        return {}
    rows = yaml.safe_load((ROOT / "conf" / f"{config}.yaml").read_text(encoding="utf-8"))["comparison"]["published"]
    return {title.removesuffix(", published"): figures for title, figures in rows.items()}


def best_published(figure: str) -> tuple[str, float]:
    """Title and figure of the published row of the baskets with the highest one."""
    rows = {title: row[figure] for title, row in published(BASKETS).items() if figure in row}
    return max(rows.items(), key=lambda row: row[1])


def index() -> list[str]:
    """One row per data set and protocol."""
    ranker = load("demo")["ranker"]
    observed = {row[0]: f"AUC {row[1]} ({row[2]})" for row in load("noted")["movielens_observed"]["rows"]}
    by_50, by_10 = best_published("recall_at_50"), best_published("recall_at_10")
    ours = {
        "customers": f"{named('learn', CUSTOMERS)}; {named('repeat_bias', CUSTOMERS)}",
        "baskets": f"{named('leader', *LEADER)}; {named('leader_repeats', 'baskets_leader_repeats')}",
    }
    compare, run = "`learn-spark compare`", "`learn-spark run_pipeline`"
    rows = [
        ["[Online Retail, customers](customers.md)", "by time", ours["customers"], named("last_item", CUSTOMERS), "–"]
        + [day(CUSTOMERS), compare, link(CUSTOMERS)],
        ["[Online Retail, customers: a ranker](features.md)", "by time", f"all three: AUC {gain(ranker)}"]
        + [f"raw content: AUC {gain(ranker['alone']['item_content'])}", "–", day("demo"), "`make demo`", link("demo")],
        ["[Online Retail, baskets](baskets.md)", "leave-one-out", ours["baskets"]]
        + [
            named("sasrec_repeats", "baskets_sasrec_repeats"),
            f"{by_50[0]}: R@50 {number(by_50[1])}; {by_10[0]}: R@10 {number(by_10[1])}",
        ]
        + [day("baskets_leader_repeats"), compare, link("baskets_leader_repeats")],
        ["[MovieLens 100k](movielens.md)", "leave-one-out", named("leader_repeats", LEAVE_ONE_OUT)]
        + [named("hstu_repeats", LEAVE_ONE_OUT), "–", day(LEAVE_ONE_OUT), compare, link(LEAVE_ONE_OUT)],
        [
            "[MovieLens 100k: a ranker](movielens.md)",
            "by time, observed labels",
            f"user_emb: {observed['user_emb alone']}",
        ]
        + [f"raw content: {observed['raw content of the same width']}", "–"]
        + [load("noted")["movielens_observed"]["date"], run, link("noted")],
        [
            "[Language models, customers](language_models.md), all 3,684 items as candidates",
            "by time",
            named("llm_lora", LLM),
            named("last_item", LLM),
        ]
        + ["–", day(LLM), compare, link(LLM)],
    ]
    return table(["data", "protocol", "ours", "best baseline", "best published", "date", "command", "JSON"], rows)


def headlines() -> list[str]:
    """README's table: one claim per row, with the figure to compare it with."""
    retrieval, ranker = load("demo")["retrieval"], load("demo")["ranker"]
    recalls = {entry["title"]: number(entry["recall_at_50"], 3) for entry in retrieval["systems"]}
    cold, beside = ranker["segments"]["cold_items"], load("rivals")["ranker"]
    on_top, als = beside["rivals"]["on_top"], beside["rivals"]["systems"]["als"]
    by_50, by_10 = best_published("recall_at_50"), best_published("recall_at_10")
    repeats = measured("leader_repeats", ["baskets_leader_repeats"])["metrics"]["recall_at_10"]["mean"]
    rows = [
        ["AUC of a gradient-boosted ranker, Online Retail customers", number(ranker["auc_with"])]
        + [f"{number(ranker['auc_without'])} without the features; gain {gain(ranker)}"],
        ["the same, items that are new", number(cold["auc_with"])]
        + [f"{number(cold['auc_without'])} without the features; gain {gain(cold)}"],
        ["gain of the features on top of ALS, SASRec, id embeddings and co-occurrence", signed(on_top["auc_gain"])]
        + [f"{gain(als)} of ALS by itself, {gain(beside)} of these features by themselves"],
        ["the same, items that are new", signed(on_top["segments"]["cold_items"]["auc_gain"])]
        + [f"{gain(als['segments']['cold_items'])} of ALS by itself"],
        [f"R@50 of the next 28 days' purchases, {retrieval['candidates']:,} candidates", recalls[SCORERS["fitted_"]]]
        + [f"{recalls[SCORERS['last_item_']]} of the customers' own last items"],
        ["the same without the two weights fitted afterwards", recalls[SCORERS[""]]]
        + [f"{recalls[SCORERS['mean_content_with_prior_']]} of content and popularity, untrained"],
        ["R@50 of the next item, Online Retail baskets, leave-one-out", number(at_50("leader", *LEADER), 3)]
        + [f"{number(by_50[1], 3)} of {by_50[0]}, the best that publishes it"],
        ["R@10 of it, with a repeat bias", number(repeats, 3)]
        + [f"{number(by_10[1], 3)} of {by_10[0]}, the best published, which does not raise the history's items either"],
        ["R@50 of the next film, MovieLens 100k, leave-one-out", number(at_50("leader_repeats", LEAVE_ONE_OUT), 3)]
        + [f"{number(at_50('hstu_repeats', LEAVE_ONE_OUT), 3)} of HSTU with the same repeat bias"],
    ]
    return table(["figure", "learn-spark", "to be held against"], rows)


KINDS: dict[str, Callable[..., list[str]]] = {
    "index": index,
    "headlines": headlines,
    "systems": systems,
    "protocol": protocol,
    "costs": costs,
    "sampled": sampled,
    "noted": noted,
    "demo_retrieval": demo_retrieval,
    "demo_ranker": demo_ranker,
    "demo_alone": demo_alone,
    "demo_rivals": demo_rivals,
    "demo_on_top": demo_on_top,
    "demo_repeat_bias": demo_repeat_bias,
    "retrain": retrain,
}


def demo_figures(summary: dict, day: str) -> dict:
    """The parts of a demo's summary.json that the pages need."""
    found = summary["retrieval"]
    figures = [f"{kind}{figure}" for kind in ("", "new_") for figure in FIGURES]
    systems = [
        {"title": title, **{figure: found[prefix + figure] for figure in figures}} for prefix, title in SCORERS.items()
    ]
    return {
        "date": day,
        "command": "make demo",
        "release_id": summary["release_id"],
        "retrieval": {
            "users": found["users"],
            "candidates": found["items"],
            "targets": found["targets"],
            "systems": systems,
        },
        "ranker": summary["ranker"],
    }


def filled(page: str) -> str:
    """The page with its tables regenerated."""
    return BLOCK.sub(lambda it: it[1] + "\n".join(KINDS[it[2]](*it[3].split())) + "\n" + it[4], page)


def main() -> None:
    """Writes every page; with --demo or --rivals, first the JSON file of that run's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, metavar="SUMMARY", help="summary.json of a run of `make demo`")
    parser.add_argument("--date", default=date.today().isoformat(), help="of that run (default: today)")
    parser.add_argument("--rivals", type=Path, metavar="SUMMARY", help="summary.json of a run with evaluation.rivals")
    args = parser.parse_args()
    if args.rivals:
        ranker = json.loads(args.rivals.read_text(encoding="utf-8"))["ranker"]
        figures = {"date": args.date, "ranker": {key: ranker[key] for key in ranker if key != "alone"}}
        file("rivals").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if args.demo:
        figures = demo_figures(json.loads(args.demo.read_text(encoding="utf-8")), args.date)
        file("demo").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
