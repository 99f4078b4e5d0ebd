"""The trainer's process: the errors that its exit codes become, what is reused, and where `models` is found."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from learn_spark.bridge import launch
from learn_spark.bridge.folders import written_whole
from learn_spark.bridge.launch import package_root, run_trainer
from learn_spark.bridge.training_environment import packages_first
from learn_spark.config.model_sections import Launch, StreamSettings
from learn_spark.errors import ConfigError, LearnError, QualityError, TemporaryError
from models.contract.export_specs import OnlineSpec
from models.contract.result import write_spec
from models.contract.training_specs import CVRSpec, NoteLLMSpec
from tests.builders.tensors import pairs_table, write_snapshot

ROOT = Path(__file__).parents[2]
LAUNCHES = [Launch(), Launch("torchrun", 2)]
SMALL = {"batch_size": 32, "epochs": 1, "run": {"threads": 1}}


@pytest.fixture
def absent(tmp_path: Path) -> CVRSpec:
    """A spec with missing snapshots."""
    return CVRSpec(train_snapshot=tmp_path / "no", val_snapshot=tmp_path / "no", out_dir=tmp_path / "cvr", train=SMALL)


@pytest.mark.long
@pytest.mark.process
def test_what_trains_in_one_process_is_started_in_one(absent: CVRSpec) -> None:
    notellm = NoteLLMSpec(
        train_snapshot=absent.train_snapshot,
        val_snapshot=absent.val_snapshot,
        content_matrix=absent.train_snapshot,
        item_texts=absent.train_snapshot,
        model={"llm": {"model": "none"}},
        out_dir=absent.out_dir,
    )
    for spec, ranks_said_why in ((notellm, False), (absent, True)):
        with pytest.raises(ConfigError, match="no such folder"):
            run_trainer(spec, Launch("torchrun", 2))
        assert (spec.out_dir / "failure.json").is_file() == ranks_said_why


def test_a_typo_in_a_spec_fails_where_it_is_typed(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="val_snapshots"):
        CVRSpec(train_snapshot=tmp_path, val_snapshots=tmp_path, out_dir=tmp_path)
    with pytest.raises(ValidationError, match="batchsize"):
        CVRSpec(train_snapshot=tmp_path, val_snapshot=tmp_path, out_dir=tmp_path, train={"batchsize": 7})


def test_the_process_reads_what_was_written(absent: CVRSpec) -> None:
    """If a config's section has more keys than the spec's class, the process gets only those of the spec's class."""
    stream = StreamSettings(reader="arrow", rows_per_file=7)
    spec = CVRSpec(**absent.told() | {"stream": stream}, out_dir=absent.out_dir)
    read = CVRSpec.load(write_spec(spec))
    assert read.told() == spec.told() and read.out_dir == spec.out_dir
    assert read.stream.reader == "arrow"


@pytest.mark.process
@pytest.mark.parametrize("launch", LAUNCHES, ids=["process", "torchrun"])
def test_what_a_user_can_mend_is_a_config_error_of_one_line(
    absent: CVRSpec,
    launch: Launch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="learn_spark")
    with pytest.raises(ConfigError) as raised:
        run_trainer(absent, launch)
    said = str(raised.value)
    assert said == f"train-cvr: train_snapshot: no such folder: {absent.train_snapshot}"
    assert said in caplog.text
    assert capsys.readouterr() == ("", "")
    assert not list(absent.out_dir.glob("error*.log"))


@pytest.mark.process
@pytest.mark.parametrize(
    "launch", [LAUNCHES[0], pytest.param(LAUNCHES[1], marks=pytest.mark.long)], ids=["process", "torchrun"]
)
def test_a_fault_of_the_program_is_one_line_and_a_log_with_the_traceback(tmp_path: Path, launch: Launch) -> None:
    """Example: user vectors differ in width between training and validation, which only the matrix product notices."""
    train = write_snapshot(tmp_path / "train", pairs_table(200, width=6))
    val = write_snapshot(tmp_path / "val", pairs_table(200, width=8))
    spec = CVRSpec(train_snapshot=train, val_snapshot=val, out_dir=tmp_path / "cvr", train=SMALL)
    for _ in range(2):  # files of the first run must not change the second run's error
        with pytest.raises(LearnError) as raised:
            run_trainer(spec, launch)
        assert type(raised.value) is LearnError
        said = str(raised.value)
        assert said.startswith("train-cvr: RuntimeError: mat1 and mat2 shapes cannot be multiplied")
        assert "\n" not in said
        log = Path(said.rpartition("(traceback: ")[2].removesuffix(")"))
        assert log.parent == spec.out_dir and log.match("error.rank[01].log" if launch.ranks > 1 else "error.log")
        assert log.read_text().startswith("Traceback") and "snapshot_training.py" in log.read_text()
    assert not (spec.out_dir / "result.json").exists()


