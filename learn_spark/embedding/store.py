"""Writes item_text and content_embeddings: each item's text, and vectors for the texts that have none."""

import math
from dataclasses import dataclass
from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from learn_spark.config.model_sections import EmbeddingSettings
from learn_spark.embedding.golden_texts import golden_gate
from learn_spark.embedding.gpus import encoding_profile
from learn_spark.embedding.prompts import Template, text_hash
from learn_spark.embedding.udf import EMPTY, OUTPUT_SCHEMA, EncodeSpec, bad_models_named, encode_function
from learn_spark.embedding.work import Pace, Work, counted_work
from learn_spark.errors import QualityError
from learn_spark.lake.frames import only_row
from learn_spark.lake.schemas import CONTENT_EMBEDDINGS, ITEM_INDEX, ITEM_TEXT, ITEMS
from learn_spark.quality.gates import Gate
from learn_spark.runs.steps import Context

BUCKET_TEXTS_A_WORKER = 32768  # minutes of work per commit, which costs a second or two
TEXTS_A_LOADING = 500  # texts that MiniLM encodes on a core in the time that another worker needs to load it
SHOWN = 80


@dataclass(frozen=True)
class TextCounts:
    """How many items have a text, and how many distinct texts they have."""

    items: int
    texts: int


@dataclass(frozen=True)
class Encoded:
    """How many distinct texts are new, how many of them are empty, the model's work, and the golden texts' gate."""

    texts: int
    empty: int
    work: Work
    gates: list[Gate]


def pinned_versions(items_df: DataFrame, pin: date, before: date) -> DataFrame:
    """One version of every item first seen before `before`: the last before `pin`, else the item's first.

    The pin is the day on which the models' training ends: they never see later wording, but later items have a text.
    """
    version = F.struct(*(name for name in items_df.columns if name != "item_id"))
    valid_from = F.col("valid_from")
    return (
        items_df.where(valid_from < _midnight(before))
        .groupBy("item_id")
        .agg(
            F.max_by(version, F.when(valid_from < _midnight(pin), valid_from)).alias("pinned"),
            F.min_by(version, valid_from).alias("first"),
        )
        .select("item_id", F.coalesce("pinned", "first").alias("version"))
        .select("item_id", "version.*")
    )


def rendered_texts(context: Context, template: Template, before: date) -> DataFrame:
    """The rows that item_text should have for the items first seen before `before`."""
    tables = context.tables
    versions_df = pinned_versions(tables.read(ITEMS.name), context.config.windows.towers_end, before)
    return (
        versions_df.join(tables.read(ITEM_INDEX.name).select("item_id"), on="item_id", how="left_semi")
        .select("item_id", template.render().alias("prompt"), F.lit(template.version).alias("template_version"))
        .withColumn("text_hash", text_hash(template.version, F.col("prompt")))
    )


def write_item_text(context: Context, template: Template, before: date) -> TextCounts:
    """Brings item_text up to date.

    New items are appended. If existing texts changed (another template, late data), the table is rewritten, since then
    most rows differ. If nothing changed, nothing is written.
    """
    tables = context.tables
    known_df = tables.read(ITEM_TEXT.name)
    texts_df = (
        rendered_texts(context, template, before)
        .join(known_df.select("item_id", F.col("text_hash").alias("known_hash")), on="item_id", how="left")
        .persist()
    )
    is_new = F.col("known_hash").isNull()
    counts = only_row(
        texts_df.agg(
            F.count("*").alias("items"),
            F.count_distinct("text_hash").alias("texts"),
            F.count_if(is_new).alias("new"),
            F.count_if(F.col("known_hash") != F.col("text_hash")).alias("changed"),
        )
    )
    if counts["changed"]:
        others_df = known_df.join(texts_df.select("item_id"), on="item_id", how="left_anti")
        whole_df = texts_df.select(*ITEM_TEXT.names).unionByName(others_df)
        tables.overwrite_where(ITEM_TEXT.name, whole_df, "TRUE")
    elif counts["new"]:
        tables.append(ITEM_TEXT.name, texts_df.where(is_new))
    texts_df.unpersist()
    return TextCounts(counts["items"], counts["texts"])


