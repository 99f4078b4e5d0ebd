"""The wheel in an environment of its own: a user's config of fourteen lines and a user's files, outside the repository.

Only learn-spark is installed in the environment. A path file adds the dependencies of the environment that runs the
tests, in the versions of constraints.txt, because downloading 3 GB again would prove nothing about this project. Python
ignores path files in folders that a path file names, so the checkout, which is installed there as editable, cannot be
imported. A test checks that.
"""

import csv
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.builders.commands import environment
from tests.builders.reading import relation
from tests.builders.wheel import built_wheel

pytestmark = pytest.mark.e2e

CONFIG = """\
ingest:
  path: logs
  files: "{day}/*.csv"
  start: 2024-01-01
  mapping:
    user_id: {column: customer}
    item_id: {column: sku}
    event_ts: {column: time}
    event_type: {constant: purchase}
    title: {column: name}
windows: {first_as_of: 2024-02-01, towers_end: 2024-04-01, cvr_end: 2024-04-10, ranker_train_end: 2024-04-20,
          end: 2024-05-01}
spark: {master: "local[1]", driver_memory: 1g, shuffle_partitions: 1, ui: false}
embedding: {max_tokens: 32}
"""
DAYS = ("2024-01-01", "2024-01-02", "2024-01-03")
LOOK = """
import learn_spark, models
from importlib.resources import files
from learn_spark.systems.specs import known_systems
from learn_spark.config.load import Config
from learn_spark.evaluation.html import template
template("report.html.jinja"), template("comparison.html.jinja"), known_systems(Config())["sasrec"]
for package in ("learn_spark", "models"):
    assert files(package).joinpath("py.typed").is_file(), package
print(learn_spark.__file__, models.__file__, sep="\\n")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of the environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(built_wheel())], folder)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A user's folder: a config, and logs of three days beside it."""
    assert len(CONFIG.splitlines()) == 14
    (tmp_path / "shop.yaml").write_text(CONFIG)
    for number, day in enumerate(DAYS):
        file = tmp_path / "logs" / day / "part-0.csv"
        file.parent.mkdir(parents=True)
        with file.open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(("customer", "sku", "time", "name"))
            writer.writerows((f"u{n}", f"i{n % 3}", f"{day} 10:0{n}:00", f"thing {n % 3}") for n in range(5 + number))
    return tmp_path


def run(command: list[str], folder: Path, codes: tuple[int, ...] = (0, 99)) -> subprocess.CompletedProcess:
    """Runs a command outside the checkout, without variables that point to it; asserts its exit code."""
    clean = {name: value for name, value in environment().items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean["PATH"] = os.pathsep.join((str(Path(command[0]).parent), os.environ["PATH"]))
    clean["JDK_JAVA_OPTIONS"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # quick compilation, as in conf/test.yaml
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=600)
    assert done.returncode in codes, f"{command}: {done.stdout}{done.stderr}"[-5000:]
    return done


def test_the_wheel_holds_all_that_it_reads_and_nothing_comes_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    places = run([str(installed / "python"), "-c", LOOK], tmp_path).stdout.split()
    assert [Path(place).is_relative_to(installed.parent) for place in places] == [True, True]


@pytest.mark.long
def test_a_users_config_runs_over_a_users_files(installed: Path, shop: Path) -> None:
    command = str(installed / "learn-spark")
    planned = run([command, "run_pipeline", "--config", "shop.yaml", "--dry-run"], shop, codes=(2,))
    assert "1. ingest_events" in planned.stdout and "7. evaluate_features" in planned.stdout
    assert "18 events of 7 users and 3 items on 3 days" in planned.stdout
    assert "events lie on 3 of 3 days (2024-01-01 .. 2024-01-03)" in planned.stderr, "too few for the windows"
    assert not (shop / "lake").exists()
    run([command, "ingest_events", "--config", "shop.yaml", "--start", DAYS[0], "--end", "2024-01-04"], shop)
    rows = relation(shop / "lake", "interactions")
    assert rows.count("*").fetchall() == [(5 + 6 + 7,)]
    assert sorted({path.name for path in shop.iterdir()}) == ["lake", "logs", "output", "shop.yaml"]
