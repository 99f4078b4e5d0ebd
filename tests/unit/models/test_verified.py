"""Changed bytes are refused when read, file names in metadata must stay in the folder, older artifacts can be read."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.contract import content_matrix, verified
from models.contract.content_matrix import BLOCK_ROWS, MatrixMeta, block_digests, open_matrix, read_meta, write_meta
from models.contract.damage import matrix_damage, model_damage, snapshot_damage
from models.contract.failures import BadInput
from models.contract.settings import CVRConfig, TowersConfig
from models.contract.snapshot import Manifest, SnapshotFile, open_snapshot, write_manifest
from models.data.content import ContentMatrix
from models.saved import load_cvr, load_towers, save_cvr, save_towers
from models.towers.cvr import CVRModel
from models.towers.towers import Towers
from tests.builders.tensors import flip, write_matrix, write_snapshot

ROWS, DIM = 2 * BLOCK_ROWS + 100, 4


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    """A matrix of three blocks with digests, as the project writes it."""
    folder = write_matrix(tmp_path / "matrix", np.random.default_rng(0).normal(size=(ROWS, DIM)))
    digests = block_digests(folder / "vectors.f16", ROWS, DIM, range(3))
    write_meta(folder, read_meta(folder).model_copy(update={"blocks": tuple(digests)}))
    return folder


@pytest.fixture
def towers(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_towers(tmp_path / "towers", Towers(TowersConfig(d_model=16, heads=2), 6, 9))
    return tmp_path / "towers"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot with a sealed manifest, as the project writes it."""
    folder = write_snapshot(tmp_path / "snapshot", pa.table({"row": list(range(50))}))
    values = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, Manifest(**{**values, "files": tuple(SnapshotFile(**file) for file in values["files"])}))
    return folder


def complaint(read: Callable[[], object]) -> str:
    with pytest.raises(BadInput) as raised:
        read()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_only_the_blocks_that_are_read_are_verified(matrix: Path) -> None:
    flip(matrix / "vectors.f16", (BLOCK_ROWS + 7) * DIM * 2)
    content = ContentMatrix(matrix)
    content.gather(np.array([1, BLOCK_ROWS - 1, 2 * BLOCK_ROWS]))
    said = complaint(lambda: content.gather(np.array([1, BLOCK_ROWS])))
    assert f"vectors.f16: rows {BLOCK_ROWS} .. {2 * BLOCK_ROWS - 1} have changed" in said and "repair" in said


def test_the_last_block_ends_with_the_valid_rows(matrix: Path) -> None:
    """A run that extends the file writes after the valid rows, which must not matter."""
    with (matrix / "vectors.f16").open("ab") as file:
        file.write(b"half a row of the next run")
    assert len(ContentMatrix(matrix).gather(np.array([ROWS - 1]))) == 1
    flip(matrix / "vectors.f16", ROWS * DIM * 2 - 1)
    assert f"rows {2 * BLOCK_ROWS} .. {ROWS - 1} have" in complaint(lambda: ContentMatrix(matrix).gather([ROWS - 1]))


