"""A lake with models and releases whose files are really lost or changed: after a repair it equals an intact one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from tests.builders.commands import run_here
from tests.builders.journey import assert_equal_lakes
from tests.faults.conftest import NEXT

pytestmark = [pytest.mark.faults, pytest.mark.e2e]


def live(lake: Path, name: str, day: str = "") -> list[Path]:
    files = [Path(file.removeprefix("file://")) for file in DeltaTable(str(lake / name)).file_uris()]
    found = sorted(file for file in files if day in str(file))
    assert found, (name, day)
    return found


def lose(name: str, day: str = "") -> Callable[[Path], None]:
    return lambda lake: live(lake, name, day)[0].unlink()


def change(pattern: str) -> Callable[[Path], None]:
    """Changes bytes in the middle of an artifact's file; its length stays the same."""

    def changed(lake: Path) -> None:
        (file,) = (lake / "_artifacts").glob(pattern)
        content = bytearray(file.read_bytes())
        half = len(content) // 2
        content[half : half + 64] = bytes(byte ^ 0x55 for byte in content[half : half + 64])
        file.write_bytes(content)

    return changed


def remove(pattern: str) -> Callable[[Path], None]:
    """Removes artifacts' files or tables' folders."""

    def removed(lake: Path) -> None:
        found = sorted(lake.glob(pattern))
        assert found, pattern
        for file in found:
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    return removed


CASES = {
    "features": [lose("user_features", "ds=2011-11-28"), lose("pair_features"), lose("item_life")],
    "first_day": [lose("item_features", "ds=2011-11-16"), lose("releases")],
    "texts": [lose("content_embeddings"), lose("item_text"), remove("_artifacts/matrix/*/meta.json")],
    "models": [
        change("models/towers-*/model.safetensors"),
        remove("_artifacts/models/cvr-*"),
        remove("_artifacts/snapshots/*/part-00000.parquet"),
    ],
    "matrix": [change("matrix/*/vectors-*.f16"), remove("user_features")],
    "ledger": [lose("intervals", "step=write_features"), lose("intervals", "step=ingest_events")],
}


@pytest.mark.parametrize("damage", CASES.values(), ids=CASES)
def test_a_repaired_lake_equals_one_that_was_left_alone(
    night: Path, next_night: Path, tmp_path: Path, spark: SparkSession, damage: list[Callable[[Path], None]]
) -> None:
    hurt = Path(shutil.copytree(night, tmp_path / "hurt"))
    for each in damage:
        each(hurt / "lake")
    done = run_here(hurt, "repair", "--deep")
    assert done.code == 0, done.err[-3000:]
    assert_equal_lakes(hurt / "lake", night / "lake", "repaired")
    assert run_here(hurt, *NEXT).code == 0
    assert_equal_lakes(hurt / "lake", next_night / "lake", "a night later")
    assert run_here(hurt, "repair", "--deep").code == 99
