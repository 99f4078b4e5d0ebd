"""What all tests share. Nothing here needs Spark or torch, so that the tests of each side run without the other."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.builders.shared import close_place, open_place

if TYPE_CHECKING:
    from learn_spark.config.load import Config

pytest_plugins = ("tests.costs",)
CONF = Path(__file__).parent.parent / "conf"

# A missing MLflow server is tried three times, as for users, but without pauses of seconds in between.
os.environ |= {f"MLFLOW_HTTP_REQUEST_BACKOFF_{name}": "0" for name in ("FACTOR", "JITTER")}

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # set by a shell's `make test &`; the commands under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.load_profile("ci")  # the same examples each time; `make faults` draws new ones by another profile


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main() -> Iterator[object]:
    """Makes the shared folders in the main process; xdist's workers find them through their environment."""
    place = open_place()
    try:
        return (yield)
    finally:
        close_place(place)


@pytest.fixture
def config(tmp_path: Path) -> "Config":
    """conf/test.yaml with lake and output in the test's own folder."""
    from learn_spark.config.load import load_config

    return load_config(CONF / "test.yaml", [f"lake.root={tmp_path}/lake", f"output.dir={tmp_path}/output"])
