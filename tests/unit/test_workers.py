"""What a Python worker of Spark has loaded is nothing to look for garbage in, and is given up with its last holder."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from learn_spark.bridge.scoring import _cvr
from learn_spark.bridge.workers import keep_loaded
from models.contract.settings import CVRConfig
from models.saved import save_cvr
from models.towers.cvr import CVRModel


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_a_loaded_model_and_its_libraries_are_not_looked_at_again(tmp_path: Path) -> None:
    save_cvr(tmp_path / "cvr", CVRModel(CVRConfig(hidden=(8,), mid_dim=4), 8, 8))
    _cvr(str(tmp_path / "cvr"))
    assert gc.get_freeze_count() > 100_000 > len(gc.get_objects())


class Held:
    """Holds itself, as only the collector can free it."""

    def __init__(self) -> None:
        self.me = self


def test_what_nobody_holds_any_more_goes_with_the_next_model() -> None:
    held = Held()
    gone = weakref.ref(held)
    keep_loaded()
    del held
    gc.collect()
    assert gone() is not None, "it is out of sight"
    keep_loaded()
    assert gone() is None
