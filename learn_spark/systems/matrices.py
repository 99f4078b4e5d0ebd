"""The content vectors that a system of the comparison reads: the lake's, another encoder's, or random ones."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from learn_spark.config.comparison import SystemSettings
from learn_spark.embedding.job import embed_items
from learn_spark.embedding.matrix import matrix_path
from learn_spark.runs.steps import Context
from learn_spark.systems.specs import encoder_of
from models.contract.content_matrix import DTYPE, META, MatrixMeta, block_digests, read_meta, vectors_file, write_meta

CHUNK_ROWS = 65_536


def matrix_folder(context: Context, system: SystemSettings) -> Path:
    """The folder of a system's matrix, which may not exist yet."""
    if system.content == "config":
        return matrix_path(_with_encoder(context, system))
    meta = _random_meta(context)
    return context.tables.artifacts.path("matrix", f"random-{meta.rows}-{meta.dim}")


def make_matrices(context: Context, systems: Mapping[str, SystemSettings]) -> None:
    """Makes those of the systems' matrices that the lake lacks: other encoders' vectors, and random ones.

    Raises:
        ConfigError, QualityError: what `embed_items` raises.
    """
    done: set[Path] = set()
    for name, system in systems.items():
        folder = matrix_folder(context, system)
        if system.content == "random":
            _write_random(folder, _random_meta(context))
        elif system.embedding and folder not in done:
            made = embed_items(_with_encoder(context, system), [context.config.windows.end])
            context.progress.say(f"{made.rows_out} texts were encoded for {name}")
        done.add(folder)


def _with_encoder(context: Context, system: SystemSettings) -> Context:
    return replace(context, config=encoder_of(context.config, system))


def _random_meta(context: Context) -> MatrixMeta:
    dim = context.config.towers.model.d_model
    rows = read_meta(matrix_path(context)).rows
    return MatrixMeta(rows=rows, dim=dim, dtype="float16", encoder_id=f"random-{dim}")


def _write_random(folder: Path, meta: MatrixMeta) -> None:
    """Writes frozen, normally distributed vectors of the towers' width, a row per item; equal in every run.

    With the id residual, which starts at zero, they act as id embeddings with normal initial values.
    """
    rows, dim = meta.rows, meta.dim
    if not (folder / META).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        vectors = np.memmap(vectors_file(folder, meta), DTYPE, "w+", shape=(rows, dim))
        generator = np.random.default_rng(1)
        for start in range(0, rows, CHUNK_ROWS):
            vectors[start : start + CHUNK_ROWS] = generator.standard_normal((min(CHUNK_ROWS, rows - start), dim))
        vectors[0] = 0  # padding
        vectors.flush()
        blocks = block_digests(vectors_file(folder, meta), rows, dim, range(meta.num_blocks))
        write_meta(folder, meta.model_copy(update={"blocks": tuple(blocks)}))
