"""Training runs as a process of its own: `python -m models <command> --spec F`."""

import importlib.util
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from learn_spark.core.errors import ConfigError, LearnError, QualityError

RESULT = "result.json"
_ERRORS: dict[int, type[LearnError]] = {2: ConfigError, 3: QualityError}
_LOG_LINES = 20


def run_trainer(command: str, spec: Mapping[str, object], out_dir: Path) -> dict[str, object]:
    """Trains, unless `out_dir` (whose name holds the fingerprint) is finished already.

    What the trainer prints on stderr appears on this process's stderr as it comes.

    Args:
        command: of `python -m models`.
        spec: its spec without out_dir; paths and settings; JSON values or paths.
        out_dir: the model's folder.

    Returns:
        result.json.

    Raises:
        ConfigError: the trainer refused spec or data (exit code 2).
        QualityError: the loss was not finite (3).
        LearnError: it ended in another way; the message has its last lines.
    """
    if not (out_dir / RESULT).is_file():
        out_dir.mkdir(parents=True, exist_ok=True)
        spec_file = out_dir / "spec.json"
        text = json.dumps({**spec, "out_dir": out_dir}, indent=1, default=str)
        spec_file.write_text(text + "\n", encoding="utf-8")
        threads = spec.get("train", {}).get("threads")
        # -P: a folder `models` in the working directory must not stand in for ours.
        _run([sys.executable, "-P", "-m", "models", command, "--spec", str(spec_file)], _environment(threads))
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
    if threads:
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(threads)
    return environment


def _run(command: list[str], environment: dict[str, str]) -> None:
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
        _fail(process.returncode, command[4], [line for line in last if line])


def _fail(code: int, command: str, last: list[str]) -> None:
    if code in _ERRORS:
        raise _ERRORS[code](last[-1] if last else f"{command} ended with exit code {code}")
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise LearnError(f"{command} {how}; its last lines:\n" + "\n".join(last))