@pytest.mark.process
def test_of_an_export_that_fails_the_log_stays_and_nothing_else(tmp_path: Path) -> None:
    for name in ("towers", "cvr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"format_version": 1, "kind": "towers", "sizes": {}}')
    with pytest.raises(ConfigError), written_whole(tmp_path / "out") as folder:
        run_trainer(OnlineSpec(towers=tmp_path / "towers", cvr=tmp_path / "cvr", formats=["pt2"], out_dir=folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cvr", "towers"]
    with pytest.raises(LearnError), written_whole(tmp_path / "out") as folder:
        folder.mkdir()
        for name in ("spec.json", "error.log"):
            (folder / name).write_text(name)
        (folder / "pyfunc").mkdir()
        raise LearnError("a fault")
    assert [path.name for path in folder.iterdir()] == ["error.log"]
    assert not (tmp_path / "out").exists()


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("raise SystemExit(3)", QualityError, "loss is nan"),
        ("raise SystemExit(75)", TemporaryError, "loss is nan"),
        ("print('OSError: [Errno 28] No space left on device'); raise SystemExit(1)", TemporaryError, "train: OSError"),
        ("raise SystemExit(1)", LearnError, "exit code 1; its last lines:\nfirst\nloss is nan"),
        ("import os; os.kill(os.getpid(), 9)", LearnError, "killed by signal 9"),
    ],
)
def test_exit_codes_become_errors(tmp_path: Path, code: str, error: type[LearnError], message: str) -> None:
    said = "import sys; sys.stderr.write('first\\nloss is nan\\n'); sys.stderr.flush();"
    with pytest.raises(error) as raised:
        launch._run(["-c", said + code], {}, "train", tmp_path)
    assert type(raised.value) is error
    assert message in str(raised.value)


def test_a_finished_folder_is_not_trained_again(absent: CVRSpec) -> None:
    absent.out_dir.mkdir()
    (absent.out_dir / "result.json").write_text('{"steps": 7}')
    assert run_trainer(absent) == {"steps": 7}
    assert not (absent.out_dir / "spec.json").exists()


@pytest.mark.process
def test_models_is_found_beside_us_and_in_a_zip(tmp_path: Path) -> None:
    assert Path(package_root()) == ROOT
    archive = tmp_path / "learn_spark.zip"
    with zipfile.ZipFile(archive, "w") as files:
        for path in [*ROOT.glob("learn_spark/**/*.py"), *ROOT.glob("models/**/*.py")]:
            files.write(path, path.relative_to(ROOT))
    (tmp_path / "models").mkdir()  # a folder of this name in the working directory must not be imported
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('wrong models')")
    code = (
        f"import sys, json; sys.path.insert(0, {str(archive)!r})\n"
        "from learn_spark.errors import ConfigError\n"
        "from learn_spark.bridge.launch import package_root, run_trainer\n"
        "from models.contract.training_specs import CVRSpec\n"
        "try:\n    run_trainer(CVRSpec(train_snapshot='no', val_snapshot='no', out_dir='out'))\n"
        "except ConfigError as error:\n    print(json.dumps([package_root(), str(error)]))\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    root, error = json.loads(done.stdout)
    assert root == str(archive)
    assert error == "train-cvr: train_snapshot: no such folder: no"


def test_petastorm_that_is_nowhere_is_said_with_the_way_to_it(tmp_path: Path) -> None:
    petastorm = StreamSettings()
    with pytest.raises(ConfigError, match="choose stream.reader: arrow") as raised:
        packages_first(petastorm, tmp_path)
    packages = (ROOT / "constraints-petastorm.txt").read_text(encoding="utf-8").split()
    assert f"--target {tmp_path} {' '.join(packages)}" in str(raised.value)
    assert packages_first(StreamSettings(reader="arrow"), tmp_path) == []
    for name in ("petastorm", "pyarrow", "numpy", "pandas"):
        (tmp_path / name).mkdir()
    assert packages_first(petastorm, tmp_path) == [str(tmp_path)]
