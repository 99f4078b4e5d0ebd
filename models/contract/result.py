"""The files in a command's folder by which the command and its caller communicate: names, writers, readers."""

import json
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.contract.failures import UNEXPECTED, BadInput
from models.contract.spec import Spec
from models.contract.whole_files import read_json, write_whole

SPEC = "spec.json"
RESULT = "result.json"
METRICS = "metrics.jsonl"
FAILURE = "failure.json"
ERROR_LOG = "error.log"
_ERROR_LOGS = "error*.log"


def write_spec(spec: Spec) -> Path:
    """Writes spec.json into the spec's out_dir, for `python -m models <command> --spec`; returns its path."""
    file = spec.out_dir / SPEC
    write_whole(file, spec.model_dump_json(indent=1) + "\n")
    return file


def write_result(folder: Path, values: Mapping[str, object]) -> None:
    """Writes result.json. The file's existence means that the command has finished."""
    write_whole(folder / RESULT, json.dumps(values, indent=2) + "\n")


def read_result(folder: Path) -> dict[str, Any]:
    """The values in a finished command's result.json."""
    return read_json(folder / RESULT, "result")


def is_finished(folder: Path) -> bool:
    """Whether the command has written its result.json."""
    return (folder / RESULT).is_file()


def is_launched() -> bool:
    """Whether torchrun started this process, directly or through Spark's TorchDistributor."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def write_error_log(folder: Path) -> Path:
    """Writes the traceback of the current exception to a file, named by rank under torchrun; returns its path."""
    file = folder / (f"error.rank{os.environ['RANK']}.log" if is_launched() else ERROR_LOG)
    write_whole(file, traceback.format_exc())
    return file


def write_failure(folder: Path, code: int, reason: str) -> None:
    """Writes failure.json for the process that started the ranks: torchrun's own exit code says nothing.

    An existing file stays: the first failure is the cause, and the other ranks fail after it because of it.
    """
    try:
        with (folder / FAILURE).open("x", encoding="utf-8") as file:
            file.write(json.dumps({"code": code, "reason": reason}))
    except FileExistsError:
        return


def read_failure(folder: Path) -> tuple[int, str] | None:
    """The exit code and the reason of the rank that failed first; None if there is no readable failure.json."""
    try:
        said = read_json(folder / FAILURE, "failure")
    except BadInput:
        return None
    return int(said.get("code", UNEXPECTED)), str(said.get("reason"))


def forget_failure(folder: Path) -> None:
    """Removes failure.json and the error logs of an earlier run."""
    for file in [folder / FAILURE, *folder.glob(_ERROR_LOGS)]:
        file.unlink(missing_ok=True)
