"""Petastorm needs an older pyarrow than the main environment has.

So tests in this process read by the reader that gives the same rows, and the processes that they start find Petastorm,
as a training's does. test_torch_side_alone.py runs what reads once more, with Petastorm in the tests' own process.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="module")
def _petastorm_is_for_processes() -> Iterator[None]:
    if importlib.util.find_spec("petastorm"):
        yield
        return
    from models.data import stream

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "PetastormReader", stream.ArrowReader)
        paths = [str(Path(sys.prefix) / "petastorm"), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        yield
