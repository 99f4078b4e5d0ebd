"""The harness of all benchmarks: it runs contenders interleaved, each in a process of its own."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.child import Task
from benchmarks.process import ROOT, Outcome, run_task
from benchmarks.ratios import Ratio, Run, Runs, SlopeRatio
from benchmarks.result import Result, commit, machine, packages, table, write_result
from benchmarks.rooflines import measure_rooflines

WARM_UP = 0
MEMORY_SHARE = 0.85  # memory limit as a share of the free memory at the start; beyond it the machine would swap


@dataclass(frozen=True)
class Contender:
    """One way to do the work that is measured.

    Attributes:
        name: its name in cases and ratios.
        target: `module:function`, called with a `Task`; it writes to `task.output` inside `task.clock()`.
        check: `module:function`, called after `target`. It sets `task.figures["checksum"]`; contenders with the same
            check must get the same checksum. Further figures are added to the contender's own. The figure `failure`
            says why an output that need not be equal is not good enough; it makes the run a failure.
    """

    name: str
    target: str
    check: str


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's definition; `prepare` makes the inputs of all `task.sizes` below `task.folder`."""

    name: str
    sizes: tuple[float, ...]
    quick_sizes: tuple[float, ...]
    prepare: str
    contenders: tuple[Contender, ...]
    ratios: tuple[Ratio, ...]
    slope_ratios: tuple[SlopeRatio, ...] = ()


class BenchmarkError(Exception):
    """The run is invalid: outputs differ, or inputs cannot be made."""


