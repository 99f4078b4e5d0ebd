"""`learn-spark choose-content`: measures layers, poolings and templates of the text encoder on validation rows."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learn_spark.bridge.launch import run_trainer
from learn_spark.comparison.content_sample import (
    ContentSample,
    content_sample,
    ranker_snapshot,
    row_snapshots,
    text_snapshot,
)
from learn_spark.config.load import Config
from learn_spark.embedding.encoders import encoder_id, model_dir
from learn_spark.embedding.golden_texts import FILE, FOLDER, golden_gate
from learn_spark.embedding.gpus import encoding_profile
from learn_spark.embedding.prompts import template
from learn_spark.embedding.udf import EncodeSpec
from learn_spark.errors import ConfigError
from learn_spark.evaluation.job import KS
from learn_spark.evaluation.ranking import CATEGORICAL, base_columns
from learn_spark.evaluation.summary import write_json
from learn_spark.lake.lock import folder_lock
from learn_spark.runs.steps import Context
from models.contract.content_spec import VECTORS, ContentSpec, ContentVariant
from models.contract.evaluation_specs import RankerSpec
from models.contract.failures import BadInput
from models.contract.model_folder import early_stop, num_layers

FOLDER_NAME, SNAPSHOTS, MEASURED = "choose_content", "snapshots", "measured"
POOLINGS = ("mean", "last", "cls")
TEMPLATES = ("title", "brief", "industrial")
MOST_LAYERS = 8  # measured if none are named


@dataclass(frozen=True)
class Asked:
    """What to measure; an empty sequence means the defaults."""

    items: int
    layers: Sequence[int] = ()
    poolings: Sequence[str] = ()
    templates: Sequence[str] = ()
    ranker: bool = False


def choose_content(context: Context, asked: Asked) -> dict[str, Any]:
    """Measures the variants. Writes only into `output.dir/choose_content`; a rerun begins again.

    Args:
        context: a lake with sequences.
        asked: the variants, and the number of items to measure on.

    Returns:
        The figures of `models.evaluation.measure_content.run`, its `variants` best first, each with its config line
        (`line`); `metric`, `model` and `sample` in words; `taken`, the name of the best variant, and `vectors`, the
        folder of its vectors, whose rows are the item_idx of the snapshot `texts`.

    Raises:
        ConfigError: there is no such layer or template, the lake lacks sequences, or the sample is too small.
        QualityError: the encoder no longer makes the vectors that the lake holds.
        TemporaryError: another run works in the folder.
    """
    config, folder = context.config, context.config.output.folder / FOLDER_NAME
    base = base_variant(config)
    layers = asked_layers(config, asked.layers)
    templates = {name: template(name) for name in dict.fromkeys([base.template, *(asked.templates or TEMPLATES)])}
    k = int(config.retrieval.picked_by.rpartition("_")[2])
    with folder_lock(folder, "output.dir", f"another choose-content works in {folder}"):
        for part in (SNAPSHOTS, MEASURED):
            shutil.rmtree(folder / part, ignore_errors=True)
        _require_same_encoder(context)
        sample = content_sample(context, asked.items, k)
        context.progress.say(f"choose-content: {sample}")
        snapshots = row_snapshots(context, sample, folder / SNAPSHOTS)
        spec = ContentSpec(
            texts=text_snapshot(context, sample, templates, folder / MEASURED),
            templates=tuple(templates),
            layers=layers,
            poolings=tuple(asked.poolings or POOLINGS),  # pyright: ignore[reportArgumentType] - checked by the spec
            base=base,
            model=model_dir(config),
            max_tokens=config.embedding.max_tokens,
            dtype=config.embedding.dtype,
            device=config.embedding.run.device,
            batch_tokens=config.embedding.run.batch_tokens,
            **snapshots,
            candidates="known" if sample.day else "catalogue",
            popularity_days=config.retrieval.popularity_days,
            metric=config.retrieval.picked_by,
            ks=tuple(sorted({*KS, k})),
            ranker=_ranker(context, sample, folder) if asked.ranker else None,
            content_width=config.towers.model.embedding_dim,
            resamples=config.comparison.resamples,
            seed=config.evaluation.seed,
            threads=config.embedding.run.threads * config.embedding.run.workers,
            out_dir=folder / MEASURED,
        )
        context.progress.say(f"choose-content: {len(spec.variants)} variants, out of {len(templates)} passes")
        found = run_trainer(spec)
        shutil.rmtree(folder / SNAPSHOTS)
        return _told(config, spec, sample, found)


def base_variant(config: Config) -> ContentVariant:
    """The template, layer and pooling by which the config's vectors are made."""
    settings, folder = config.embedding, model_dir(config)
    layer = settings.layer or num_layers(folder)
    if layer is None:
        raise ConfigError(f"embedding.model: {folder / 'config.json'} does not say how many layers the model has")
    encoder_id(config)  # refuses a layer that the model lacks
    return ContentVariant(template=settings.template, layer=layer, pooling=settings.pooling)


