"""A benchmark's result: the schema of benchmarks/results/*.json, and the table that people read."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import BaseModel, ConfigDict, Field

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pyspark", "delta-spark", "pyarrow", "numpy", "polars", "duckdb", "torch")


class Part(BaseModel):
    """A part of a result. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class Case(Part):
    """A contender at a size: one entry per measured round; `peak_mb` is the highest of all its rounds."""

    contender: str
    size: float
    seconds: list[float]
    peak_mb: int | None
    figures: dict[str, list[float]] = {}
    failure: str | None = None


class Fit(Part):
    """The line T = a + b n through the median seconds: `fixed_seconds` is a, `seconds_per_million` is b per million."""

    contender: str
    fixed_seconds: float
    seconds_per_million: float


class RatioRow(Part):
    """A ratio of two contenders, its 90% interval, and whether the interval's worse end meets the target."""

    name: str
    value: float
    ci90: tuple[float, float]
    target: str | None
    met: bool | None


class Result(Part):
    """The whole result of a run, as its JSON file holds it."""

    bench: str
    machine: Annotated[str, Field(pattern=r"^\d+cpu-\d+gb$")]
    commit: str
    date: str
    rounds: int
    packages: dict[str, str]
    rooflines: dict[str, float]
    cases: list[Case]
    fits: list[Fit]
    ratios: list[RatioRow]


def machine() -> str:
    """Processors and memory, such as `2cpu-24gb`; never the machine's name."""
    return f"{os.cpu_count()}cpu-{round(psutil.virtual_memory().total / 2**30)}gb"


def commit() -> str:
    """The checked-out commit, with `-dirty` if files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"


def packages() -> dict[str, str]:
    """The versions that the figures depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def write_result(result: Result, path: Path) -> None:
    """Writes the result whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
    half.replace(path)


def table(result: Result) -> str:
    """Cases, fits, ratios and rooflines as lines of text."""
    lines = [f"{result.bench} on {result.machine}, commit {result.commit}, {result.rounds} rounds", ""]
    lines += [f"{'contender':<16}{'size':>13}{'seconds':>26}{'peak MiB':>10}"]
    lines += [_case_line(case) for case in result.cases]
    if result.fits:
        lines += ["", "T = a + b n"]
        lines += [
            f"{fit.contender:<16}a {fit.fixed_seconds:7.2f} s   b {fit.seconds_per_million:7.4f} s a million"
            for fit in result.fits
        ]
    if result.ratios:
        lines += ["", f"{'ratio':<44}{'median':>8}{'90% interval':>18}{'target':>10}"]
        lines += [_ratio_line(row) for row in result.ratios]
    lines += ["", "rooflines: " + ", ".join(f"{name} {value:g}" for name, value in result.rooflines.items())]
    return "\n".join(lines)


def _case_line(case: Case) -> str:
    if case.seconds:
        ordered = sorted(case.seconds)
        told = f"{ordered[len(ordered) // 2]:.2f} ({ordered[0]:.2f} .. {ordered[-1]:.2f})"
    else:
        told = ""
    peak = "" if case.peak_mb is None else str(case.peak_mb)
    middles = {name: sorted(values)[len(values) // 2] for name, values in case.figures.items() if values}
    figures = "".join(f"  {name} {value:,.{0 if value >= 100 else 4}f}" for name, value in middles.items())
    return f"{case.contender:<16}{case.size:>13,.9g}{told:>26}{peak:>10}{figures}{'  ' + (case.failure or '')}".rstrip()


def _ratio_line(row: RatioRow) -> str:
    interval = f"{row.ci90[0]:.3f} .. {row.ci90[1]:.3f}"
    verdict = {None: "", True: "  met", False: "  MISSED"}[row.met]
    return f"{row.name:<44}{row.value:>8.3f}{interval:>18}{row.target or '':>10}{verdict}"
