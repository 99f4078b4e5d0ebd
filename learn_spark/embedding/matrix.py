"""The content matrix: raw little-endian fp16, row = item_idx, read by memory map, extended for new items.

Row 0 is padding; it and the rows of items without a text are zeros. `meta.json` names the file and says how many of its
rows are valid. It is replaced last, so a killed run leaves the earlier rows as they were, and a reader always finds a
meta and a file that belong together. A row that a meta.json has ever called valid is not written again: if earlier
texts changed, a new file takes over, and the previous one stays for processes that still read it.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import chain
from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.embedding.encoders import encoder_id
from learn_spark.embedding.matrix_rows import write_rows
from learn_spark.embedding.prompts import Template, template
from learn_spark.embedding.reduction import FILE, Reduction, fit_reduction, load_reduction
from learn_spark.embedding.store import current_texts, is_bad, vectors_of
from learn_spark.errors import QualityError
from learn_spark.lake.frames import only_row
from learn_spark.lake.schemas import INTERACTIONS, ITEM_INDEX
from learn_spark.runs.steps import EMBED_ITEMS, Context
from models.contract.content_matrix import (
    BLOCK_ROWS,
    META,
    VECTORS,
    MatrixMeta,
    ReductionMeta,
    block_digests,
    open_matrix,
    read_meta,
    require_blocks,
    vectors_file,
    write_meta,
)
from models.contract.failures import BadInput
from models.contract.result import RESULT

ROWS_HELD = 4096  # 32 MB if a row has 4096 numbers
_THREADS = 4  # read blocks for their digests


def matrix_path(context: Context) -> Path:
    """The folder of the matrix that this config's models read.

    Its name holds the encoder, the width if it is reduced, the template and the day that pins the texts.
    """
    config = context.config
    version, width = template(config.embedding.template).version, config.embedding.reduce_to
    encoder = encoder_id(config) + (f"-to{width}" if width else "")
    name = f"{encoder}-{version}-{config.windows.towers_end}"
    return context.tables.artifacts.path("matrix", name)


@dataclass(frozen=True)
class Extension:
    """The planned write that brings the matrix up to the newest item.

    Attributes:
        old: the current meta, if there is one.
        meta: the new meta, still without the digests of its blocks.
        first_row: the first row that is written: the one after the old rows, or 0 in a new file.
        rows_df: (item_idx, text_hash, embedding, norm, flag) of the rows to be written, as the encoder made them.
        wanted: how many rows `rows_df` must have.
        reduction: the map that is applied to the vectors before they are written, if any.
    """

    folder: Path
    old: MatrixMeta | None
    meta: MatrixMeta
    first_row: int
    rows_df: DataFrame
    wanted: int
    reduction: Reduction | None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Caches the rows while they are checked and written, if they are as few as a night brings."""
        if self.wanted > ROWS_HELD:
            yield
            return
        self.rows_df.persist()
        try:
            yield
        finally:
            self.rows_df.unpersist()

    @property
    def is_needed(self) -> bool:
        return self.old is None or self.meta != self.old.model_copy(update={"blocks": None})


def planned_extension(context: Context, chosen: Template, encoder: str, before: date) -> Extension:
    """Compares texts and matrix; plans new rows only, or a new file if earlier texts changed or bytes were lost.

    A reduction is fitted once, to the texts that the folder begins with, and then stays: models are trained on its
    space. If the meta that names it is lost, the ledger still names it.

    Raises:
        ConfigError: `embedding.reduce_to` is not below the encoder's width, or there are too few texts to fit it to.
        QualityError: the reduction of the old rows is lost.
    """
    folder = matrix_path(context)
    old = known_meta(folder)
    vectors_df = vectors_of(context, encoder)
    index_df = context.tables.read(ITEM_INDEX.name)
    texts_df = current_texts(context, chosen).join(index_df, on="item_id", how="inner").select("item_idx", "text_hash")
    bad_df = F.broadcast(vectors_df.where(is_bad()).select("text_hash", "flag"))
    digest = F.xxhash64("item_idx", "text_hash", "flag")
    is_old = F.col("item_idx") < F.lit(old.rows if old else 0)
    totals = only_row(
        texts_df.join(bad_df, on="text_hash", how="left").agg(
            F.max("item_idx").alias("last"),
            F.bit_xor(digest).alias("texts"),
            F.bit_xor(F.when(is_old, digest)).alias("old_texts"),
            F.count("*").alias("items"),
            F.count_if(is_old).alias("old_items"),
        )
    )
    kept = old if old is not None and old.texts == totals["old_texts"] and is_whole(folder, old) else None
    name = kept.vectors if kept else _file_name(_newest_generation(folder, old) + 1)
    first_row = kept.rows if kept else 0
    rows_df = texts_df.where(F.col("item_idx") >= first_row).join(
        vectors_df.select("text_hash", "embedding", "norm", "flag"), on="text_hash", how="inner"
    )
    width = context.config.embedding.reduce_to
    reduction = _reduction(folder, old, _recorded_reduction(context, folder)) if width else None
    is_known = old is not None and bool(old.reduction) == bool(width)
    dim = old.dim if old is not None and is_known else only_row(vectors_df.select("dim").limit(1))["dim"]
    if width and reduction is None:
        reduction = fit_reduction(rows_df, dim, width)
    meta = MatrixMeta(
        rows=max(totals["last"] or 0, _last_seen(context, before, first_row), first_row - 1) + 1,
        dim=len(reduction.components_KD) if reduction else dim,
        dtype="float16",
        encoder_id=encoder,
        template_version=chosen.version,
        texts=totals["texts"],
        vectors=name,
        reduction=reduction.meta if reduction else None,
    )
    wanted = totals["items"] - (totals["old_items"] if kept else 0)
    return Extension(folder, old, meta, first_row, rows_df, wanted, reduction)