def main(bench: Benchmark, arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark with the given options, prints the table, and returns the exit code."""
    options = _options(bench, arguments)
    try:
        result = Harness(bench, options).run()
    except BenchmarkError as error:
        print(f"{bench.name}: {error}", file=sys.stderr)
        return 1
    print(table(result))
    return 0


def _options(bench: Benchmark, arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [contender.name for contender in bench.contenders]
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{bench.name}")
    parser.add_argument("--quick", action="store_true", help="small inputs, rough figures, nothing for the record")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds after the warm-up")
    parser.add_argument("--sizes", type=float, nargs="+", help=f"instead of {bench.sizes}")
    parser.add_argument("--contenders", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument("--memory", action="store_true", help="peak memory only: each once at the largest size")
    parser.add_argument("--resume", action="store_true", help="go on where the same commit's last run was killed")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds a contender may take")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench", help="inputs, outputs, logs")
    parser.add_argument("--results", type=Path, help="instead of benchmarks/results (quick: FOLDER/results)")
    options = parser.parse_args(arguments)
    sizes = options.sizes or (bench.quick_sizes if options.quick else bench.sizes)
    options.sizes = [max(sizes)] if options.memory else sorted(sizes)
    options.rounds = 1 if options.memory else options.rounds
    options.folder = options.folder.resolve()
    options.results = options.results or (options.folder if options.quick else ROOT / "benchmarks") / "results"
    return options


class Harness:
    """A run of a benchmark. Its journal has one line per process, from which `--resume` continues."""

    def __init__(self, bench: Benchmark, options: argparse.Namespace) -> None:
        self._bench = bench
        self._options = options
        self._contenders = [each for each in bench.contenders if each.name in options.contenders]
        self._variant = f"{bench.name}_memory" if options.memory else bench.name
        self._work = options.folder / self._variant
        self._journal = self._work / "journal.jsonl"
        self._memory_mb = int(psutil.virtual_memory().available * MEMORY_SHARE) >> 20
        self._commit = commit()
        self._date = datetime.now(UTC).date().isoformat()
        self._rooflines: dict[str, float] = {}
        self._runs: list[Run] = []

    def run(self) -> Result:
        """Runs all rounds of all sizes; rewrites the result's file after every round.

        Raises:
            BenchmarkError: inputs cannot be made, or outputs differ.
        """
        self._open_journal()
        self._say(f"making the inputs of {self._options.sizes}")
        self._finished(self._start("prepare", self._bench.prepare, max(self._options.sizes)), "prepare")
        self._rooflines = measure_rooflines(self._work, self._options.quick)
        for size in self._options.sizes:
            for number in range(1 if self._options.memory else WARM_UP, self._options.rounds + 1):
                self._round(size, number)
                write_result(self._result(), self._result_file())
        shutil.rmtree(self._output(), ignore_errors=True)
        return self._result()

    def _round(self, size: float, number: int) -> None:
        """Runs every contender once. Each round begins with another contender."""
        turn = number % len(self._contenders)
        for contender in self._contenders[turn:] + self._contenders[:turn]:
            known = [run for run in self._runs if (run.contender, run.size) == (contender.name, size)]
            if any(run.failure or run.round == number for run in known):
                continue
            run = self._measure(contender, size, number)
            self._compare(contender, run)
            self._runs.append(run)
            self._note(run.to_dict())
            told = run.failure or f"{run.seconds:.2f} s, {run.peak_mb} MiB"
            self._say(f"{size:,.9g} round {number} {contender.name}: {told}")

    def _measure(self, contender: Contender, size: float, number: int) -> Run:
        outcome = self._start(contender.name, contender.target, size)
        run = Run(size, number, contender.name, outcome.peak_mb, outcome.seconds, outcome.figures)
        if outcome.failure:
            return Run(size, number, contender.name, outcome.peak_mb, failure=outcome.failure)
        checked = self._finished(self._start(f"{contender.name}_check", contender.check, size, keep=True), "check")
        figures = run.figures | checked.figures
        checksum, failure = str(figures.pop("checksum")), figures.pop("failure", None)
        return Run(**run.to_dict() | {"figures": figures, "checksum": checksum, "failure": failure})

    def _compare(self, contender: Contender, run: Run) -> None:
        peers = {each.name for each in self._bench.contenders if each.check == contender.check}
        for other in self._runs:
            if run.checksum and other.checksum and other.size == run.size and other.contender in peers:
                if other.checksum != run.checksum:
                    raise BenchmarkError(
                        f"outputs differ at {run.size:,.9g}: {contender.name} {run.checksum}, "
                        f"{other.contender} {other.checksum}"
                    )
                return

    def _start(self, name: str, target: str, size: float, keep: bool = False) -> Outcome:
        if not keep:
            shutil.rmtree(self._output(), ignore_errors=True)
        task = Task(
            size=size,
            sizes=self._options.sizes,
            quick=self._options.quick,
            folder=self._options.folder,
            output=self._output(),
            memory_mb=self._memory_mb,
        )
        return run_task(target, task, self._work / "logs" / f"{name}_{size:g}.log", self._options.timeout)

    def _finished(self, outcome: Outcome, name: str) -> Outcome:
        if outcome.failure:
            raise BenchmarkError(f"{name}: {outcome.failure}; its output is in {self._work / 'logs'}")
        return outcome

    def _open_journal(self) -> None:
        run = {"commit": self._commit, "date": self._date, "quick": self._options.quick}
        if self._options.resume and self._journal.exists():
            first, *lines = map(json.loads, self._journal.read_text(encoding="utf-8").splitlines())
            if first != run:
                raise BenchmarkError(f"--resume: the last run was {first}, this one is {run}; run without it")
            self._runs = [Run(**line) for line in lines]
        else:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            self._journal.write_text("", encoding="utf-8")
            self._note(run)

    def _note(self, entry: dict[str, object]) -> None:
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry) + "\n")

    def _result(self) -> Result:
        runs = Runs(self._runs)
        ratios = [row for ratio in self._bench.ratios for row in runs.ratio_rows(ratio)]
        ratios += [row for ratio in self._bench.slope_ratios for row in runs.slope_rows(ratio)]
        return Result(
            bench=self._bench.name,
            machine=machine(),
            commit=self._commit,
            date=self._date,
            rounds=self._options.rounds,
            packages=packages(),
            rooflines=self._rooflines,
            cases=runs.cases(),
            fits=runs.fits() if self._bench.slope_ratios else [],  # in other benchmarks sizes are not amounts of work
            ratios=[] if self._options.memory else ratios,
        )

    def _result_file(self) -> Path:
        return self._options.results / f"{self._variant}_{machine()}_{self._date}.json"

    def _output(self) -> Path:
        return self._work / "output"

    def _say(self, line: str) -> None:
        print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)
