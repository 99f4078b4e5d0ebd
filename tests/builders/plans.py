"""Reads from Spark's event log which plans a command ran, step by step."""

import json
from collections.abc import Iterator
from pathlib import Path

from tests.builders.reading import relation

_SQL = "org.apache.spark.sql.execution.ui.SparkListenerSQL"
# Nodes that adaptive execution wraps around the working nodes.
WRAPPERS = {"AdaptiveSparkPlan", "ResultQueryStage", "ShuffleQueryStage", "BroadcastQueryStage", "TableCacheQueryStage"}
WRAPPERS |= {"AQEShuffleRead", "ReusedExchange", "Execute"}


def nodes_of_steps(log: Path, lake: Path) -> dict[str, set[str]]:
    """By step, the kinds of nodes in the final plans that read files of tables or raw files.

    Plans that read only Delta's log are Delta's bookkeeping and are left out.

    Args:
        log: the folder of `spark.eventLog.dir`, with the log of one application.
        lake: the lake whose ledger says when each step ended.
    """
    ends = relation(lake, "intervals").aggregate("step, epoch_ms(max(finished_at)) AS finished").order("finished")
    ended = ends.fetchall()
    steps: dict[str, set[str]] = {}
    for started, plan in _final_plans(log):
        step = next((step for step, finished in ended if started <= finished), None)
        if step and any("[file:" in node["simpleString"] and "_delta_log" not in str(node) for node in _nodes(plan)):
            steps.setdefault(step, set()).update(node["nodeName"].split(" ")[0] for node in _nodes(plan))
    return {step: names - WRAPPERS for step, names in steps.items()}


def _final_plans(log: Path) -> Iterator[tuple[int, dict]]:
    """The start time of each execution, and its final plan after adaptive execution."""
    begun: dict[int, int] = {}
    plans: dict[int, dict] = {}
    for file in sorted(log.rglob("events_*")):
        for line in file.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if event["Event"] == f"{_SQL}ExecutionStart":
                begun[event["executionId"]] = event["time"]
            if event["Event"] in (f"{_SQL}ExecutionStart", f"{_SQL}AdaptiveExecutionUpdate"):
                plans[event["executionId"]] = event["sparkPlanInfo"]
    for number, plan in plans.items():
        yield begun[number], plan


def _nodes(plan: dict) -> Iterator[dict]:
    yield {name: plan[name] for name in ("nodeName", "simpleString")}
    for child in plan["children"]:
        yield from _nodes(child)
