"""What all tests share; nothing here needs Spark or torch, so that each side's tests run without the other."""

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

# A server that is not there is asked three times, as by users, but without pauses of seconds in between.
os.environ |= {f"MLFLOW_HTTP_REQUEST_BACKOFF_{name}": "0" for name in ("FACTOR", "JITTER")}

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's `make test &`, which the commands under test would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.load_profile("ci")  # the same examples each time; `make faults` draws new ones by another profile


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main() -> Iterator[object]:
    """In the process that was called, not in xdist's workers, which find the place in their environment."""
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
