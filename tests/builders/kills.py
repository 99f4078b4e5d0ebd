"""A command that is a process of its own and is killed, JVM and all, right after one of its commits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.builders.commands import CONFIG, ROOT, environment

COMMITS = "commits.txt"
_COMMITTING = (
    "append",
    "overwrite_where",
    "update",
    "delete",
    "delete_matching",
    "compact",
    "drop_files",
    "create_anew",
    "put_back",
)
_KILLED = """
import os, signal, sys
from pathlib import Path
from learn_spark.cli.main import main
from learn_spark.lake.identity import newest_version
from learn_spark.lake.tables import Tables

last, told = int(sys.argv[1]), Path(sys.argv[2])
told.write_text("")

def killing(method):
    def commit(tables, name, *args, **kwargs):
        before = newest_version(tables.root, name)
        result = method(tables, name, *args, **kwargs)
        if newest_version(tables.root, name) != before:
            made = told.read_text() + name + "\\n"
            told.write_text(made)
            if made.count("\\n") == last:
                os.killpg(0, signal.SIGKILL)
        return result
    return commit

for name in sys.argv[3].split(","):
    setattr(Tables, name, killing(getattr(Tables, name)))
sys.exit(main(sys.argv[4:]))
"""


def commits_of(folder: Path, *arguments: str) -> list[str]:
    """Runs a command to its end on the lake in `folder`; returns the tables that it committed to, in order."""
    code, commits = _run(folder, 10**9, arguments)
    assert code in (0, 99), (folder / "killed.log").read_text()[-3000:]
    return commits


def kill_after(folder: Path, commit: int, *arguments: str) -> list[str]:
    """Kills the command after its n-th commit (from 1 on); returns the tables that it committed to."""
    code, commits = _run(folder, commit, arguments)
    assert code == -signal.SIGKILL, (code, (folder / "killed.log").read_text()[-3000:])
    assert len(commits) == commit
    return commits


def _run(folder: Path, last: int, arguments: tuple[str, ...]) -> tuple[int, list[str]]:
    told = folder / COMMITS
    settings = ["--config", str(CONFIG), "--set", f"lake.root={folder}/lake", "--set", f"output.dir={folder}/output"]
    command = [sys.executable, "-c", _KILLED, str(last), str(told), ",".join(_COMMITTING), *arguments, *settings]
    with (folder / "killed.log").open("wb") as log:
        job = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = job.wait(timeout=900)
        except BaseException:
            os.killpg(job.pid, signal.SIGKILL)
            raise
    return code, told.read_text().split()
