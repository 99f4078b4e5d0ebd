"""The optional reduction of the content matrix: a fixed linear map to fewer numbers per item, fitted once.

The map's rows are the principal directions of a sample of vectors, about zero and not about their mean: the models read
cosines, which a shift would change (docs/decisions/0006-encoder.md).

Shapes: N vectors, D width of the encoder, K width of the matrix, S vectors added up at a time.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame
from safetensors import SafetensorError
from safetensors.numpy import load, save

from learn_spark.embedding.sample import sampled_vectors
from learn_spark.errors import ConfigError, QualityError
from learn_spark.quality.drift import neighbour_overlap
from models.contract.content_matrix import ReductionMeta, reduction_file
from models.contract.whole_files import write_whole

FILE = "reduction.safetensors"
COMPONENTS = "components"
FITTED, MEASURED = 16_384, 2_048  # texts; the driver's memory does not grow with the items
SUMMED_AT_ONCE = 2_048


@dataclass(frozen=True, eq=False)
class Reduction:
    """The map, float64 [K, D] with orthonormal rows, and its meta: file, checksum, measures."""

    components_KD: np.ndarray
    meta: ReductionMeta

    def reduced(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Maps vectors to fp16 [N, K]; none gets longer, zeros stay zeros, and a row does not depend on the others.

        The sums are float64: the differences that other batch sizes make in them vanish in fp16.
        """
        return _reduced(self.components_KD, vectors_ND)

    def save(self, folder: Path) -> None:
        """Writes the file into the matrix's folder, whole or not at all."""
        write_whole(folder / FILE, _as_bytes(self.components_KD))


def load_reduction(folder: Path, meta: ReductionMeta) -> Reduction:
    """Loads the map by which a matrix was made.

    Raises:
        QualityError: the file is missing or has changed; another map would put new items into another space.
    """
    try:
        file = reduction_file(folder, meta)
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != meta.sha256:
            raise ValueError("its sha256 is not the one in meta.json")
        return Reduction(load(content)[COMPONENTS], meta)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise QualityError(
            f"content matrix {folder}: {meta.file} is lost ({getattr(error, 'strerror', None) or error}), so new items"
            " cannot join: restore the file, or remove the matrix's folder and _artifacts/models to train anew"
        ) from None


def fit_reduction(rows_df: DataFrame, full_dim: int, dim: int) -> Reduction:
    """Fits the map to a sample of texts, and measures it on others if there are enough.

    Args:
        rows_df: (item_idx, text_hash, embedding, flag).
        full_dim: D.
        dim: K.

    Raises:
        ConfigError: the encoder's vectors are not wider than `dim`, or there are fewer texts than `dim`.
    """
    if dim >= full_dim:
        raise ConfigError(
            f"embedding.reduce_to is {dim}, but the encoder's vectors have only {full_dim} numbers: null keeps them all"
        )
    _, sample_ND = sampled_vectors(rows_df, FITTED + MEASURED)
    if len(sample_ND) < dim:
        raise ConfigError(
            f"embedding.reduce_to is {dim}, but only {len(sample_ND)} texts have a vector that it could be fitted to:"
            " null keeps whole vectors"
        )
    return measured_reduction(sample_ND[:FITTED], sample_ND[-MEASURED:], dim)


def measured_reduction(fitted_ND: np.ndarray, measured_ND: np.ndarray, dim: int) -> Reduction:
    """Fits the map to K = `dim` numbers to some vectors, and measures it on others, which may be the same ones."""
    components_KD = principal_directions(fitted_ND, dim)
    reduced_NK = _reduced(components_KD, measured_ND).astype(np.float32)
    meta = ReductionMeta(
        file=FILE,
        sha256=hashlib.sha256(_as_bytes(components_KD)).hexdigest(),
        full_dim=measured_ND.shape[1],
        explained_variance=round(_variance(reduced_NK) / max(_variance(measured_ND), 1e-12), 6),
        neighbour_overlap=round(neighbour_overlap(reduced_NK, measured_ND), 6),
        fitted=len(fitted_ND),
        measured=len(measured_ND),
    )
    return Reduction(components_KD, meta)


def principal_directions(vectors_ND: np.ndarray, dim: int) -> np.ndarray:
    """float64 [K, D], orthonormal: among all such maps it loses least of the vectors' squared lengths (Eckart-Young).

    In each direction the number of largest magnitude is positive, so that equal vectors give an equal map.
    """
    moment_DD = np.zeros((vectors_ND.shape[1],) * 2)
    for start in range(0, len(vectors_ND), SUMMED_AT_ONCE):
        part_SD = vectors_ND[start : start + SUMMED_AT_ONCE].astype(np.float64)
        moment_DD += part_SD.T @ part_SD
    directions_KD = np.linalg.eigh(moment_DD).eigenvectors[:, ::-1][:, :dim].T
    largest_K = np.abs(directions_KD).argmax(axis=1)
    return np.ascontiguousarray(directions_KD * np.sign(directions_KD[np.arange(dim), largest_K])[:, None])


def _reduced(components_KD: np.ndarray, vectors_ND: np.ndarray) -> np.ndarray:
    return (vectors_ND.astype(np.float64) @ components_KD.T).astype("<f2")


def _variance(vectors: np.ndarray) -> float:
    return float(vectors.var(axis=0, dtype=np.float64).sum())


def _as_bytes(components_KD: np.ndarray) -> bytes:
    return save({COMPONENTS: components_KD})
