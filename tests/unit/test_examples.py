"""The examples for schedulers use commands that this version understands, and react to its exit codes."""

import ast
import re
import subprocess
import sys
from datetime import UTC, date, datetime
from types import ModuleType

import pytest
import yaml

from learn_spark.cli.main import build_parser
from models.contract.settings import CVRConfig, TowersConfig
from models.export import online_programs as online
from models.saved import save_cvr, save_towers
from models.towers.cvr import CVRModel
from models.towers.towers import Towers
from tests.builders.commands import ROOT
from tests.builders.tensors import random_vectors, write_matrix

EXAMPLES = ROOT / "examples"


def test_every_example_is_looked_at():
    names = {"airflow_dag.py", "spark_application.yaml", "crontab", "score_online.py"}
    assert {path.name for path in EXAMPLES.iterdir()} == names


@pytest.mark.process
@pytest.mark.parametrize("runtime", ["pt2", "onnx"])
def test_a_user_and_500_candidates_are_scored_without_this_project(tmp_path, runtime):
    if runtime == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra `online`: onnx, onnxscript, onnxruntime")
    towers = Towers(TowersConfig(d_model=16, layers=1, heads=2, embedding_dim=8, item_bias=True), 12, num_items=40)
    save_towers(tmp_path / "towers", towers)
    save_cvr(tmp_path / "cvr", CVRModel(CVRConfig(), 8, 8))
    folders = {"towers": tmp_path / "towers", "cvr": tmp_path / "cvr", "out_dir": tmp_path / "out"}
    online.run(online.OnlineSpec(**folders, formats=(runtime,)))
    write_matrix(tmp_path / "matrix", random_vectors(600, dim=12))
    block = "import sys, runpy; sys.modules.update(dict.fromkeys(['models', 'learn_spark'])); sys.argv = sys.argv[1:]; "
    command = [sys.executable, "-c", block + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    command += [str(EXAMPLES / "score_online.py"), "--programs", str(tmp_path / "out"), "--format", runtime]
    command += ["--matrix", str(tmp_path / "matrix"), "--repeats", "10"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{runtime}, 1 threads: 50 items of history, 500 candidates" in done.stdout
    rows = dict(re.findall(r"(\w+) +p50 +([\d.]+)", done.stdout))
    assert set(rows) == {"user", "items", "cvr", "all"}
    assert 0 < float(rows["all"]) < 5000
    scores = [float(score) for score in re.findall(r"\((0\.\d+)\)", done.stdout)]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)


class _Airflow:
    """Stubs for the names that the DAG imports from Airflow, which is no dependency; the decorators keep functions."""

    class Fail(Exception):
        pass

    class Skip(Exception):
        pass

    def __init__(self, monkeypatch):
        self.tasks, self.arguments = {}, {}
        decorators, exceptions = ModuleType("airflow.decorators"), ModuleType("airflow.exceptions")
        decorators.dag = self._dag
        decorators.task = self._task
        exceptions.AirflowFailException, exceptions.AirflowSkipException = self.Fail, self.Skip
        modules = {"airflow": ModuleType("airflow"), "airflow.decorators": decorators, "airflow.exceptions": exceptions}
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def _dag(self, **arguments):
        self.arguments = arguments
        return lambda function: function

    def _task(self, function):
        self.tasks[function.__name__] = function
        return lambda: None


@pytest.fixture
def airflow(monkeypatch):
    found = _Airflow(monkeypatch)
    source = (EXAMPLES / "airflow_dag.py").read_text()
    ast.parse(source)
    found.namespace = {}
    exec(compile(source, "airflow_dag.py", "exec"), found.namespace)
    return found


def test_the_dag_runs_a_night_once(airflow):
    assert airflow.arguments["max_active_runs"] == 1
    command = airflow.namespace["COMMAND"].format(start="2024-10-01", end="2024-10-02", summary="s.json").split()
    args = build_parser().parse_args(command[1:])
    assert (args.job, args.start, args.end, args.json_out) == (
        "run_backfill",
        date(2024, 10, 1),
        date(2024, 10, 2),
        "s.json",
    )


@pytest.mark.process
@pytest.mark.parametrize(("code", "expected"), [(0, None), (99, "Skip"), (2, "Fail"), (3, "Fail"), (75, "retry")])
def test_the_dag_acts_on_exit_codes(airflow, code, expected):
    airflow.namespace["COMMAND"] = f"{sys.executable} -c raise(SystemExit({code}))"
    night = (datetime(2024, 10, 1, tzinfo=UTC), datetime(2024, 10, 2, tzinfo=UTC))
    errors = {"Skip": airflow.Skip, "Fail": airflow.Fail, "retry": RuntimeError}
    if expected is None:
        airflow.tasks["run_backfill"](*night)
    else:
        with pytest.raises(errors[expected]):
            airflow.tasks["run_backfill"](*night)


def test_the_spark_application_is_a_job_with_its_arguments():
    spec = yaml.safe_load((EXAMPLES / "spark_application.yaml").read_text())["spec"]
    job = ROOT / "jobs" / spec["mainApplicationFile"].rsplit("/", 1)[1]
    assert job.is_file()
    args = build_parser().parse_args([job.stem, *spec["arguments"]])
    assert (args.start, args.end) == (date(2024, 10, 1), date(2024, 10, 2))
    assert spec["restartPolicy"] == {"type": "Never"}, "a gate's refusal must not be tried again and again"


def test_the_cron_line_is_a_night():
    (line,) = [text for text in (EXAMPLES / "crontab").read_text().splitlines() if text.startswith("30 ")]
    fields = line.split(" ", 5)
    assert len(fields) == 6 and all(re.fullmatch(r"[\d*]+", field) for field in fields[:5])
    command = fields[5].split(" >>")[0].replace("$(date -u -d yesterday +\\%F)", "2024-10-01")
    args = build_parser().parse_args(command.replace("$(date -u +\\%F)", "2024-10-02").split()[1:])
    assert (args.job, args.start, args.end) == ("run_backfill", date(2024, 10, 1), date(2024, 10, 2))
    assert "%" not in line.replace("\\%", "")
