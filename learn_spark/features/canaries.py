"""Canaries: fixed (golden) histories, items and pairs that the two models must score every night as they did at first.

A change of mask, pooling, library or matrix shifts all vectors a little, and no gate over a day's rows can tell that
from a new day. The golden rows are always the same. They are scored where the day's rows are scored, all at once and
each alone. The histories are made up from the lake's items and belong to no user.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.bridge.programs import cvr_to_score, towers_to_score
from learn_spark.bridge.scoring import OTHERS, TYPES, score_items, score_pairs, score_users
from learn_spark.embedding.matrix import matrix_path
from learn_spark.lake.frames import frame_of
from learn_spark.quality.gates import Gate
from learn_spark.releases.registry import Release
from learn_spark.runs.steps import Context
from models.contract.verified import read_sealed, sealed
from models.contract.whole_files import write_whole

FOLDER, FILE = "canaries", "canaries.json"
GOLDEN = 32  # histories, as many items, and as many pairs of one each
ITEMS = 128  # from which they are drawn
ALONE = 1  # row at a time
FARTHEST = 0.03  # relative to a vector's length: a cosine distance of 5e-4; other batch sizes change 1e-6 in float32

_USERS = (("histories", "types"), f"n int, item_idx array<int>, {TYPES} array<tinyint>")

Golden = Mapping[str, Any]


@dataclass(frozen=True)
class Canaries:
    """Golden rows of two models, and the gates over what the models make of them now.

    Attributes:
        file: where they are kept, by the models' fingerprints.
        kept: its content, or what it will hold once the release is published: item numbers, and the rows' vectors.
        gates: one per kind of row, with the largest distance from a kept vector.
    """

    file: Path
    kept: Golden
    gates: list[Gate]

    @classmethod
    def of(cls, context: Context, release: Release) -> "Canaries":
        """Scores the golden rows; if none are kept yet, chooses them and keeps the vectors of a first scoring."""
        models = "-".join(release.models[name] for name in ("towers", "cvr"))
        file = context.tables.artifacts.path(FOLDER, models) / FILE
        kept = read_sealed(file, "canaries") if file.is_file() else _made(context, release)
        found = _scored(context, kept, ("user_emb", "item_emb", "pair"), (_batch_rows(context), ALONE))
        farthest = {kind: max(_distance(kept[kind], rows) for rows in found[kind]) for kind in found}
        return cls(file, kept, [Gate(f"canary_{kind}", far, upper=FARTHEST) for kind, far in farthest.items()])

    def keep(self) -> None:
        """Writes the file if it does not exist yet."""
        if not self.file.is_file():
            write_whole(self.file, json.dumps(sealed(self.kept)) + "\n")


def _made(context: Context, release: Release) -> Golden:
    """Chooses items by a hash of their ids, makes histories of all lengths from them, pairs both, and scores all."""
    index = context.tables.read("item_index", release.inputs["item_index"])
    drawn = index.orderBy(F.xxhash64("item_id"), "item_id").limit(ITEMS).collect()
    numbers, rng = [row.item_idx for row in drawn] or [0], np.random.default_rng(0)
    lengths = np.linspace(1, context.config.sequences.history_length, GOLDEN).astype(int)
    golden: dict[str, Any] = {
        "histories": [rng.choice(numbers, length).tolist() for length in lengths],
        "items": rng.choice(numbers, GOLDEN).tolist(),
    }
    if types := context.config.sequences.event_types:
        golden["types"] = [rng.integers(1, 1 + len(types), length).tolist() for length in lengths]
    for kinds in (("user_emb", "item_emb"), ("pair",)):
        golden |= {kind: rows[0] for kind, rows in _scored(context, golden, kinds, (_batch_rows(context),)).items()}
    return golden


def _scored(
    context: Context, golden: Golden, kinds: Sequence[str], batches: Sequence[int]
) -> dict[str, list[list[list[float]]]]:
    """The vectors by kind, one list of them per batch size; computed in one Spark job."""
    frames = [
        _frame(context, golden, kind, batch_rows).withColumns({"kind": F.lit(kind), "batch": F.lit(batch_rows)})
        for kind in kinds
        for batch_rows in batches
    ]
    rows = reduce(DataFrame.unionByName, frames).collect()
    found = {(row.kind, row.batch, row.n): row.vector for row in rows}
    return {kind: [[found[kind, size, n] for n in range(GOLDEN)] for size in batches] for kind in kinds}


def _frame(context: Context, golden: Golden, kind: str, batch_rows: int) -> DataFrame:
    """Columns n and vector of the rows of a kind; a pair's vector is mid_emb, then the probabilities."""
    towers, matrix = towers_to_score(context), matrix_path(context)
    columns, schema = {
        "user_emb": _USERS if "types" in golden else (("histories",), "n int, item_idx array<int>"),
        "item_emb": (("items",), "n int, item_idx int"),
        "pair": (("user_emb", "item_emb"), "n int, user_emb array<float>, item_emb array<float>"),
    }[kind]
    rows = list(zip(range(GOLDEN), *(golden[column] for column in columns), strict=True))
    df = frame_of(context.spark, rows, schema).coalesce(1)
    if kind == "pair":
        scored = score_pairs(df, cvr_to_score(context), batch_rows).frame
        others = F.coalesce(F.col(OTHERS), F.array().cast("array<float>"))
        return scored.select("n", F.concat("mid_emb", F.array("cvr_score"), others).alias("vector"))
    if kind == "user_emb":
        scored = score_users(df, towers, matrix, batch_rows, context.config.sequences.event_types).frame
    else:
        scored = score_items(df, towers, matrix, batch_rows).frame
    return scored.select("n", F.col(kind).alias("vector"))


def _batch_rows(context: Context) -> int:
    return context.config.features.run.batch_rows


def _distance(kept: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> float:
    """The largest distance of a row from the kept one, relative to its length; NaN if shapes differ or one is NaN."""
    kept_NK, found_NK = np.array(kept), np.array(found)
    if kept_NK.shape != found_NK.shape:
        return float("nan")
    length_N = np.maximum(np.linalg.norm(kept_NK, axis=1), 1e-6)
    return float((np.linalg.norm(found_NK - kept_NK, axis=1) / length_N).max())
