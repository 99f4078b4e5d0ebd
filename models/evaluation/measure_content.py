"""Compares templates, layers and poolings of the text encoder: how well their vectors retrieve, and what they cost.

One pass of the whole model per template gives all layers and poolings. Each variant's vectors are then evaluated by
themselves, as a system of kind `mean_content` in `evaluate_systems`. A variant is on the (Pareto) front if no other is
as good in fewer seconds, or better in no more seconds.

Shapes: P targets.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from models.contract.content_spec import ContentSpec
from models.contract.evaluation_specs import SystemConfig, SystemsSpec
from models.contract.model_folder import early_stop
from models.contract.result import write_result
from models.contract.snapshot import open_snapshot
from models.encoder.all_layers import LayersEncoder
from models.evaluation.content_ranker import ContentRanker
from models.evaluation.content_reading import SAID_EVERY, Reading, read_template, said
from models.evaluation.evaluate_systems import SystemsTask

Figures = dict[str, Any]


def run(spec: ContentSpec) -> dict[str, object]:
    """Measures the variants; writes the figures to result.json.

    Returns:
        `data`: counts; `layers`: the model's number of layers; `templates`: for each its distinct texts, tokens, and
        seconds by layer; `variants`, the base first: template, layer, pooling, the figures with `ci90`, `gain` over the
        base with `ci90`, `seconds` of the model and `tokens` per 1,000 texts, `bad`, the number of texts without a
        usable vector, `is_front`, and `ranker`, if it was measured.

    Raises:
        BadInput: the model lacks a layer, a template gives only empty texts, or the snapshots do not fit together.
    """
    torch.set_num_threads(spec.threads)
    for variant in spec.variants:
        early_stop(spec.model, variant.layer)
    encoder = LayersEncoder.load(spec.model, None, spec.base.pooling, spec.max_tokens, spec.dtype, _device(spec.device))
    texts = pa.concat_tables(pq.read_table(file) for file in open_snapshot(spec.texts).files)
    ranker = ContentRanker(spec.ranker, open_snapshot(spec.rows), spec.content_width) if spec.ranker else None
    templates = dict.fromkeys(variant.template for variant in spec.variants)
    made = {name: read_template(spec, encoder, name, texts) for name in templates}
    layers = encoder.num_layers
    del encoder
    task = SystemsTask(_systems(spec))
    rows = _measured(spec, task, made)
    _mark_front(rows, spec.metric)
    if ranker:
        for variant, row in zip(spec.variants, rows, strict=True):
            if row["is_front"] or variant == spec.base:
                row["ranker"] = ranker.gain(variant.name, spec.matrix(variant))
    result = {
        "data": task.rows.about(),
        "layers": layers,
        "templates": {name: reading.as_json() for name, reading in made.items()},
        "variants": rows,
    }
    write_result(spec.out_dir, result)
    return result


def _systems(spec: ContentSpec) -> SystemsSpec:
    """The spec for `evaluate_systems`. Nothing is trained, so the rows also serve as the training rows of segments."""
    systems = [
        SystemConfig(name=variant.name, kind="mean_content", content_matrix=spec.matrix(variant))
        for variant in spec.variants
    ]
    return SystemsSpec(
        train_snapshot=spec.rows,
        test_snapshot=spec.rows,
        known_items=spec.known_items,
        purchases=spec.purchases,
        candidates=spec.candidates,
        content_matrix=spec.matrix(spec.base),
        systems=tuple(systems),
        ks=spec.ks,
        popularity_days=spec.popularity_days,
        resamples=spec.resamples,
        seed=spec.seed,
        threads=spec.threads,
        out_dir=spec.out_dir,
    )


def _measured(spec: ContentSpec, task: SystemsTask, made: Mapping[str, Reading]) -> list[Figures]:
    rows: list[Figures] = []
    spoke = time.monotonic()
    segments = replace(task.segments, is_in={"all": task.segments.is_in["all"]})  # no other segment is reported
    base_P: np.ndarray | None = None
    for variant, system in zip(spec.variants, task.spec.systems, strict=True):
        rank_P = task.ranks(task.scorer(system))
        base_P = rank_P if base_P is None else base_P
        figures = segments.figures(rank_P)
        del figures["segments"]
        reading = made[variant.template]
        per_1000 = 1000 / reading.texts
        rows.append(
            variant.model_dump()
            | figures
            | {
                "gain": segments.gains(rank_P, base_P),
                "seconds": reading.seconds[variant.layer] * per_1000,
                "tokens": reading.tokens * per_1000,
                "bad": reading.bad[variant.layer, variant.pooling],
                "ranker": None,
            }
        )
        if time.monotonic() - spoke > SAID_EVERY or variant == spec.variants[-1]:
            spoke = time.monotonic()
            said(f"{len(rows)} of {len(spec.variants)} variants retrieved")
    return rows


def _mark_front(rows: Sequence[Figures], metric: str) -> None:
    """Sets `is_front`: among rows without bad texts, no other is as good in fewer seconds, or better in no more."""
    usable = [row for row in rows if not row["bad"]]
    for row in rows:
        row["is_front"] = not row["bad"] and not any(
            other[metric] >= row[metric]
            and other["seconds"] <= row["seconds"]
            and (other[metric] > row[metric] or other["seconds"] < row["seconds"])
            for other in usable
        )


def _device(asked: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked
