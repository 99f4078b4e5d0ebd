"""What encoding the lake's new texts will cost, before it is done: for a dry run."""

from dataclasses import dataclass
from datetime import date

from pyspark.sql import functions as F

from learn_spark.core.schemas import ITEMS
from learn_spark.core.steps import Context
from learn_spark.embedding.encoders import encoder_id
from learn_spark.embedding.prompts import template
from learn_spark.embedding.store import rendered_texts, vectors_of
from learn_spark.embedding.udf import EncodeSpec, count_function
from learn_spark.estimate import encoder_hours

SAMPLE = 1000


@dataclass(frozen=True)
class EmbeddingEstimate:
    """Distinct new texts; tokens as a sample of them has, by the encoder's own tokenizer; hours of all devices."""

    texts: int
    tokens: int
    device_hours: float

    def __str__(self) -> str:
        return (
            f"embed_items, of the items that the lake has: {self.texts:,} new texts, about {self.tokens:,} tokens,"
            f" {self.device_hours:,.2f} device hours"
        )


def embedding_estimate(context: Context, before: date) -> EmbeddingEstimate | None:
    """The cost of `embed_items` for the items first seen before a day; None where the lake has no items.

    Raises:
        ConfigError: where the model cannot be found or lacks a part.
    """
    if not context.tables.exists(ITEMS.name):
        return None
    spec, chosen = EncodeSpec.of(context.config), template(context.config.embedding.template)
    known_df = vectors_of(context, encoder_id(context.config)).select("text_hash")
    new_df = (
        rendered_texts(context, chosen, before)
        .dropDuplicates(["text_hash"])
        .join(known_df, on="text_hash", how="left_anti")
        .persist()
    )
    texts = new_df.count()
    sample_df = new_df.orderBy(F.xxhash64("text_hash")).limit(SAMPLE).select("prompt")
    mean = sample_df.mapInPandas(count_function(spec), "tokens bigint").agg(F.mean("tokens")).first()[0] or 0.0
    new_df.unpersist()
    tokens = round(mean * texts)
    return EmbeddingEstimate(texts, tokens, encoder_hours(context.config, tokens))
