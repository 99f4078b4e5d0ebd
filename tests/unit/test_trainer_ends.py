"""Trainers that are really killed, or whose starter is: no process is left, and no two write to the same folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from models.contract.failures import Busy
from models.contract.only_writer import only_writer
from models.contract.result import write_spec
from models.contract.training_specs import CVRSpec
from models.contract.whole_files import write_whole
from tests.builders.commands import wait_for_lines
from tests.builders.mounts import behind, small
from tests.builders.tensors import pairs_table, write_snapshot

ROOT = Path(__file__).parents[2]
STARTER = """
import sys
from pathlib import Path
from learn_spark.bridge.launch import run_trainer
from learn_spark.config.model_sections import Launch
from models.contract.training_specs import CVRSpec
run_trainer(CVRSpec.load(Path(sys.argv[1])), Launch("torchrun", 2) if sys.argv[2] == "torchrun" else Launch())
"""


@pytest.fixture
def spec(tmp_path: Path) -> CVRSpec:
    """A training that takes minutes."""
    return CVRSpec(
        train_snapshot=write_snapshot(tmp_path / "train", pairs_table(400)),
        val_snapshot=write_snapshot(tmp_path / "val", pairs_table(50)),
        out_dir=tmp_path / "cvr",
        train={"batch_size": 8, "epochs": 100_000, "patience": 100_000, "run": {"threads": 1, "log_every": 1}},
    )


def trainers(spec: CVRSpec) -> list[psutil.Process]:
    """Living processes whose command line names the spec."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if f"{spec.out_dir}/spec.json" in (process.info["cmdline"] or []) and process.info["status"] != "zombie":
            found.append(process)
    return found


def all_end(spec: CVRSpec, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while left := trainers(spec):
        if time.monotonic() > deadline:
            for process in left:
                process.kill()
            return False
        time.sleep(0.05)
    return True


@pytest.mark.process
@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ("process", signal.SIGKILL),
        ("process", signal.SIGINT),
        pytest.param("torchrun", signal.SIGKILL, marks=pytest.mark.long),
        pytest.param("torchrun", signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_a_trainer_ends_with_its_starter(spec: CVRSpec, launcher: str, number: signal.Signals) -> None:
    given = spec.out_dir.parent / "given.json"
    given.write_text(spec.model_dump_json())
    command = [sys.executable, "-c", STARTER, str(given), launcher]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as starter:
        wait_for_lines(starter, spec.out_dir / "metrics.jsonl", 3)
        assert len(trainers(spec)) == (1 if launcher == "process" else 3)
        starter.send_signal(number)
        assert starter.wait(15) == -number
        assert all_end(spec)
    with only_writer(spec.out_dir, patience=2):  # a dying process loses its command line before its locks
        assert not list(spec.out_dir.glob(".*.partial"))


@pytest.mark.process
def test_a_trainer_that_is_interrupted_says_so_in_a_line(spec: CVRSpec) -> None:
    command = [sys.executable, "-m", "models", spec.command, "--spec", str(write_spec(spec))]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as trainer:
        wait_for_lines(trainer, spec.out_dir / "metrics.jsonl", 3)
        with pytest.raises(Busy, match="another process writes"), only_writer(spec.out_dir, patience=0.2):
            pass
        trainer.send_signal(signal.SIGINT)
        _, told = trainer.communicate(timeout=30)
    assert trainer.returncode == 130
    assert told.splitlines()[-1] == "train-cvr: interrupted; the same command goes on where it stopped"
    assert "Traceback" not in told


@pytest.mark.process
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_full_disk_is_try_again_later(spec: CVRSpec, ranks: int) -> None:
    """The file system has 64 KiB, enough for the spec but not for the model."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"] if ranks > 1 else []
    trainer = [sys.executable, "-m", *torchrun, "models", spec.command, "--spec", f"{spec.out_dir}/spec.json"]
    write_spec(spec)
    folder = spec.out_dir
    mounts = (f"cp -r {folder} {folder}.kept", small(folder, "64k"), f"cp {folder}.kept/* {folder}")
    done = subprocess.run([*behind(*mounts), *trainer], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "train-cvr: no space left on device; free some under" in done.stderr
    if ranks == 1:
        assert done.returncode == 75 and "Traceback" not in done.stderr


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr("models.contract.whole_files.secrets.token_hex", lambda _: "guessed")
    (tmp_path / ".x.json.guessed.partial").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "x.json", "theirs")
    assert victim.read_text() == "mine" and not (tmp_path / "x.json").exists()


def test_what_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    names = []

    def fail(partial: Path) -> None:
        names.append(partial.name)
        partial.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            write_whole(tmp_path / "x.json", fail)
    assert not list(tmp_path.iterdir()) and len(set(names)) == 2
