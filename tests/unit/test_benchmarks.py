"""The benchmarks' harness: its statistics, its results' schema, and a tiny run with real child processes."""

import csv
import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks.file_order import write_in_file_order
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.process import ROOT, run_task
from benchmarks.ratios import Ratio, Run, Runs, SlopeRatio, Target
from benchmarks.result import Result
from benchmarks.stats import Estimate, fitted_line, paired_ratio, slopes
from tests.builders import contenders

RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def contender(name: str, function: str | None = None, check: str = "check_numbers") -> Contender:
    return Contender(name, f"{contenders.__name__}:{function or name}", f"{contenders.__name__}:{check}")


def benchmark(*entered: Contender) -> Benchmark:
    return Benchmark(
        name="tiny",
        sizes=(1000, 2000, 3000),
        quick_sizes=(10, 20),
        prepare=f"{contenders.__name__}:prepare",
        contenders=entered,
        ratios=(Ratio("slow", "fast", Target(">=", 2.0)),),
        slope_ratios=(SlopeRatio("slow", ("fast",), Target("<=", 1.5)),),
    )


def run(tmp_path: Path, bench: Benchmark, *arguments: str) -> tuple[int, Result | None]:
    rc = main(bench, ["--quick", "--rounds", "1", "--folder", str(tmp_path), *arguments])
    written = list((tmp_path / "results").glob("tiny_*.json"))
    return rc, Result.model_validate_json(written[0].read_text()) if written else None


def runs_of(seconds: dict[str, dict[float, list[float]]]) -> Runs:
    """Runs in rounds 0, 1, … of each contender and size."""
    return Runs(
        [
            Run(size, number, name, peak_mb=1, seconds=value)
            for name, sizes in seconds.items()
            for size, values in sizes.items()
            for number, value in enumerate(values)
        ]
    )


def test_ratio_is_the_median_of_the_rounds_not_of_the_contenders() -> None:
    estimate = paired_ratio([1, 20, 3, 40, 5], [1, 10, 1, 20, 1])
    assert estimate.value == 2.0  # of 1, 2, 3, 2, 5; the medians' ratio would be 5
    assert 1 <= estimate.low <= 2 <= estimate.high <= 5


def test_interval_shrinks_with_rounds_and_covers_the_truth() -> None:
    noisy = [1.0, 1.4, 0.8, 1.1, 0.9]
    few = paired_ratio([2 * value for value in noisy], [1.0] * 5)
    many = paired_ratio([2 * value for value in noisy] * 20, [1.0] * 100)
    assert few.low < 2 < few.high
    assert many.high - many.low < few.high - few.low


def test_same_figures_give_the_same_interval() -> None:
    assert paired_ratio([1, 2, 3], [3, 2, 1]) == paired_ratio([1, 2, 3], [3, 2, 1])


def test_line_and_slopes_are_those_of_the_rounds() -> None:
    assert fitted_line([1, 2, 4], [5, 7, 11]) == pytest.approx((3, 2))
    assert slopes({1: [5, 10], 2: [7, 13], 4: [11, 19]}) == pytest.approx([2, 3])
    with pytest.raises(ValueError, match="two sizes"):
        fitted_line([3, 3], [1, 2])


@pytest.mark.parametrize(
    ("target", "estimate", "is_met"),
    [
        (Target(">=", 2), Estimate(2.5, 2.0, 3.0), True),
        (Target(">=", 2), Estimate(2.5, 1.9, 3.0), False),
        (Target("<=", 1.4), Estimate(1.2, 1.0, 1.4), True),
        (Target("<=", 1.4), Estimate(1.2, 1.0, 1.5), False),
        (Target("<=", 1.5), Estimate(-1.0, -2.0, 1.0), False),
    ],
)
def test_the_worse_end_decides(target: Target, estimate: Estimate, is_met: bool) -> None:
    assert target.is_met(estimate) is is_met


def test_warm_up_and_failed_cases_give_no_figures() -> None:
    failed = Run(1, 2, "b", peak_mb=9, failure="out of memory")
    runs = Runs(
        [Run(1, 0, "a", 5, seconds=99.0), Run(1, 1, "a", 5, seconds=2.0), Run(1, 1, "b", 7, seconds=1.0), failed]
    )
    assert runs.measured("a", 1) == {1: 2.0}
    assert runs.ratio_rows(Ratio("a", "b")) == []
    case = runs.cases()[1]
    assert (case.contender, case.seconds, case.peak_mb, case.failure) == ("b", [], 9, "out of memory")


def test_slope_ratio_takes_the_better_rival_over_common_sizes() -> None:
    runs = runs_of(
        {
            "ours": {1: [0, 3, 3], 2: [0, 6, 6], 3: [0, 9, 9]},
            "near": {1: [0, 2, 2], 2: [0, 4, 4]},
            "far": {1: [0, 9, 9], 2: [0, 99, 99], 3: [0, 189, 189]},
        }
    )
    for limit, is_met in ((1.501, True), (1.499, False)):  # a fit is exact to rounding
        (row,) = runs.slope_rows(SlopeRatio("ours", ("near", "far"), Target("<=", limit)))
        assert (row.name, row.value, row.met) == ("ours/near slope", pytest.approx(1.5), is_met)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_committed_result_keeps_the_schema(path: Path) -> None:
    result = Result.model_validate_json(path.read_text(encoding="utf-8"))
    assert path.stem in {f"{result.bench}{kind}_{result.machine}_{result.date}" for kind in ("", "_memory")}
    assert all(result.rooflines.values())
    assert not [case for case in result.cases if not case.seconds and not case.failure]


