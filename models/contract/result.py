"""The files that a command and whoever started it leave for each other in its folder: names, writers, readers."""

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
    """spec.json in the spec's folder, as `python -m models <command> --spec` takes it."""
    file = spec.out_dir / SPEC
    write_whole(file, spec.model_dump_json(indent=1) + "\n")
    return file


def write_result(folder: Path, values: Mapping[str, object]) -> None:
    """Writes result.json, whose existence says that the command has finished."""
    write_whole(folder / RESULT, json.dumps(values, indent=2) + "\n")


def read_result(folder: Path) -> dict[str, Any]:
    """What a finished command has left."""
    return read_json(folder / RESULT, "result")


def is_finished(folder: Path) -> bool:
    """Whether the command has left its result."""
    return (folder / RESULT).is_file()


def is_launched() -> bool:
    """Whether torchrun started this process, by itself or under Spark's TorchDistributor."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def write_error_log(folder: Path) -> Path:
    """The traceback of the exception at hand, in a file that names the rank, if there are several."""
    file = folder / (f"error.rank{os.environ['RANK']}.log" if is_launched() else ERROR_LOG)
    write_whole(file, traceback.format_exc())
    return file


def write_failure(folder: Path, code: int, reason: str) -> None:
    """failure.json, for whoever started the ranks: torchrun's own exit code tells nothing.

    The first one stays: ranks that lose another one fail as well, after it.
    """
    try:
        with (folder / FAILURE).open("x", encoding="utf-8") as file:
            file.write(json.dumps({"code": code, "reason": reason}))
    except FileExistsError:
        return


def read_failure(folder: Path) -> tuple[int, str] | None:
    """The code and the reason of the rank that failed first; None where none has said one."""
    try:
        said = read_json(folder / FAILURE, "failure")
    except BadInput:
        return None
    return int(said.get("code", UNEXPECTED)), str(said.get("reason"))


def forget_failure(folder: Path) -> None:
    """Removes what an earlier start said when it failed."""
    for file in [folder / FAILURE, *folder.glob(_ERROR_LOGS)]:
        file.unlink(missing_ok=True)
