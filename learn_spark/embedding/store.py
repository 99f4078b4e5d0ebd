"""item_text and content_embeddings: what each item's text is, and the vectors of the texts that had none."""

import re
from dataclasses import dataclass
from datetime import date

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from learn_spark.core.errors import ConfigError, QualityError
from learn_spark.core.schemas import CONTENT_EMBEDDINGS, ITEM_INDEX, ITEM_TEXT, ITEMS
from learn_spark.core.steps import Context
from learn_spark.embedding.prompts import Template, text_hash
from learn_spark.embedding.udf import BAD_MODEL, BAD_VECTOR, OUTPUT_SCHEMA, EncodeSpec, encode_function


@dataclass(frozen=True)
class ItemTexts:
    """Items that have a text, and their distinct texts."""

    items: int
    texts: int


@dataclass(frozen=True)
class Encoded:
    """Distinct texts that were new and got a vector, and the tokens that the model read for them."""

    texts: int
    tokens: int


def pinned_versions(items_df: DataFrame, pin: date, before: date) -> DataFrame:
    """One version of every item first seen before `before`: the last before `pin`, else the item's first.

    The pin is where the models' training ends: later wording never reaches them, later items still have text.
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


def write_item_text(context: Context, template: Template, before: date) -> ItemTexts:
    """Brings item_text up to date by what changed.

    New items are appended. Where texts themselves changed (another template, late data) the table is written
    anew, as then most rows differ. Nothing changed, nothing is written.
    """
    tables = context.tables
    versions_df = pinned_versions(tables.read(ITEMS.name), context.config.windows.towers_end, before)
    known_df = tables.read(ITEM_TEXT.name)
    texts_df = (
        versions_df.join(tables.read(ITEM_INDEX.name).select("item_id"), on="item_id", how="left_semi")
        .select("item_id", template.render().alias("prompt"), F.lit(template.version).alias("template_version"))
        .withColumn("text_hash", text_hash(template.version, F.col("prompt")))
        .join(known_df.select("item_id", F.col("text_hash").alias("known_hash")), on="item_id", how="left")
        .persist()
    )
    is_new = F.col("known_hash").isNull()
    counts = texts_df.agg(
        F.count("*").alias("items"),
        F.count_distinct("text_hash").alias("texts"),
        F.count_if(is_new).alias("new"),
        F.count_if(F.col("known_hash") != F.col("text_hash")).alias("changed"),
    ).first()
    if counts["changed"]:
        others_df = known_df.join(texts_df.select("item_id"), on="item_id", how="left_anti")
        whole_df = texts_df.select(*ITEM_TEXT.names).unionByName(others_df)
        tables.overwrite_where(ITEM_TEXT.name, whole_df, "TRUE")
    elif counts["new"]:
        tables.append(ITEM_TEXT.name, texts_df.where(is_new))
    texts_df.unpersist()
    return ItemTexts(counts["items"], counts["texts"])


def encode_new_texts(context: Context, template: Template, encoder_id: str) -> Encoded:
    """Encodes each distinct text that has no vector of this encoder, once; all vectors appear in one commit.

    Raises:
        QualityError: where a vector is not finite or does not fit in fp16; nothing is written.
        ConfigError: where a worker cannot load the model.
    """
    tables, settings = context.tables, context.config.embedding
    texts_df = current_texts(context, template).select("text_hash", "prompt").dropDuplicates(["text_hash"])
    known_df = tables.read(CONTENT_EMBEDDINGS.name).where(F.col("encoder_id") == encoder_id).select("text_hash")
    new_df = texts_df.join(known_df, on="text_hash", how="left_anti").persist()
    new = new_df.count()
    if not new:
        new_df.unpersist()
        return Encoded(0, 0)
    context.progress.say(f"{new:,} new texts for encoder {encoder_id}")
    tokens_read = context.spark.sparkContext.accumulator(0)
    encode = encode_function(_spec(context, encoder_id), tokens_read)
    vectors_df = new_df.repartition(min(settings.workers, new)).mapInPandas(encode, OUTPUT_SCHEMA)
    written = _append_vectors(context, vectors_df)
    new_df.unpersist()
    if written != new:
        raise QualityError(f"{new} texts were to be encoded, but {written} vectors were written")
    return Encoded(written, tokens_read.value)


def current_texts(context: Context, template: Template) -> DataFrame:
    """The rows of item_text that this template's version made."""
    return context.tables.read(ITEM_TEXT.name).where(F.col("template_version") == template.version)


def _append_vectors(context: Context, vectors_df: DataFrame) -> int:
    """Appends, and counts; a worker's own complaint becomes one line, anything else stays what it is."""
    try:
        return context.tables.append(CONTENT_EMBEDDINGS.name, vectors_df)
    except PySparkException as error:
        for mark, kind in ((BAD_VECTOR, QualityError), (BAD_MODEL, ConfigError)):
            found = re.search(re.escape(mark) + ".*", str(error))
            if found:
                raise kind(f"embed_items: {found.group().removeprefix(mark)}") from None
        raise


def _spec(context: Context, encoder_id: str) -> EncodeSpec:
    settings = context.config.embedding
    return EncodeSpec(
        encoder_id,
        settings.model,
        settings.revision,
        settings.pooling,
        settings.max_tokens,
        settings.batch_tokens,
        settings.dtype,
        settings.device,
        settings.threads,
    )


def _midnight(day: date) -> Column:
    """Midnight UTC, the session's time zone."""
    return F.lit(day).cast("timestamp")