@pytest.mark.process
def test_contenders_run_apart_and_their_ratio_is_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rc, result = run(tmp_path, benchmark(contender("slow"), contender("fast"), contender("broken")))
    assert rc == 0
    cases = {(case.contender, case.size): case for case in result.cases}
    assert set(cases) == {(name, size) for name in ("slow", "fast", "broken") for size in (10, 20)}
    slow, fast, broken = (cases[name, 10] for name in ("slow", "fast", "broken"))
    assert len(slow.seconds) == len(fast.seconds) == 1
    assert slow.figures == {"bytes": [10]}
    assert slow.peak_mb > fast.peak_mb + 100  # the memory of the child's own child counts
    assert (broken.failure, broken.seconds) == ("out of memory", [])
    assert [row.name for row in result.ratios][:2] == ["slow/fast seconds at 10", "slow/fast seconds at 20"]
    assert result.ratios[0].met is True
    assert str(tmp_path) not in result.model_dump_json()
    printed = capsys.readouterr().out
    assert ">= 2  met" in printed and "rooflines: memory_copy_gb_s" in printed


@pytest.mark.process
def test_different_outputs_end_the_run_before_any_ratio(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rc, result = run(tmp_path, benchmark(contender("fast"), contender("slow", "wrong")))
    assert (rc, result) == (1, None)
    captured = capsys.readouterr()
    assert "outputs differ at 10: slow" in captured.err and captured.out == ""


@pytest.mark.process
def test_output_that_is_not_good_enough_is_a_failure_without_a_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bench = benchmark(contender("slow"), contender("fast", check="refuse"))
    rc, result = run(tmp_path, bench, "--sizes", "10")
    found = {case.contender: (case.failure, len(case.seconds)) for case in result.cases}
    assert (rc, found, result.ratios) == (0, {"slow": (None, 1), "fast": ("not faithful", 0)}, [])
    assert "not faithful" in capsys.readouterr().out


@pytest.mark.process
def test_resumed_run_measures_only_what_is_missing(tmp_path: Path) -> None:
    bench = benchmark(contender("slow"), contender("fast"))
    run(tmp_path, bench, "--sizes", "10")
    journal = tmp_path / "tiny" / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:-1]) + "\n")
    _, result = run(tmp_path, bench, "--sizes", "10", "--resume")
    resumed = journal.read_text().splitlines()
    assert resumed[:-1] == lines[:-1]
    assert len(resumed) == len(lines)
    assert sorted(len(case.seconds) for case in result.cases) == [1, 1]
    header = json.loads(lines[0]) | {"commit": "another"}
    journal.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    assert main(bench, ["--quick", "--sizes", "10", "--folder", str(tmp_path), "--resume"]) == 1


@pytest.mark.process
@pytest.mark.parametrize(
    ("memory_mb", "timeout", "failure"),
    [(60, 60, "above the memory limit of 60 MiB"), (100_000, 1.0, "ended after 1 s")],
)
def test_what_takes_too_much_is_ended_with_all_its_processes(
    tmp_path: Path, memory_mb: int, timeout: float, failure: str
) -> None:
    before = set(psutil.Process().children(recursive=True))
    task = contenders.task(tmp_path, memory_mb)
    outcome = run_task(f"{contenders.__name__}:endless", task, tmp_path / "log", timeout)
    assert failure in outcome.failure
    assert is_gone(int((tmp_path / "pid").read_text()))
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.process
def test_contender_ends_with_a_killed_harness(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from benchmarks.process import run_task; from tests.builders import contenders\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "run_task(contenders.__name__ + ':waiting', contenders.task(folder, 10_000), folder / 'log', 60)"
    )
    harness = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    pid = Path(tmp_path / "pid")
    assert within_seconds(30, lambda: pid.exists() and pid.read_text())
    harness.kill()
    harness.wait()
    assert within_seconds(10, lambda: is_gone(int(pid.read_text())))


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def within_seconds(seconds: float, is_so: Callable[[], object]) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(is_so())


def test_lines_in_file_order_are_microseconds_apart(tmp_path: Path) -> None:
    head = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate"
    days = {"2010-12-01": ["1,b,Bag,1", "1,a,Axe,2", "2,c,Cup,1"], "2010-12-02": ["1,b,Bag,1", "1,d,,1", "1,e,Egg,1"]}
    for day, lines in days.items():
        with gzip.open(tmp_path / f"{day}.csv.gz", "wt") as file:
            file.write("\n".join([head, *(f"{line},2010-12-01 08:26:00" for line in lines)]) + "\n")
    assert write_in_file_order(tmp_path, tmp_path / "out") == 4
    rows = []
    for day in days:
        with gzip.open(tmp_path / "out" / f"{day}.csv.gz", "rt") as file:
            rows += [(row["StockCode"], row["InvoiceDate"][-9:]) for row in csv.DictReader(file)]
    assert rows == [("b", "00.000000"), ("a", "00.000001"), ("c", "00.000000"), ("e", "00.000002")]
    with pytest.raises(ValueError, match=r"holds no \*.csv.gz"):
        write_in_file_order(tmp_path / "none", tmp_path / "out")