def asked_layers(config: Config, layers: Sequence[int]) -> tuple[int, ...]:
    """The named layers; if none are named, all of them, or eight evenly spaced ones with the last if there are more.

    Raises:
        ConfigError: the model has no such layer.
    """
    folder = model_dir(config)
    try:
        for layer in layers:
            early_stop(folder, layer)
    except BadInput as error:
        raise ConfigError(f"--layers: {error}") from error
    if layers:
        return tuple(dict.fromkeys(layers))
    whole = num_layers(folder) or 1
    steps = min(whole, MOST_LAYERS)
    return tuple(round(whole * step / steps) for step in range(1, steps + 1))


def config_line(variant: dict[str, Any], layers: int) -> str:
    """The line to write into a config: `embedding: {template: title, layer: 4, pooling: mean}`."""
    layer = "null" if variant["layer"] == layers else variant["layer"]
    return f"embedding: {{template: {variant['template']}, layer: {layer}, pooling: {variant['pooling']}}}"


def _require_same_encoder(context: Context) -> None:
    """If the lake has vectors of this config's encoder, checks that it still encodes the golden texts as at first."""
    spec = EncodeSpec.of(context.config)
    if (context.tables.artifacts.path(FOLDER, spec.encoder_id) / FILE).is_file():
        golden_gate(context, spec, encoding_profile(context.spark, context.config))


def _ranker(context: Context, sample: ContentSample, folder: Path) -> RankerSpec:
    settings = context.config.evaluation
    context.progress.say("choose-content: the ranker's samples of the validation window")
    return RankerSpec(
        rows=ranker_snapshot(context, sample, folder / SNAPSHOTS),
        content_matrix=folder,
        base=base_columns(context.config.samples),
        categorical=CATEGORICAL,
        ranker=settings.ranker,
        resamples=settings.resamples,
        seed=settings.seed,
        num_seeds=settings.num_seeds,
        threads=settings.run.threads,
        out_dir=folder / MEASURED,
    )


def _told(config: Config, spec: ContentSpec, sample: ContentSample, found: dict[str, Any]) -> dict[str, Any]:
    """Sorts the variants, adds their config lines and writes the result; deletes all vectors but the best variant's."""
    names = {variant.name: row for variant, row in zip(spec.variants, found["variants"], strict=True)}
    for name, row in names.items():
        row |= {"name": name, "line": config_line(row, found["layers"]), "is_base": name == spec.base.name}
    rows = sorted(names.values(), key=lambda row: (-row[spec.metric], row["seconds"]))
    best = next((row for row in rows if row["is_front"]), rows[0])
    for name in names:
        if name != best["name"]:
            shutil.rmtree(spec.out_dir / VECTORS / name)
    told = {
        "metric": spec.metric,
        "sample": str(sample),
        "model": config.embedding.model,
        "taken": best["name"],
        "vectors": str(spec.out_dir / VECTORS / best["name"]),
        "texts": str(spec.texts),
        **found,
        "variants": rows,
    }
    write_json(spec.out_dir.parent / "choose_content.json", told)
    return told
