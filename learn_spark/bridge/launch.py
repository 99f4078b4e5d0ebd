"""Runs training in separate processes: `python -m models <command> --spec F`, alone, by torchrun or on executors."""

import importlib.util
import logging
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from learn_spark.bridge.training_environment import packages_first
from learn_spark.config.model_sections import Launch
from learn_spark.errors import ConfigError, LearnError, QualityError, TemporaryError
from models.contract.failures import UNEXPECTED, BadInput, Busy, LossNotFiniteError, is_disk_full
from models.contract.only_writer import ENDS_WITH_STDIN
from models.contract.result import (
    ERROR_LOG,
    forget_failure,
    is_finished,
    read_failure,
    read_result,
    write_failure,
    write_spec,
)
from models.contract.spec import Spec
from models.contract.training_specs import TrainingSpec

_ERRORS: dict[int, type[LearnError]] = {
    BadInput.exit_code: ConfigError,
    LossNotFiniteError.exit_code: QualityError,
    Busy.exit_code: TemporaryError,
    UNEXPECTED: LearnError,
}
ALONE = Launch()
_log = logging.getLogger(__name__)
_LOG_LINES = 20
_PATIENCE = 5.0  # seconds that a trainer gets to end
_running: set["subprocess.Popen[str]"] = set()
_OF_TORCHRUN = re.compile(r"[A-Z]\d{4} \S+ \d+ \S*torch/distributed/")
_TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]


def run_trainer(spec: Spec, launch: Launch = ALONE, spark: SparkSession | None = None) -> dict[str, Any]:
    """Runs the spec's command, unless its `out_dir` is finished already; a killed training resumes.

    What the process prints is logged line by line.

    Args:
        spec: for a command of `python -m models`; with launcher `spark` all executors must see its `out_dir`.
        launch: where a command runs that may use several processes; by default, and for all other commands, one process
            on this machine. A training that streams with Petastorm finds it in `launch.environment`.
        spark: needed by launcher `spark`. Executors must have both packages installed.

    Returns:
        The content of result.json.

    Raises:
        ConfigError: the process refused spec or data (exit code 2).
        QualityError: the loss was not finite (3).
        TemporaryError: the disk is full, or another process writes the folder (75).
        LearnError: the process failed otherwise; the message names the file with the traceback, or quotes its last
            lines.
    """
    if not is_finished(spec.out_dir):
        forget_failure(spec.out_dir)
        trainer = ["-m", "models", spec.command, "--spec", str(write_spec(spec))]
        launcher = launch.launcher if spec.launchable else "process"
        if launcher == "spark":
            assert spark is not None, "launcher spark needs a session"
            _run_on_executors(spark, spec, trainer, launch)
        else:
            torchrun = [*_TORCHRUN, "--nproc-per-node", str(launch.ranks)] if launcher == "torchrun" else []
            _run([*torchrun, *trainer], _environment(spec, launch), spec.command, spec.out_dir)
    return read_result(spec.out_dir)


def package_root() -> str:
    """The entry of PYTHONPATH from which `models` is imported: the checkout, site-packages, or the zip of --py-files.

    Raises:
        ConfigError: the package is not installed.
    """
    found = importlib.util.find_spec("models")
    if found is None or found.origin is None:
        raise ConfigError("the package `models` is not installed beside learn_spark: ship both (`make package`)")
    return str(Path(found.origin).parent.parent)


def _environment(spec: Spec, launch: Launch) -> dict[str, str]:
    """Environment variables for a trainer's process on this machine."""
    environment, threads = dict(os.environ), None
    first: list[str] = []
    if isinstance(spec, TrainingSpec):
        first, threads = packages_first(spec.stream, launch.environment), spec.train.run.threads
    paths = [*first, package_root(), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)  # an empty one means the current folder
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONSAFEPATH"] = "1"  # a folder `models` in the working directory must not shadow ours
    if threads:
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(threads)
    return environment


def end_trainers() -> None:
    """Ends the trainers that this process has started; a caller that waits for one gets an error."""
    for process in list(_running):
        _end(process)


def _run(arguments: list[str], environment: dict[str, str], name: str, out_dir: Path) -> None:
    last: deque[str] = deque(maxlen=_LOG_LINES)
    with _started([sys.executable, *arguments], environment) as process:
        is_quiet = False
        for line in process.stdout or ():
            last.append(line.rstrip())
            is_quiet |= set(_TORCHRUN) < set(arguments) and line.startswith("Traceback ")  # its own stack comes last
            if not is_quiet and not _OF_TORCHRUN.match(line):
                _log.info("%s", line.rstrip("\n"))
    if process.returncode:
        _fail(process.returncode, name, [line for line in last if line], out_dir)


@contextmanager
def _started(command: list[str], environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """Starts a process that ends with the block and with this process: each of its ranks watches the pipe at its stdin.

    Ctrl-C in a terminal reaches only this process, which then ends the started one.
    """
    process = subprocess.Popen(
        command,
        env=environment | {ENDS_WITH_STDIN: "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    _running.add(process)
    try:
        yield process
        process.wait()
    finally:
        _end(process)
        _running.discard(process)
        if process.stdout:
            process.stdout.close()


def _end(process: "subprocess.Popen[str]") -> None:
    if process.stdin:
        process.stdin.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)


def _run_on_executors(spark: SparkSession, spec: Spec, trainer: list[str], launch: Launch) -> None:
    """Trains in barrier tasks on the executors; when one task fails, Spark ends all of them."""
    from pyspark.ml.torch.distributor import TorchDistributor

    gpus = float(spark.conf.get("spark.task.resource.gpu.amount", "0") or 0)
    if gpus % 1:
        raise ConfigError(
            f"towers.run.launcher spark needs whole GPUs a task, but spark.task.resource.gpu.amount is {gpus:g}: "
            'run train_towers alone with --set spark.conf={spark.task.resource.gpu.amount: "1"}'
        )
    try:
        distributor = TorchDistributor(num_processes=launch.ranks, local_mode=False, use_gpu=gpus > 0)
        distributor.run(_train_on_executor, trainer, spec, launch)
    except Exception as error:  # whatever Spark and the distributor raise
        _fail(UNEXPECTED, spec.command, str(error).splitlines()[:_LOG_LINES], spec.out_dir)


def _train_on_executor(trainer: list[str], spec: Spec, launch: Launch) -> None:
    """Runs one rank in a new process: this one has imported packages whose versions Petastorm cannot use."""
    try:
        environment = _environment(spec, launch)
    except ConfigError as error:
        write_failure(spec.out_dir, error.exit_code, str(error))
        raise
    with _started([sys.executable, *trainer], environment) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)


def _fail(code: int, command: str, last: list[str], out_dir: Path) -> None:
    """Raises the error that the process, or the first failed rank, recorded; without a record, its last lines."""
    failure = read_failure(out_dir)  # torchrun's exit code is not that of the failed rank
    if failure:
        code, reason = failure
        raise _ERRORS[code](reason)
    if full := next((line for line in last if is_disk_full(line)), None):  # the disk was too full to write failure.json
        raise TemporaryError(f"{command}: {full}")
    if code in _ERRORS and last and (code != UNEXPECTED or (out_dir / ERROR_LOG).is_file()):
        raise _ERRORS[code](last[-1])
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise LearnError(f"{command} {how}; its last lines:\n" + "\n".join(last))
