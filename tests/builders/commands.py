"""Jobs as a user runs them: a process, a config, an exit code."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "conf" / "test.yaml"


@dataclass(frozen=True)
class Done:
    """How a job ended."""

    code: int
    out: str
    err: str
    summary: dict[str, object]


def run_job(folder: Path, *arguments: str, launcher: tuple[str, ...] = ("learn-spark",), cwd: Path = ROOT) -> Done:
    """Runs `<launcher> <arguments>` with the tests' config on the lake in `folder`.

    Args:
        folder: gets `lake/` and `output/`.
        arguments: the job and what follows it.
        launcher: what stands before the arguments.
        cwd: the working directory.
    """
    summary = folder / "json-out.json"
    summary.unlink(missing_ok=True)
    config = [] if "--config" in arguments else ["--config", str(CONFIG)]
    places = ["--set", f"lake.root={folder}/lake", "--set", f"output.dir={folder}/output"]
    done = subprocess.run(
        [*launcher, *arguments, *config, *places, "--json-out", str(summary)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    values = json.loads(summary.read_text()) if summary.exists() else {}
    return Done(done.returncode, done.stdout, done.stderr, values)


def environment() -> dict[str, str]:
    """This one, with the commands of this Python's environment first on the path, and Spark on the loopback."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "SPARK_LOCAL_IP": "127.0.0.1"}
