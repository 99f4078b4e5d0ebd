"""Training runs in processes of its own: `python -m models <command> --spec F`, alone, by torchrun or on executors."""

import atexit
import importlib.util
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import SparkSession

from learn_spark.config.model_sections import Launch
from learn_spark.errors import ConfigError, LearnError, QualityError

RESULT = "result.json"
SPEC = "spec.json"
_ERRORS: dict[int, type[LearnError]] = {2: ConfigError, 3: QualityError}
_FAILURE = "failure.json"
_LOG_LINES = 20
_TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]


def run_trainer(
    command: str,
    spec: Mapping[str, object],
    out_dir: Path,
    launch: Launch | None = None,
    spark: SparkSession | None = None,
) -> dict[str, object]:
    """Trains, unless `out_dir` (whose name holds the fingerprint) is finished already; a killed training goes on.

    What the trainer prints on stderr appears on this process's stderr as it comes.

    Args:
        command: of `python -m models`.
        spec: its spec without out_dir; paths and settings; JSON values or paths.
        out_dir: the model's folder; with launcher `spark`, one that all executors see.
        launch: where it runs; by default one process here.
        spark: needed by launcher `spark`. Executors must have both packages installed.

    Returns:
        result.json.

    Raises:
        ConfigError: the trainer refused spec or data (exit code 2).
        QualityError: the loss was not finite (3).
        LearnError: it ended in another way; the message has its last lines.
    """
    if not (out_dir / RESULT).is_file():
        spec_file = write_spec(spec, out_dir)
        (out_dir / _FAILURE).unlink(missing_ok=True)
        trainer = ["-m", "models", command, "--spec", str(spec_file)]
        launcher = launch.launcher if launch else "process"
        if launcher == "spark":
            _run_on_executors(spark, command, trainer[2:], launch.ranks, out_dir)
        else:
            torchrun = [*_TORCHRUN, "--nproc-per-node", str(launch.ranks)] if launcher == "torchrun" else []
            threads = spec.get("train", {}).get("run", {}).get("threads")
            _run([sys.executable, *torchrun, *trainer], _environment(threads), command, out_dir)
    return read_result(out_dir)


def write_spec(spec: Mapping[str, object], out_dir: Path) -> Path:
    """`spec` as `python -m models` takes it, in `out_dir`, which it names."""
    out_dir.mkdir(parents=True, exist_ok=True)
    spec_file = out_dir / SPEC
    text = json.dumps({**spec, "out_dir": out_dir}, indent=1, default=str)
    spec_file.write_text(text + "\n", encoding="utf-8")
    return spec_file


def read_result(out_dir: Path) -> dict[str, object]:
    """result.json of a finished training."""
    return json.loads((out_dir / RESULT).read_text(encoding="utf-8"))


def package_root() -> str:
    """What PYTHONPATH needs for `models`: the checkout, site-packages, or the zip of --py-files.

    Raises:
        ConfigError: where there is no such package.
    """
    found = importlib.util.find_spec("models")
    if found is None or found.origin is None:
        raise ConfigError("the package `models` is not installed beside learn_spark: ship both (`make package`)")
    return str(Path(found.origin).parent.parent)


def _environment(threads: int | None) -> dict[str, str]:
    environment = dict(os.environ)
    paths = [package_root(), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONSAFEPATH"] = "1"  # a folder `models` in the working directory must not stand in for ours
    if threads:
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(threads)
    return environment


def _run(command: list[str], environment: dict[str, str], name: str, out_dir: Path) -> None:
    last: deque[str] = deque(maxlen=_LOG_LINES)
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout:
                print(line, end="", file=sys.stderr, flush=True)
                last.append(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        _fail(process.returncode, name, [line for line in last if line], out_dir)


def _run_on_executors(spark: SparkSession, command: str, arguments: list[str], processes: int, out_dir: Path) -> None:
    """Barrier tasks on the executors; Spark ends all of them with an error when one ends with one."""
    from pyspark.ml.torch.distributor import TorchDistributor

    gpus = float(spark.conf.get("spark.task.resource.gpu.amount", "0"))
    if gpus % 1:
        raise ConfigError(
            f"towers.run.launcher spark needs whole GPUs a task, but spark.task.resource.gpu.amount is {gpus:g}: "
            'run train_towers alone with --set spark.conf={spark.task.resource.gpu.amount: "1"}'
        )
    try:
        distributor = TorchDistributor(num_processes=processes, local_mode=False, use_gpu=gpus > 0)
        distributor.run(_train_on_executor, arguments)
    except Exception as error:  # whatever Spark and the distributor raise
        _fail(1, command, str(error).splitlines()[:_LOG_LINES], out_dir)


def _train_on_executor(arguments: list[str]) -> None:
    from models.__main__ import leave, main

    code = main(arguments)
    if code:
        raise SystemExit(code)
    atexit.register(leave, code)  # at the end, once the distributor has what this function returns


def _fail(code: int, command: str, last: list[str], out_dir: Path) -> None:
    failure = out_dir / _FAILURE
    if failure.is_file():  # torchrun's exit code does not say what its ranks' said
        said = json.loads(failure.read_text(encoding="utf-8"))
        raise _ERRORS[said["code"]](said["reason"])
    if code in _ERRORS:
        raise _ERRORS[code](last[-1] if last else f"{command} ended with exit code {code}")
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise LearnError(f"{command} {how}; its last lines:\n" + "\n".join(last))
