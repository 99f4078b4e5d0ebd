"""The content matrix: raw little-endian fp16, row = item_idx, read by memory map, extended for new items.

Row 0 is padding; it and the rows of items without a text are zeros. `meta.json` says how many rows are
valid: it is replaced last, so that a run that is killed leaves the rows before it as they were.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.core.errors import QualityError
from learn_spark.core.schemas import CONTENT_EMBEDDINGS, ITEM_INDEX
from learn_spark.core.steps import Context
from learn_spark.embedding.encoders import encoder_id
from learn_spark.embedding.prompts import Template, template
from learn_spark.embedding.store import current_texts

VECTORS = "vectors.f16"
META = "meta.json"
ROWS_A_TASK = 1 << 16


@dataclass(frozen=True)
class MatrixMeta:
    """`meta.json`.

    Attributes:
        rows: valid rows, the padding row included.
        texts: digest over (item_idx, text_hash) of these rows; other texts need another file.
    """

    rows: int
    dim: int
    dtype: str
    encoder_id: str
    template_version: str
    texts: int

    @property
    def bytes(self) -> int:
        return self.rows * self.dim * 2


def matrix_path(context: Context) -> Path:
    """The folder of the matrix that this config's models read.

    Named by encoder, template and the day that pins the texts.
    """
    config = context.config
    version = template(config.embedding.template).version
    name = f"{encoder_id(config)}-{version}-{config.windows.towers_end}"
    return context.tables.artifact("matrix", name)


def extend_matrix(context: Context, chosen: Template, encoder: str) -> MatrixMeta:
    """Brings the matrix up to the newest item: new rows only, or the whole file where earlier texts changed.

    Executors write the rows straight into the file; no vector passes through the driver.

    Raises:
        QualityError: where an item's vector is missing.
    """
    folder = matrix_path(context)
    old = read_meta(folder)
    index_df = context.tables.read(ITEM_INDEX.name)
    texts_df = current_texts(context, chosen).join(index_df, on="item_id", how="inner")
    digest = F.xxhash64("item_idx", "text_hash")
    totals = texts_df.agg(
        F.max("item_idx").alias("last"),
        F.bit_xor(digest).alias("texts"),
        F.bit_xor(F.when(F.col("item_idx") < F.lit(old.rows if old else 0), digest)).alias("old_texts"),
    ).first()
    vectors_df = context.tables.read(CONTENT_EMBEDDINGS.name).where(F.col("encoder_id") == encoder)
    dim = vectors_df.select("dim").first()["dim"]
    meta = MatrixMeta(totals["last"] + 1, dim, "float16", encoder, chosen.version, totals["texts"])
    is_kept = old is not None and old.texts == totals["old_texts"] and _size(folder) >= old.bytes
    first_row = old.rows if is_kept else 0
    file = folder / (VECTORS if is_kept else f"{VECTORS}.new")
    _make_room(file, first_row * dim * 2, meta.bytes)
    if first_row < meta.rows:
        new_df = texts_df.where(F.col("item_idx") >= first_row).select("item_idx", "text_hash")
        _write_rows(new_df, vectors_df.select("text_hash", "embedding"), file, dim)
    if not is_kept:
        file.replace(folder / VECTORS)
    if meta != old:
        _replace_meta(folder, meta)
    return meta


def read_meta(folder: Path) -> MatrixMeta | None:
    """The meta of a matrix, or None where there is none that can be extended."""
    try:
        return MatrixMeta(**json.loads((folder / META).read_text(encoding="utf-8")))
    except (FileNotFoundError, TypeError, ValueError):
        return None


def _write_rows(new_df: DataFrame, vectors_df: DataFrame, file: Path, dim: int) -> None:
    wanted = new_df.count()
    written = (
        new_df.join(vectors_df, on="text_hash", how="inner")
        .select("item_idx", "embedding")
        .repartition(F.expr(f"item_idx div {ROWS_A_TASK}"))
        .sortWithinPartitions("item_idx")
        .mapInPandas(_row_writer(str(file), dim), "written bigint")
        .agg(F.sum("written"))
        .first()[0]
    )
    if written != wanted:
        raise QualityError(f"content matrix {file}: {wanted} items have a text, but {written or 0} have a vector")


def _row_writer(file: str, dim: int) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """For `mapInPandas`: writes sorted (item_idx, embedding) rows at their offsets.

    A task that is tried again writes the same bytes.
    """

    def write_rows(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        written = 0
        with open(file, "r+b") as vectors:
            for batch_pdf in batches:
                rows, embeddings = batch_pdf["item_idx"].to_numpy(), batch_pdf["embedding"].to_numpy()
                starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
                for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
                    vectors.seek(int(rows[start]) * dim * 2)
                    vectors.write(b"".join(embeddings[start:end]))
                written += len(rows)
            vectors.flush()
            os.fsync(vectors.fileno())
        yield pd.DataFrame({"written": [written]})

    return write_rows


def _make_room(file: Path, keep: int, size: int) -> None:
    """Cuts what a killed run left after the valid rows, then grows the file with zeros."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as vectors:
        vectors.truncate(keep)
        vectors.truncate(size)


def _size(folder: Path) -> int:
    file = folder / VECTORS
    return file.stat().st_size if file.is_file() else 0


def _replace_meta(folder: Path, meta: MatrixMeta) -> None:
    fresh = folder / f"{META}.new"
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(asdict(meta), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / META)