def test_a_block_is_read_once_as_long_as_the_file_stays(matrix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def noted(file: Path, meta: MatrixMeta, blocks: list[int]) -> None:
        read.extend(blocks)
        return real(file, meta, blocks)

    real = content_matrix.require_blocks
    monkeypatch.setattr(content_matrix, "require_blocks", noted)
    for _ in range(2):
        ContentMatrix(matrix).gather(np.array([0, 5, BLOCK_ROWS]))
    assert read == [0, 1]
    os.utime(matrix / "vectors.f16")
    ContentMatrix(matrix).gather(np.array([0]))
    assert read == [0, 1, 0]


def test_changed_weights_and_config_of_a_model_are_refused(towers: Path, tmp_path: Path) -> None:
    load_towers(towers)
    weights = towers / "model.safetensors"
    flip(weights, weights.stat().st_size - 5)
    said = complaint(lambda: load_towers(towers))
    assert f"{weights} has changed since it was written" in said and "learn-spark repair" in said
    flip(weights, weights.stat().st_size - 5)
    load_towers(towers)
    config = towers / "config.json"
    config.write_text(config.read_text().replace('"heads": 2', '"heads": 4'))  # same shapes, but other vectors
    assert f"{config} has changed" in complaint(lambda: load_towers(towers))
    save_cvr(tmp_path / "cvr", CVRModel(CVRConfig(hidden=(7, 5)), 4, 3))
    flip(tmp_path / "cvr" / "model.safetensors", 900)
    assert "has changed" in complaint(lambda: load_cvr(tmp_path / "cvr"))


def test_changed_metadata_is_refused(matrix: Path, snapshot: Path) -> None:
    open_snapshot(snapshot)
    manifest, meta = snapshot / "manifest.json", matrix / "meta.json"
    manifest.write_text(manifest.read_text().replace('"source_version": 3', '"source_version": 4'))
    assert f"{manifest} has changed" in complaint(lambda: open_snapshot(snapshot))
    meta.write_text(meta.read_text().replace("test-encoder", "best-encoder"))
    assert f"{meta} has changed" in complaint(lambda: open_matrix(matrix))


def test_damage_is_found_by_reading_every_byte(matrix: Path, towers: Path, snapshot: Path) -> None:
    parts = sorted(snapshot.glob("*.parquet"))
    places = ((matrix_damage, matrix, "vectors.f16"), (model_damage, towers, "model.safetensors"))
    for look, folder, name in (*places, (snapshot_damage, snapshot, parts[-1].name)):
        assert look(folder) is None
        flip(folder / name, (folder / name).stat().st_size // 2)
        assert f"{folder / name}" in (look(folder) or "") and "changed" in (look(folder) or "")
        (folder / name).unlink()
        assert name in (look(folder) or "")
        assert look(folder / "nowhere")


def test_artifacts_of_earlier_releases_are_read_with_a_warning_once(
    towers: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    verified.warn_unverified.cache_clear()
    about = json.loads((towers / "config.json").read_text())
    del about["digest"], about["weights_sha256"]
    (towers / "config.json").write_text(json.dumps(about))
    old = write_matrix(tmp_path / "old", np.zeros((3, DIM)))
    for _ in range(2):
        load_towers(towers)
        assert ContentMatrix(old).gather(np.array([2])).shape == (1, DIM)
    assert [record.getMessage().split(":")[1] for record in caplog.records] == [
        f" {towers} was written without digests",
        f" {old} was written without digests",
    ]


ELSEWHERE = (
    "../victim",
    "../../victim",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/vectors.f16",
    "vectors.f16\n",
    "vectors-².f16",
)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_in_metadata_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = write_matrix(tmp_path / "m", np.zeros((3, DIM)))
    meta = json.loads((folder / "meta.json").read_text())
    reduction = {
        "sha256": "",
        "full_dim": 9,
        "explained_variance": 1,
        "neighbour_overlap": 1,
        "fitted": 1,
        "measured": 1,
    }
    for change in ({"vectors": name}, {"reduction": reduction | {"file": name}}):
        (folder / "meta.json").write_text(json.dumps(meta | change))
        assert "leads out of the folder" in complaint(lambda: open_matrix(folder))
    snapshot = write_snapshot(tmp_path / "s", pa.table({"row": [1, 2]}), files=1)
    manifest = json.loads((snapshot / "manifest.json").read_text())
    manifest["files"][0]["path"] = name
    (snapshot / "manifest.json").write_text(json.dumps(manifest))
    assert "leads out of the folder" in complaint(lambda: open_snapshot(snapshot))


def test_a_link_that_leads_out_is_refused_and_a_linked_folder_is_not(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path / "m", np.zeros((3, DIM)))
    (tmp_path / "linked").symlink_to(folder)
    open_matrix(tmp_path / "linked")
    (folder / "vectors.f16").rename(tmp_path / "vectors.f16")
    (folder / "vectors.f16").symlink_to(tmp_path / "vectors.f16")
    assert "is a link that leads out of the folder" in complaint(lambda: open_matrix(folder))
