"""The content vectors that a system of the comparison reads: the lake's, another encoder's, or random ones."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from learn_spark.comparison.systems import encoder_of
from learn_spark.config.comparison import SystemSettings
from learn_spark.embedding.job import embed_items
from learn_spark.embedding.matrix import matrix_path
from learn_spark.runs.steps import Context
from models.contract.content_matrix import DTYPE, META, MatrixMeta, block_digests, read_meta, vectors_file, write_meta

CHUNK_ROWS = 65_536


def matrices_of(context: Context, systems: Mapping[str, SystemSettings]) -> dict[str, Path]:
    """The folder of each system's matrix; what the lake lacks of another encoder's vectors is made first.

    Raises:
        ConfigError, QualityError: what `embed_items` raises.
    """
    found: dict[str, Path] = {}
    for name, system in systems.items():
        if system.content == "random":
            found[name] = _random_matrix(context)
            continue
        own = replace(context, config=encoder_of(context.config, system))
        folder = matrix_path(own)
        if system.embedding and folder not in found.values():
            made = embed_items(own, [context.config.windows.end])
            context.progress.say(f"compare: {made.rows_out} texts were encoded for {name}")
        found[name] = folder
    return found


def _random_matrix(context: Context) -> Path:
    """Frozen normal vectors of the towers' width, a row an item; equal in every run.

    With the id residual, which starts at zero, they are id embeddings of normal initial values.
    """
    rows, dim = read_meta(matrix_path(context)).rows, context.config.towers.model.d_model
    meta = MatrixMeta(rows=rows, dim=dim, dtype="float16", encoder_id=f"random-{dim}")
    folder = context.tables.artifact("matrix", f"random-{rows}-{dim}")
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
    return folder
