"""The driver collects exactly the files and matrix rows that tasks make, on this machine and on others."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from learn_spark.embedding import matrix_rows
from learn_spark.errors import ConfigError
from learn_spark.lake.artifacts import Artifacts
from learn_spark.lake.lock import lake_lock
from learn_spark.lake.task_files import TaskFiles, task_files
from learn_spark.storage import Location
from models.contract.verified import file_digest
from tests.builders.object_store import ObjectStore, object_store  # noqa: F401 - a fixture


@pytest.fixture
def root(object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:  # noqa: F811
    monkeypatch.setenv("LEARN_SPARK_CACHE", str(tmp_path / "cache"))
    return object_store.bucket() / "lake"


def elsewhere(files: TaskFiles) -> TaskFiles:
    """The object as a task on another machine gets it."""
    there = pickle.loads(pickle.dumps(files))
    return replace(there, folder=Path("/of/the/driver", there.folder.name))


def made(files: TaskFiles, name: str, content: bytes) -> dict[str, str]:
    with files.new(name) as path:
        path.write_bytes(content)
        return {name: file_digest(path)}


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path):
    with task_files(tmp_path / "new" / "folder") as files:
        digests = made(files, "a", b"1")
        digests |= made(files, "a", b"1")  # a second attempt
        with pytest.raises(OSError, match="disk"), files.new("b") as path:
            path.write_bytes(b"half")
            raise OSError("the disk is full")
        files.gather(digests)
    assert (files.folder / "a").read_bytes() == b"1"
    assert not (files.folder / "b").exists()


def test_a_machine_that_does_not_see_the_folder_of_a_lake_on_a_disk_says_so(tmp_path):
    said = pytest.raises(FileNotFoundError, match=r"does not see /of/the/driver/folder: lake\.root must lie")
    with task_files(tmp_path / "folder") as files, said:
        made(elsewhere(files), "a", b"1")


def test_files_of_other_machines_come_by_the_store(root):
    with lake_lock(root), task_files(Artifacts(root).path("snapshots") / ".one.1234") as files:
        digests = made(files, "here", b"1") | made(elsewhere(files), "there", b"2" * 1000)
        files.gather(digests)
        assert {path.name: path.read_bytes() for path in files.folder.iterdir()} == {"here": b"1", "there": b"2" * 1000}
    assert not list((root / "_artifacts").matching("**")), "nothing stays in the store"


def test_what_a_killed_run_left_in_the_store_goes_and_what_this_run_is_given_stays(root):
    left = root / "_artifacts" / "_incoming"
    (left / "66" / "killed" / "part").write_bytes(b"x")
    folder = Artifacts(root).path("snapshots")
    with lake_lock(root):
        (left / "77" / "killed" / "part").write_bytes(b"x")
        with task_files(folder / ".one") as one:
            digests = made(elsewhere(one), "there", b"1")
            with task_files(folder / ".two"):
                pass
            one.gather(digests)
    assert not left.matching("**")


def test_a_file_that_changed_on_its_way_is_refused(root):
    with lake_lock(root), task_files(Artifacts(root).path("snapshots") / ".one") as files:
        digests = made(elsewhere(files), "there", b"right")
        assert files.store is not None
        (files.store / "there").write_bytes(b"wrong")
        with pytest.raises(ConfigError, match=r"s3a://.*/_incoming/.*/there has changed on its way"):
            files.gather(digests)


@pytest.mark.parametrize("batch_rows", [1, 3, 100])
def test_rows_lie_at_their_places_whatever_the_batches_and_blocks(tmp_path, monkeypatch, batch_rows):
    monkeypatch.setattr(matrix_rows, "BLOCK_ROWS", 4)
    dim, rng = 3, np.random.default_rng(0)
    before_ND = rng.normal(size=(20, dim)).astype("<f2")
    before_ND[6:] = 0
    file = tmp_path / "vectors-1.f16"
    file.write_bytes(before_ND.tobytes())
    rows_N = np.array([6, 7, 8, 11, 12, 13, 14, 15, 19])  # from within a block on, with gaps, the last block alone
    new_ND = rng.normal(size=(len(rows_N), dim)).astype("<f2")
    with task_files(tmp_path / "parts") as files:
        write = matrix_rows._block_writer(files, dim, None)
        frame_pdf = pd.DataFrame({"item_idx": rows_N, "embedding": [row_D.tobytes() for row_D in new_ND]})
        batches = [frame_pdf.iloc[start : start + batch_rows] for start in range(0, len(rows_N), batch_rows)]
        written_pdf = pd.concat(write(batches))
    assert written_pdf["rows"].sum() == len(rows_N)
    for part in written_pdf.itertuples():
        assert file_digest(files.folder / part.name) == part.sha256
        matrix_rows._place(files.folder / part.name, file, part.first_row * dim * 2)
    expected_ND = before_ND.copy()
    expected_ND[rows_N] = new_ND
    np.testing.assert_array_equal(np.fromfile(file, "<f2").reshape(-1, dim), expected_ND)
    assert not list(files.folder.iterdir())
