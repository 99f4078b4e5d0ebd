"""A standalone Spark cluster whose machines share no files: a master and workers, each with mounts of its own."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.builders.commands import environment
from tests.builders.mounts import behind

_SECONDS = 120


@contextmanager
def sharing_nothing(folder: Path, hidden: Sequence[Path], also: Mapping[str, str], workers: int = 2) -> Iterator[str]:
    """Workers of one core that see neither the hidden folders nor each other's folders.

    Args:
        folder: gets a folder per worker for its scratch space and copies, and the logs.
        hidden: folders that are empty for the workers and all processes that they start.
        also: further environment variables of the workers.
        workers: how many.

    Yields:
        The master's address.
    """
    folders = [folder / f"worker-{number}" for number in range(workers)]
    for each in folders:
        each.mkdir(parents=True)
    port = _free_port()
    master = f"spark://127.0.0.1:{port}"
    with ExitStack() as ending:
        command = ["--host", "127.0.0.1", "--port", str(port), "--webui-port", "0"]
        ending.enter_context(_running("master", "Master", command, folder, {}))
        _wait_until_it_listens(port, folder / "master.log")
        for number, mine in enumerate(folders):
            others = [*hidden, *(each for each in folders if each != mine)]
            before = behind(*(f"mount -t tmpfs none '{each}'" for each in others))
            # Each worker has a host address of its own, because executors of one host read each other's files on disk.
            place = ["--host", f"127.0.0.{number + 2}", "--port", "0", "--webui-port", "0"]
            size = ["--cores", "1", "--memory", "1g", "--work-dir", str(mine / "work")]
            here = {
                "SPARK_LOCAL_IP": f"127.0.0.{number + 2}",
                "SPARK_LOCAL_DIRS": str(mine / "scratch"),
                "LEARN_SPARK_CACHE": str(mine / "cache"),
                "TMPDIR": str(mine),
                **also,
            }
            ending.enter_context(_running(mine.name, "Worker", [*place, *size, master], folder, here, before))
        yield master


@contextmanager
def _running(
    name: str, what: str, options: list[str], folder: Path, also: Mapping[str, str], before: Sequence[str] = ()
) -> Iterator[None]:
    command = [*before, "spark-class", f"org.apache.spark.deploy.{what.lower()}.{what}", *options]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment() | dict(also), stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_it_listens(port: int, log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
