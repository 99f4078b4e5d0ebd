"""The trainer's process: what its exit codes become, what is reused, and where `models` is found."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from learn_spark.bridge import launch
from learn_spark.bridge.launch import package_root, run_trainer
from learn_spark.config.model_sections import Launch
from learn_spark.errors import ConfigError, LearnError, QualityError

ROOT = Path(__file__).parents[2]


@pytest.mark.process
def test_a_bad_spec_is_a_config_error_that_names_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="train_snapshot"):
        run_trainer("train-cvr", {"train": {"run": {"threads": 1}}, "colour": "red"}, tmp_path / "cvr")
    shown = capsys.readouterr()
    assert "colour" in shown.err
    assert shown.out == ""


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("raise SystemExit(3)", QualityError, "loss is nan"),
        ("raise SystemExit(1)", LearnError, "exit code 1; its last lines:\nfirst\nloss is nan"),
        ("import os; os.kill(os.getpid(), 9)", LearnError, "killed by signal 9"),
    ],
)
def test_exit_codes_become_errors(tmp_path: Path, code: str, error: type[LearnError], message: str) -> None:
    said = "import sys; sys.stderr.write('first\\nloss is nan\\n'); sys.stderr.flush();"
    with pytest.raises(error) as raised:
        launch._run([sys.executable, "-c", said + code], {}, "train", tmp_path)
    assert type(raised.value) is error
    assert message in str(raised.value)


@pytest.mark.process
def test_what_ranks_refuse_is_a_config_error_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = Launch("torchrun", 2)
    with pytest.raises(ConfigError, match="unknown key `colour`"):
        run_trainer("train-cvr", {"train": {"run": {"threads": 1}}, "colour": "red"}, tmp_path / "cvr", two)
    assert capsys.readouterr().out == ""


def test_a_finished_folder_is_not_trained_again(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"steps": 7}')
    assert run_trainer("no-such-command", {}, tmp_path) == {"steps": 7}
    assert not (tmp_path / "spec.json").exists()


@pytest.mark.process
def test_models_is_found_beside_us_and_in_a_zip(tmp_path: Path) -> None:
    assert Path(package_root()) == ROOT
    archive = tmp_path / "learn_spark.zip"
    with zipfile.ZipFile(archive, "w") as files:
        for path in [*ROOT.glob("learn_spark/**/*.py"), *ROOT.glob("models/**/*.py")]:
            files.write(path, path.relative_to(ROOT))
    (tmp_path / "models").mkdir()  # a folder of this name in the working directory must not win
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('wrong models')")
    code = (
        f"import sys, json; sys.path.insert(0, {str(archive)!r})\n"
        "from pathlib import Path\n"
        "from learn_spark.errors import ConfigError\n"
        "from learn_spark.bridge.launch import package_root, run_trainer\n"
        "try:\n    run_trainer('train-cvr', {}, Path('out'))\n"
        "except ConfigError as error:\n    print(json.dumps([package_root(), str(error)]))\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    root, error = json.loads(done.stdout)
    assert root == str(archive)
    assert "key `train_snapshot` is missing" in error
