"""What Spark's Python workers keep: kept objects are not scanned again, and changed files are noticed."""

import gc
import importlib
import subprocess
import sys
import weakref
import zipfile
import zipimport
from collections.abc import Iterator
from pathlib import Path

import pytest

from learn_spark.bridge.scoring import _cvr
from learn_spark.bridge.workers import keep_archive_listings, keep_loaded
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
    """Refers to itself, so that only the garbage collector can free it."""

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


def test_an_archive_is_listed_again_only_where_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, reads = tmp_path / "modules.zip", []
    read_again = zipimport.zipimporter.invalidate_caches

    def counted(importer: zipimport.zipimporter) -> None:
        reads.append(importer.archive)
        read_again(importer)

    monkeypatch.setattr(zipimport.zipimporter, "invalidate_caches", counted)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("first_in_archive.py", "value = 1")
    monkeypatch.syspath_prepend(str(archive))
    assert importlib.import_module("first_in_archive").value == 1
    keep_archive_listings()
    importlib.invalidate_caches()
    assert str(archive) not in reads
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("second_in_archive.py", "value = 2")
    importlib.invalidate_caches()
    assert importlib.import_module("second_in_archive").value == 2
    archive.unlink()
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("third_in_archive")
    assert reads.count(str(archive)) == 2
    for name in ("first_in_archive", "second_in_archive"):
        del sys.modules[name]


@pytest.mark.process
@pytest.mark.parametrize(("imported", "is_kept"), [("pyspark.worker, learn_spark", True), ("learn_spark", False)])
def test_a_worker_of_spark_keeps_its_listings_and_no_other_process_does(imported: str, is_kept: bool) -> None:
    look = f"import {imported}, zipimport; print(zipimport.zipimporter.invalidate_caches.__module__)"
    done = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True, timeout=300)
    assert (done.stdout.strip() == "learn_spark.bridge.workers") == is_kept