def encode_new_texts(context: Context, template: Template, encoder_id: str) -> Encoded:
    """Encodes each distinct text that has no vector of this encoder, once, bucket by bucket.

    A bucket is a share of the texts by their hash. Each bucket is one commit, so a killed run keeps the finished ones.
    Texts without a usable vector get zeros and a flag.

    Raises:
        ConfigError: a worker cannot load the model.
        QualityError: the encoder makes other vectors than it made at first (`golden_texts`).
    """
    settings = context.config.embedding
    new_df = _new_texts(context, template, encoder_id).persist()
    counts = only_row(new_df.agg(F.count("*").alias("texts"), F.count_if(F.col("prompt") == "").alias("empty")))
    buckets = math.ceil(counts["texts"] / _bucket_texts(settings))
    if buckets:
        context.progress.say(f"{counts['texts']:,} new texts in {buckets:,} commits, encoder {encoder_id}")
    # Few texts go to the one worker that has loaded the model for the golden texts.
    tasks = min(settings.run.workers, math.ceil(counts["texts"] / TEXTS_A_LOADING))
    work = counted_work(context.spark)
    spec, profile = EncodeSpec.of(context.config), encoding_profile(context.spark, context.config)
    encode = encode_function(spec, work)
    gates = [golden_gate(context, spec, profile)] if counts["texts"] > counts["empty"] else []
    with bad_models_named(), Pace(context.progress, work, counts["texts"]):
        for bucket in range(buckets):
            bucket_df = new_df.where(F.pmod(F.xxhash64("text_hash"), F.lit(buckets)) == bucket)
            tasks_df = bucket_df.repartition(tasks, "text_hash")
            vectors_df = tasks_df.mapInPandas(encode, OUTPUT_SCHEMA, profile=profile)
            context.tables.append(CONTENT_EMBEDDINGS.name, vectors_df)
    new_df.unpersist()
    return Encoded(counts["texts"], counts["empty"], work.value, gates)


def current_texts(context: Context, template: Template) -> DataFrame:
    """The rows of item_text that this template's version made."""
    return context.tables.read(ITEM_TEXT.name).where(F.col("template_version") == template.version)


def vectors_of(context: Context, encoder_id: str) -> DataFrame:
    """The rows of content_embeddings that this encoder made."""
    return context.tables.read(CONTENT_EMBEDDINGS.name).where(F.col("encoder_id") == encoder_id)


def require_few_bad(context: Context, template: Template, encoder_id: str, texts: int) -> dict[str, int]:
    """How many of the `texts` current texts are quarantined, by reason.

    Raises:
        QualityError: their share is above `embedding.gates.max_bad_share`; the message names one per reason. Their rows
            stay until the next run, which tries these texts again.
    """
    bad_df = _bad_vectors(context, encoder_id).select("text_hash", "flag")
    if bad_df.isEmpty():
        return {}
    named_df = bad_df.join(current_texts(context, template), on="text_hash", how="inner")
    rows = (
        named_df.groupBy("flag")
        .agg(
            F.count_distinct("text_hash").alias("texts"),
            F.min(F.struct("item_id", F.left("prompt", F.lit(SHOWN)).alias("prompt"))).alias("one"),
        )
        .orderBy(F.desc("texts"), "flag")
        .collect()
    )
    bad = sum(row.texts for row in rows)
    limit = context.config.embedding.gates.max_bad_share
    if bad > limit * texts:
        reasons = "; ".join(
            f"{row.texts} {row.flag}, such as item {row.one.item_id} {row.one.prompt!r}" for row in rows
        )
        raise QualityError(
            f"embed_items: {bad} of {texts} texts have no usable vector, embedding.gates.max_bad_share is {limit:g}:"
            f" {reasons}; all other vectors are kept; try embedding.dtype float32, or a smaller embedding.max_tokens"
        )
    return {row.flag: row.texts for row in rows}


def is_bad() -> Column:
    """Whether a row of content_embeddings is quarantined: its text is not empty, but has no usable vector."""
    return F.coalesce(F.col("flag") != EMPTY, F.lit(False))


def _new_texts(context: Context, template: Template, encoder_id: str) -> DataFrame:
    """(text_hash, prompt) without a row of this encoder; quarantined texts count again if they are too many."""
    texts_df = current_texts(context, template).select("text_hash", "prompt").dropDuplicates(["text_hash"])
    bad_df = _bad_vectors(context, encoder_id).select("text_hash")
    bad = 0 if bad_df.isEmpty() else texts_df.join(bad_df, on="text_hash", how="left_semi").count()
    if bad and bad > context.config.embedding.gates.max_bad_share * texts_df.count():
        its_bad = f"encoder_id = '{encoder_id}' AND flag IS NOT NULL AND flag <> '{EMPTY}'"
        context.tables.delete(CONTENT_EMBEDDINGS.name, its_bad)
    known_df = vectors_of(context, encoder_id).select("text_hash")
    return texts_df.join(known_df, on="text_hash", how="left_anti")


def _bad_vectors(context: Context, encoder_id: str) -> DataFrame:
    return vectors_of(context, encoder_id).where(is_bad())


def _bucket_texts(settings: EmbeddingSettings) -> int:
    if settings.run.texts_per_commit == "auto":
        return BUCKET_TEXTS_A_WORKER * settings.run.workers
    return settings.run.texts_per_commit


def _midnight(day: date) -> Column:
    """Midnight UTC, the session's time zone."""
    return F.lit(day).cast("timestamp")
