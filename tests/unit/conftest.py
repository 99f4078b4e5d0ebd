"""Petastorm needs an older pyarrow than the main environment has.

So tests in this process use the Arrow reader, which gives the same rows. The processes that they start find Petastorm,
as a training's process does. test_torch_side_alone.py runs the tests of readers again, with Petastorm in the tests' own
process.
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
