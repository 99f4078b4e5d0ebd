"""Runs a command in a process of its own and kills it, with its JVM, right after one of its commits.

Files that tasks have written, but that no commit names yet, count as a commit called `files:<table>`.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.builders.commands import CONFIG, ROOT, environment

COMMITS = "commits.txt"
_NEVER = ("", 0)
_COMMITTING = (
    "append",
    "overwrite_days",
    "overwrite_where",
    "put_rows",
    "update",
    "delete",
    "delete_matching",
    "compact",
    "drop_files",
    "create_anew",
    "put_back",
    "cut_history",
)
_KILLED = """
import os, signal, sys
from pathlib import Path
from learn_spark.cli.main import main
from learn_spark.lake.identity import newest_version
from learn_spark.lake import tables

last, told = (sys.argv[1], int(sys.argv[2])), Path(sys.argv[3])
told.write_text("")

def tell(name):
    made = told.read_text() + name + "\\n"
    told.write_text(made)
    if (name, made.split().count(name)) == last:
        os.killpg(0, signal.SIGKILL)

def writing(rows, folder, spec, write=tables.write_rows):
    added = write(rows, folder, spec)
    if added:
        tell("files:" + spec.name)
    return added

tables.write_rows = writing

def killing(method):
    def commit(self, name, *args, **kwargs):
        before = newest_version(self.root, name)
        result = method(self, name, *args, **kwargs)
        is_cut = method.__name__ == "cut_history"  # no commit, and no way back all the same
        if is_cut or newest_version(self.root, name) != before:
            tell("cut:" + name if is_cut else name)
        return result
    return commit

for name in sys.argv[4].split(","):
    setattr(tables.Tables, name, killing(getattr(tables.Tables, name)))
sys.exit(main(sys.argv[5:]))
"""


def commits_of(folder: Path, *arguments: str) -> list[str]:
    """Runs a command to its end on the lake in `folder`; returns the tables of its commits, in order."""
    code, commits = _run(folder, _NEVER, arguments)
    assert code in (0, 99), (folder / "killed.log").read_text()[-3000:]
    return commits


def kill_after(folder: Path, commits: Sequence[str], *arguments: str) -> None:
    """Kills a command right after the last of `commits`, which must be its first commits."""
    table = commits[-1]
    code, made = _run(folder, (table, commits.count(table)), arguments)
    assert (code, made) == (-signal.SIGKILL, [*commits]), (folder / "killed.log").read_text()[-3000:]


def kill_after_each(folder: Path, tables: Sequence[str], *arguments: str) -> None:
    """Kills a command after its first commit to each of these tables; each run continues where the last was killed."""
    for number, table in enumerate(tables):
        code, made = _run(folder, (table, 1), arguments)
        said = (folder / "killed.log").read_text()[-3000:]
        assert code == -signal.SIGKILL, f"it does not come to {table}, the {number}th of {tables}: {made}, {said}"


def _run(folder: Path, last: tuple[str, int], arguments: tuple[str, ...]) -> tuple[int, list[str]]:
    """Runs a command, killed after the n-th commit to a table if it makes one; its exit code and commits' tables."""
    told = folder / COMMITS
    settings = ["--config", str(CONFIG), "--set", f"lake.root={folder}/lake", "--set", f"output.dir={folder}/output"]
    killed = [sys.executable, "-c", _KILLED, last[0], str(last[1]), str(told), ",".join(_COMMITTING)]
    with (folder / "killed.log").open("wb") as log, TemporaryDirectory() as scratch:  # a killed JVM cannot tidy up
        job = subprocess.Popen(
            [*killed, *arguments, *settings],
            cwd=ROOT,
            env=environment() | {"SPARK_LOCAL_DIRS": scratch},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = job.wait(timeout=900)
        except BaseException:
            os.killpg(job.pid, signal.SIGKILL)
            raise
    return code, told.read_text().split()