def _last_seen(context: Context, before: date, first_row: int) -> int:
    """The highest number of an item with an event before a day: items without a text need a row (of zeros), too.

    Only numbers from `first_row` on are searched, so that Spark skips files of older items; 0 if there is none.
    """
    is_new = (F.col("item_idx") >= first_row) & (F.col("ds") < F.lit(before))
    return only_row(context.tables.read(INTERACTIONS.name).where(is_new).agg(F.max("item_idx")))[0] or 0


def extend_matrix(extension: Extension) -> None:
    """Writes the planned rows, then the meta that makes them valid.

    Raises:
        QualityError: an item's vector is missing.
    """
    folder, meta = extension.folder, extension.meta
    file = vectors_file(folder, meta)
    folder.mkdir(parents=True, exist_ok=True)
    if extension.reduction is not None and extension.old is None:
        extension.reduction.save(folder)
    _make_room(file, extension.first_row * meta.dim * 2, meta.bytes)
    if extension.wanted:
        _write_rows(extension, file)
    write_meta(folder, meta.model_copy(update={"blocks": _digests(extension, file)}))
    for old in folder.glob("vectors-*.f16"):
        if _generation_of(old.name) < _generation_of(meta.vectors) - 1:
            old.unlink()


def read_rows(folder: Path, rows_N: np.ndarray) -> np.ndarray:
    """The rows `rows_N` of a matrix as float32 [N, dim]; they must be valid ones."""
    vectors, _ = open_matrix(folder)
    return vectors[rows_N].astype(np.float32)


def known_meta(folder: Path) -> MatrixMeta | None:
    """The meta of a matrix; None if there is no matrix that can be extended."""
    try:
        meta = read_meta(folder)
    except BadInput:
        return None
    return None if meta.texts is None else meta


def _reduction(folder: Path, old: MatrixMeta | None, recorded: ReductionMeta | None) -> Reduction | None:
    """The map by which the existing, or the lost, rows were made; None if none has been fitted yet."""
    if named := (old.reduction if old is not None else recorded):
        return load_reduction(folder, named)
    if old is None and (folder / META).is_file() and (folder / FILE).is_file():
        raise QualityError(
            f"content matrix {folder}: {META} is damaged, so new items cannot join what {FILE} made: restore the file,"
            " or remove the folder and _artifacts/models to train anew"
        )
    return None


def _recorded_reduction(context: Context, folder: Path) -> ReductionMeta | None:
    """The map of a matrix as the ledger recorded it; None if it recorded none, or if no model is trained."""
    if not any(context.tables.artifacts.path("models").glob(f"*/{RESULT}")):
        return None
    for (step, _), row in context.ledger.recorded().items():
        said = row.details.get("reduction") if step == EMBED_ITEMS else None
        if said and Path(row.details["matrix"]).parent.name == folder.name:
            return ReductionMeta(**said)
    return None


def _write_rows(extension: Extension, file: Path) -> None:
    written = write_rows(extension.rows_df, file, extension.meta.dim, extension.reduction)
    if written != extension.wanted:
        raise QualityError(f"content matrix {file}: {extension.wanted} items have a text, but {written} have a vector")


def _digests(extension: Extension, file: Path) -> tuple[str, ...]:
    """Digests of the file's blocks as they are now; only new blocks are read."""
    old, meta = extension.old, extension.meta
    known = old.blocks if extension.first_row and old is not None and old.blocks is not None else ()
    kept = known[: extension.first_row // BLOCK_ROWS]
    with ThreadPoolExecutor(_THREADS) as pool:
        new = pool.map(
            lambda block: block_digests(file, meta.rows, meta.dim, [block]), range(len(kept), meta.num_blocks)
        )
        return (*kept, *chain.from_iterable(new))


def _make_room(file: Path, keep: int, size: int) -> None:
    """Cuts off what a killed run left after the valid rows, then grows the file with zeros."""
    with file.open("ab") as vectors:
        vectors.truncate(keep)
        vectors.truncate(size)


def is_whole(folder: Path, meta: MatrixMeta) -> bool:
    """Whether all valid rows are there, and their last block, which an extension will write to, is undamaged."""
    file = vectors_file(folder, meta)
    if not file.is_file() or file.stat().st_size < meta.bytes:
        return False
    try:
        require_blocks(file, meta, [meta.num_blocks - 1])
    except BadInput:
        return False
    return True


def _file_name(generation: int) -> str:
    return f"vectors-{generation}.f16"


def _newest_generation(folder: Path, old: MatrixMeta | None) -> int:
    """The newest generation of all files, since any may still be read, and of the meta's file, even if that is gone."""
    names = {file.name for file in folder.glob("vectors-*.f16")} | ({old.vectors} if old else set())
    return max((_generation_of(name) for name in names - {VECTORS}), default=0)


def _generation_of(name: str) -> int:
    return int(name.removeprefix("vectors-").removesuffix(".f16"))
