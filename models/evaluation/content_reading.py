"""One pass over a template's texts, which makes a content matrix per layer and pooling and measures the cost.

Shapes: N items of the sample, U distinct texts, B texts of a batch, D width.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from models.contract.content_matrix import DTYPE, FP16_MAX, MatrixMeta, block_digests, vectors_file, write_meta
from models.contract.content_spec import ContentSpec, ContentVariant
from models.contract.failures import BadInput
from models.encoder.all_layers import LayersEncoder

SAID_EVERY = 10.0  # seconds
TEXTS_AT_ONCE = 1024


@dataclass
class Reading:
    """Cost and outcome of one pass.

    Attributes:
        texts: number of distinct texts that are not empty.
        items_without: number of items whose text is empty.
        tokens: number of tokens of the texts.
        seconds: by layer, the model's seconds up to it.
        bad: by layer and pooling, the number of texts without a usable vector.
    """

    texts: int
    items_without: int
    tokens: int
    seconds: dict[int, float]
    bad: dict[tuple[int, str], int]

    def as_json(self) -> dict[str, object]:
        """All but `bad`, which the result holds per variant."""
        return {name: value for name, value in asdict(self).items() if name != "bad"}


class MatrixWriter:
    """Writes a variant's vectors to a content matrix, row = item_idx.

    Attributes:
        bad: number of texts whose vector is not finite or too large for fp16. Their items get zeros.
    """

    def __init__(self, spec: ContentSpec, variant: ContentVariant, rows: int, dim: int) -> None:
        self._folder = spec.matrix(variant)
        self._folder.mkdir(parents=True)
        self._meta = MatrixMeta(rows=rows, dim=dim, dtype="float16", encoder_id=variant.name)
        self._vectors = np.memmap(vectors_file(self._folder, self._meta), DTYPE, "w+", shape=(rows, dim))
        self.bad = 0

    def put(self, items: Sequence[np.ndarray], vectors_BD: np.ndarray) -> None:
        """Stores the vectors of texts, each in the rows of all items with that text."""
        is_good_B = np.linalg.norm(vectors_BD, axis=1) < FP16_MAX
        self.bad += int((~is_good_B).sum())
        good_BD = np.where(is_good_B[:, None], vectors_BD, 0).astype(DTYPE)
        self._vectors[np.concatenate(items)] = np.repeat(good_BD, [len(each) for each in items], axis=0)

    def finish(self) -> None:
        """Writes the digests and meta.json, which complete the content matrix."""
        self._vectors.flush()
        file, meta = vectors_file(self._folder, self._meta), self._meta
        blocks = block_digests(file, meta.rows, meta.dim, range(meta.num_blocks))
        write_meta(self._folder, meta.model_copy(update={"blocks": tuple(blocks)}))


def read_template(spec: ContentSpec, encoder: LayersEncoder, template: str, texts: pa.Table) -> Reading:
    """Reads a template's distinct texts once and writes the matrices of its variants.

    Raises:
        BadInput: no item of the sample has any of the template's fields.
    """
    variants = [variant for variant in spec.variants if variant.template == template]
    words, items = _distinct(texts[template], texts["item_idx"].to_numpy())
    if not words:
        raise BadInput(f"template {template}: no item of the sample has any of its fields")
    rows = int(texts["item_idx"].to_numpy().max()) + 1
    writers = {(each.layer, each.pooling): MatrixWriter(spec, each, rows, encoder.dim) for each in variants}
    wanted: dict[int, list[str]] = {}
    for layer, pooling in writers:
        wanted.setdefault(layer, []).append(pooling)
    is_read_U = np.zeros(len(words), bool)
    found = Reading(len(words), len(texts) - sum(map(len, items)), 0, dict.fromkeys(wanted, 0.0), {})
    spoke = started = time.monotonic()
    for start in range(0, len(words), TEXTS_AT_ONCE):

        def keep(layer: int, pooling: str, rows_B: np.ndarray, vectors_BD: np.ndarray, start: int = start) -> None:
            writers[layer, pooling].put([items[start + row] for row in rows_B], vectors_BD)
            is_read_U[start + rows_B] = True

        tokens = encoder.tokenize(words[start : start + TEXTS_AT_ONCE])
        found.tokens += sum(map(len, tokens))
        for layer, spent in encoder.read(tokens, spec.batch_tokens, wanted, keep).items():
            found.seconds[layer] += spent
        if time.monotonic() - spoke > SAID_EVERY:
            spoke = time.monotonic()
            rate = is_read_U.sum() / (spoke - started)
            left = (len(words) - is_read_U.sum()) / rate / 60
            said(f"{template}: {is_read_U.sum():,} of {len(words):,} texts, {rate:,.0f} texts/s, {left:,.1f} min left")
    for key, writer in writers.items():
        writer.finish()
        found.bad[key] = writer.bad + int((~is_read_U).sum())
    said(f"{template}: {len(words):,} texts, {found.tokens:,} tokens, {time.monotonic() - started:.1f} s")
    return found


def _distinct(texts: pa.ChunkedArray, item_N: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    """The distinct nonempty texts, and the items of each."""
    coded = texts.combine_chunks().dictionary_encode()
    words, code_N = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    order_N = np.argsort(code_N, kind="stable")
    items = np.split(item_N[order_N], np.cumsum(np.bincount(code_N, minlength=len(words)))[:-1])
    spoken = [place for place, text in enumerate(words) if text]
    return [words[place] for place in spoken], [items[place] for place in spoken]


def said(text: str) -> None:
    """Prints a progress line to stderr."""
    print(text, file=sys.stderr, flush=True)
