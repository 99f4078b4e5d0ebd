"""What Spark's own event log says of the plans that a command ran, step by step."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.builders.reading import relation

_SQL = "org.apache.spark.sql.execution.ui.SparkListenerSQL"


def nodes_of_steps(log: Path, lake: Path) -> dict[str, Counter[str]]:
    """How often each kind of node stands in the final plans of each step that the ledger says was done last.

    Args:
        log: the folder that `spark.eventLog.dir` named, with the log of one application.
        lake: whose ledger says when each step ended.
    """
    ended = relation(lake, "intervals").aggregate("step, epoch_ms(max(finished_at)) AS at").order("at").fetchall()
    steps: dict[str, Counter[str]] = {}
    for started, plan in _final_plans(log):
        step = next((step for step, at in ended if started <= at), None)
        if step:
            steps.setdefault(step, Counter()).update(_names(plan))
    return steps


def _final_plans(log: Path) -> Iterator[tuple[int, dict]]:
    """When each execution began, and its plan as adaptive execution left it."""
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


def _names(plan: dict) -> Iterator[str]:
    """`CometScan parquet` -> `CometScan`."""
    yield plan["nodeName"].split(" ")[0]
    for child in plan["children"]:
        yield from _names(child)
