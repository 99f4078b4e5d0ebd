import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from models.data.content import ContentMatrix
from tests.builders.tensors import write_matrix


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(9, 4)).astype(np.float16)


def test_gather_equals_indexing(tmp_path, vectors):
    matrix = ContentMatrix(write_matrix(tmp_path / "m", vectors))
    idx = np.array([[8, 0, 3], [3, 3, 1]])
    for kind in (idx, torch.from_numpy(idx), idx.astype(np.int32)):
        got = matrix.gather(kind)
        assert got.dtype == torch.float32
        np.testing.assert_array_equal(got.numpy(), vectors.astype(np.float32)[idx])
    assert (matrix.rows, matrix.dim, matrix.encoder_id) == (9, 4, "test-encoder")
    assert matrix.gather(np.zeros((2, 0), int)).shape == (2, 0, 4)


def test_unique_serves_several_arrays(tmp_path, vectors):
    matrix = ContentMatrix(write_matrix(tmp_path / "m", vectors))
    first, second = np.array([[5, 2]]), np.array([2, 7, 7])
    rows, one, two = matrix.unique(first, second)
    assert len(rows) == 3
    np.testing.assert_array_equal(rows[one].numpy(), vectors.astype(np.float32)[first])
    np.testing.assert_array_equal(rows[two].numpy(), vectors.astype(np.float32)[second])


@pytest.mark.parametrize("bad", [9, -1])
def test_an_index_outside_is_named(tmp_path, vectors, bad):
    matrix = ContentMatrix(write_matrix(tmp_path / "m", vectors))
    with pytest.raises(ValueError, match=f"item_idx {bad} .* 9 rows"):
        matrix.gather(np.array([1, bad]))


def test_broken_folders_are_named(tmp_path, vectors):
    with pytest.raises(ValueError, match=r"meta\.json: No such file"):
        ContentMatrix(tmp_path)
    folder = write_matrix(tmp_path / "m", vectors)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"rows": 10}))
    with pytest.raises(ValueError, match=r"vectors\.f16: 72 bytes, but 10 x 4 fp16 need 80"):
        ContentMatrix(folder)
    (folder / "meta.json").write_text(json.dumps(meta | {"dtype": "float32"}))
    with pytest.raises(ValueError, match="float32"):
        ContentMatrix(folder)
    (folder / "meta.json").write_text("{}")
    with pytest.raises(ValueError, match="key `rows` is missing; key `dim` is missing"):
        ContentMatrix(folder)


RANDOM_READS = """
import sys
import numpy as np
import psutil
from models.data.content import ContentMatrix

matrix, rng, process = ContentMatrix(sys.argv[1]), np.random.default_rng(0), psutil.Process()
before, peak = process.memory_info().rss, 0
for _ in range(24):
    assert not matrix.gather(rng.integers(0, matrix.rows, 1000)).any()
    peak = max(peak, process.memory_info().rss)
print(matrix.rows, peak - before)
"""


@pytest.mark.process
def test_resident_memory_does_not_grow_with_the_items(tmp_path):
    grown = {}
    for rows in (2_000_000, 8_000_000):  # 0.5 and 2 GB, as sparse files
        folder = write_matrix(tmp_path / str(rows), np.zeros((1, 128), np.float16))
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps(meta | {"rows": rows}))
        with (folder / "vectors.f16").open("r+b") as file:
            file.truncate(rows * 256)
        command = [sys.executable, "-c", RANDOM_READS, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        number, grown[rows] = map(int, done.stdout.split())
        assert number == rows
    assert max(grown.values()) < 200 << 20  # without releasing pages it would be 1 GB and more
