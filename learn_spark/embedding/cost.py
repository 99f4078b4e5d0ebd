"""Estimates what encoding the lake's new texts will cost, for a dry run."""

from dataclasses import dataclass
from datetime import date

from pyspark.sql import functions as F

from learn_spark.config.load import Config
from learn_spark.embedding.encoders import encoder_id
from learn_spark.embedding.prompts import template
from learn_spark.embedding.store import rendered_texts, vectors_of
from learn_spark.embedding.udf import EncodeSpec, bad_models_named, count_function
from learn_spark.lake.frames import only_row
from learn_spark.lake.schemas import ITEMS
from learn_spark.runs.steps import INGEST_EVENTS, Context

SAMPLE = 1000
RECENT_DAYS = 7
_FLOP_PER_PARAMETER_AND_TOKEN = 2


@dataclass(frozen=True)
class EmbeddingEstimate:
    """How much there is to encode.

    Attributes:
        texts: distinct texts of the lake without a vector of this encoder.
        expected: texts that the planned deliveries will bring, if each brings as many new items as the last seven did.
        tokens: of all these texts, extrapolated from a sample of the lake's by the encoder's own tokenizer.
        device_hours: hours of all devices together, with `scale.device_tflops` each.
    """

    texts: int
    expected: int
    tokens: int
    device_hours: float

    def __str__(self) -> str:
        return (
            f"embed_items: {self.texts:,} texts of the lake without a vector, about {self.expected:,} more to come,"
            f" {self.tokens:,} tokens, {self.device_hours:,.2f} device hours"
        )


def embedding_estimate(context: Context, before: date, deliveries: int) -> EmbeddingEstimate | None:
    """The cost of `embed_items`; None if the lake has no items.

    Args:
        context: the lake.
        before: only items first seen before this day count.
        deliveries: days that are to be ingested first.

    Raises:
        ConfigError: the model cannot be found or lacks a file.
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
    with bad_models_named():
        mean = only_row(sample_df.mapInPandas(count_function(spec), "tokens bigint").agg(F.mean("tokens")))[0]
    new_df.unpersist()
    expected = round(deliveries * _new_items_a_day(context))
    tokens = round((mean or context.config.scale.tokens_per_item) * (texts + expected))
    return EmbeddingEstimate(texts, expected, tokens, encoder_hours(context.config, tokens))


def encoder_hours(config: Config, tokens: int) -> float:
    """Hours that one device of `scale.device_tflops` needs for `tokens` tokens."""
    flop = _FLOP_PER_PARAMETER_AND_TOKEN * config.scale.encoder_parameters * tokens
    return flop / (config.scale.device_tflops * 1e12) / 3600


def _new_items_a_day(context: Context) -> float:
    """New items per day: the mean over the last seven ingested deliveries of the items first seen in each."""
    first_df = context.tables.read(ITEMS.name).groupBy("item_id").agg(F.min("load_day").alias("load_day"))
    days = {row["load_day"]: row["count"] for row in first_df.groupBy("load_day").count().collect()}
    ingested = sorted(day for name, day in context.ledger.recorded() if name == INGEST_EVENTS)[-RECENT_DAYS:]
    return sum(days.get(day, 0) for day in ingested) / len(ingested) if ingested else 0.0
