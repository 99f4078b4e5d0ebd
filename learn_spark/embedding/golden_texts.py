"""Golden texts: fixed texts whose vectors must stay the same; checked each time before an encoder is used.

The encoder's id covers the model's files, not the libraries that run the model. A new version of a library that pads,
masks, pools or tokenises differently would mix two kinds of vectors in one table, and no figure of the night's texts
would show it. A worker encodes the golden texts as it encodes the night's texts: all at once, and each alone.
"""

import json
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
from pyspark.resource import ResourceProfile

from learn_spark.embedding.udf import EncodeSpec, bad_models_named, worker_encoder
from learn_spark.errors import QualityError
from learn_spark.lake.frames import only_row
from learn_spark.quality.gates import Gate, unit
from learn_spark.runs.steps import Context
from models.contract.verified import read_sealed, sealed
from models.contract.whole_files import write_whole

FOLDER, FILE = "golden_texts", "texts.json"
FARTHEST = 1e-3  # cosine distance; texts in a batch and alone differ by 1e-6 in float32, by 1e-4 in bfloat16
_FOUND = "together array<array<float>>, alone array<array<float>>"
_LONG = "a heavy wool blanket with fringes, woven by hand in the mountains, for a cold evening by the fire; "
TEXTS = (
    "WHITE HANGING HEART T-LIGHT HOLDER",
    "red lantern",
    "Set of 6 tea plates, 18 cm",
    "Title: usb-c cable 2m, black. Brand: none. Price: 9.99",
    "The Lord of the Rings: The Fellowship of the Ring (2001)",
    "café crème – extra doux",
    "Kaffeemühle für Espresso, Edelstahl, größenverstellbar",
    "botas de lluvia para niños, talla 28",
    "女士冬季保暖羽绒服",
    "ワイヤレスイヤホン ノイズキャンセリング",
    "беспроводная мышь",
    "سماعات لاسلكية",
    "🎁 gift box 🎁",
    "x",
    "0",
    "3.5 mm x 10 m (25 pcs.) #A-17/B",
    "http://example.com/item?id=42&ref=a",
    "word " * 40,
    _LONG * 4,
    _LONG * 40,
)


def golden_gate(context: Context, spec: EncodeSpec, profile: ResourceProfile | None) -> Gate:
    """Encodes the golden texts and compares their vectors with the encoder's first ones, which the lake keeps.

    Returns:
        A gate with the largest cosine distance from a kept vector.

    Raises:
        ConfigError: a worker cannot load the model.
        QualityError: a text's vector is farther away than `FARTHEST`; the message names the text.
    """
    file = context.tables.artifacts.path(FOLDER, spec.encoder_id) / FILE
    with bad_models_named():
        found = only_row(context.spark.range(0, 1, 1, 1).mapInPandas(_encoded(spec), _FOUND, profile=profile))
    together_ND, alone_ND = np.array(found.together), np.array(found.alone)
    kept_ND = np.array(read_sealed(file, "golden texts")["vectors"]) if file.is_file() else together_ND
    distances = {name: _distance(kept_ND, vectors) for name, vectors in (("", together_ND), (" alone", alone_ND))}
    for how, distance_N in distances.items():
        if not (distance_N <= FARTHEST).all():
            worst = int(distance_N.argmax())
            raise QualityError(
                f"embed_items: encoder {spec.encoder_id} makes another vector of a golden text{how} than it made first:"
                f" {TEXTS[worst][:40]!r} is {distance_N[worst]:.3g} away in cosine, at most {FARTHEST:g} is allowed;"
                " nothing was encoded; a library or a driver has changed what it gives: go back to the one before, or,"
                " if the change is wanted, take another embedding.max_tokens, which makes it another encoder"
            )
    if not file.is_file():
        write_whole(file, json.dumps(sealed({"vectors": together_ND.tolist()})) + "\n")
    return Gate("golden_texts", max(float(each.max()) for each in distances.values()), upper=FARTHEST)


def _encoded(spec: EncodeSpec) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function that yields one row: the vectors of all texts encoded at once, and of each encoded alone."""

    def encode(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        encoder = worker_encoder(spec)
        tokens = encoder.tokenize(TEXTS)
        for _ in batches:
            together_ND = encoder.encode_tokens(tokens, spec.batch_tokens)
            alone_ND = np.concatenate([encoder.encode_tokens([ids], spec.batch_tokens) for ids in tokens])
            yield pd.DataFrame({"together": [list(together_ND)], "alone": [list(alone_ND)]})

    return encode


def _distance(kept_ND: np.ndarray, found_ND: np.ndarray) -> np.ndarray:
    """(N,) cosine distance per text: 0 if equal, even with NaN; infinite if widths differ or one is not finite."""
    if kept_ND.shape != found_ND.shape:
        return np.full(len(TEXTS), np.inf)
    cosine_N = (unit(kept_ND) * unit(found_ND)).sum(1)
    is_equal_N = np.array([np.array_equal(*both, equal_nan=True) for both in zip(kept_ND, found_ND, strict=True)])
    return np.where(is_equal_N, 0, np.where(np.isfinite(cosine_N), 1 - cosine_N, np.inf))
