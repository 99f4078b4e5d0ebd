"""The commands of `python -m models`: their specs, and how their process ends."""

import json
import subprocess
import sys
import typing
from importlib import import_module

import pytest

from models.contract.commands import COMMANDS
from models.contract.content_matrix import open_matrix
from models.contract.failures import BadInput
from models.contract.snapshot import open_snapshot
from models.contract.training_specs import ALSSpec, NoteLLMSpec, TrainingSpec
from models.contract.whole_files import write_whole
from tests.builders.tensors import random_vectors, write_matrix, write_snapshot
from tests.unit.models.test_ranker import rows_table, spec_for


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_its_spec(command):
    spec = COMMANDS[command]
    assert typing.get_type_hints(import_module(spec.module).run)["spec"] is spec
    assert spec.help and spec.launchable == (issubclass(spec, TrainingSpec) and spec not in (ALSSpec, NoteLLMSpec))


def run(spec, folder):
    """Runs the real process on a spec."""
    file = folder / "spec.json"
    file.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "models", "evaluate-ranker", "--spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400)


@pytest.mark.process
def test_what_the_program_did_not_foresee_keeps_its_traceback(tmp_path):
    """A text column among base features raises NumPy's ValueError, a mistake for which there is no check."""
    table = rows_table(400).append_column("shop", [["north"] * 400])
    spec = spec_for(tmp_path, table, base=("shop", "user_events", "item_events"), categorical=())
    done = run(json.loads(spec.model_dump_json()), tmp_path)
    log = tmp_path / "out" / "error.log"
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("evaluate-ranker: ValueError: could not convert string to float: 'north'")
    assert last.endswith(f"(traceback: {log})") and "Traceback" not in done.stderr
    assert log.read_text().startswith("Traceback") and "evaluate_ranker.py" in log.read_text()
    assert sorted(path.name for path in log.parent.iterdir()) == ["error.log"]
    assert not (tmp_path / "failure.json").exists(), "who starts one process reads its exit code"


@pytest.mark.process
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "unknown key `colour`; known: "),
        ({"threads": "many"}, "`threads`: Input should be a valid integer"),
        ({"rows": "/nowhere"}, "snapshot: cannot read /nowhere/manifest.json: No such file or directory"),
    ],
)
def test_a_bad_spec_is_one_line(tmp_path, change, said):
    spec = json.loads(spec_for(tmp_path, rows_table(40)).model_dump_json())
    done = run(spec | change, tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("evaluate-ranker: ") and said in line
    assert not (tmp_path / "out").exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new" / "a.txt"
    write_whole(file, "ä")
    write_whole(file, b"bytes")

    def fails(partial):
        partial.write_text("half of it")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_whole(file, fails)
    assert file.read_bytes() == b"bytes"
    write_whole(file, lambda partial: partial.write_text("whole"))
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"] and file.read_text() == "whole"


def test_the_formats_of_manifest_and_meta_are_checked(tmp_path):
    for folder, name, read in (
        (write_snapshot(tmp_path / "snapshot", rows_table(20)), "manifest.json", open_snapshot),
        (write_matrix(tmp_path / "matrix", random_vectors(3)), "meta.json", open_matrix),
    ):
        values = json.loads((folder / name).read_text())
        assert "format_version" not in values, "as written by the first version"
        read(folder)
        (folder / name).write_text(json.dumps(values | {"format_version": 2}))
        with pytest.raises(BadInput, match=f"{name}: `format_version`: Input should be 1, not 2"):
            read(folder)
