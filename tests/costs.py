"""The cost of tests: a guard that costly tests have markers, the order of the files, and a record of durations."""

import multiprocessing.util
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

COSTLY = ("process", "spark", "e2e")
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
PROBES = {"git", "lscpu", "uname", "/sbin/ldconfig"}  # libraries run them to learn the commit and the machine
NEEDS_A_LAKE = "finished"  # the fixture of tests/builders/journey.py with a copy of the finished journey's lake


class _Watch:
    """Is told of every process that Python starts; records those started by tests without a marker of their cost."""

    def __init__(self) -> None:
        self.is_on = False
        self.started: list[str] = []

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.is_on and event in STARTS:
            command = arguments[1] if event == "subprocess.Popen" else [event]
            if command[0] not in PROBES:
                self.started.append(str(command)[:200])


def _spawned_loudly(path, args, passfds, spawn=multiprocessing.util.spawnv_passfds):
    """Reports the one way of starting a process for which Python raises no audit event."""
    sys.audit("os.posix_spawn", path, args, None)
    return spawn(path, args, passfds)


def is_costly(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in COSTLY)


watch = _Watch()
sys.addaudithook(watch.hear)
multiprocessing.util.spawnv_passfds = _spawned_loudly


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    watch.is_on = not is_costly(item)
    watch.started.clear()
    try:
        return (yield)
    finally:
        watch.is_on = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if "spark" in getattr(item, "fixturenames", ()) and not is_costly(item):
        pytest.fail(f"{item.nodeid} takes the fixture `spark`: mark it pytest.mark.spark", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    yield
    if watch.started:
        started = "; ".join(watch.started)
        pytest.fail(f"{item.nodeid} starts a process ({started}): mark it pytest.mark.process", pytrace=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs costly files first, so that no worker ends with a long one, and after them tests of the finished lake."""
    ranks: dict[Path, int] = {}
    for item in items:
        ranks[item.path] = min(_rank(item), ranks.get(item.path, len(COSTLY) + 1))
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (ranks[item.path], -tests[item.path]))


def _rank(item: pytest.Item) -> int:
    if item.get_closest_marker("e2e") and NEEDS_A_LAKE not in getattr(item, "fixturenames", ()):
        return 0
    if item.get_closest_marker("spark"):
        return 1
    if item.get_closest_marker("e2e"):
        return 2
    return 3 if item.get_closest_marker("process") else 4


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", type=Path, metavar="FILE", help="write seconds per file and per test to it")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    file = config.getoption("--record-durations")
    if file is None:
        return
    tests: Counter[str] = Counter()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if isinstance(report, pytest.TestReport):
            tests[report.nodeid] += report.duration
    files: Counter[str] = Counter()
    for name, seconds in tests.items():
        files[name.split("::")[0]] += seconds
    lines = [f"{seconds:9.2f} {name}" for counted in (files, tests) for name, seconds in counted.most_common()]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
