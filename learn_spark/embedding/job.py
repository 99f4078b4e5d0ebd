"""The content embedding stage: item texts, vectors of the new ones, the matrix that the models read."""

import time
from collections.abc import Sequence
from datetime import date

from learn_spark.core.errors import ConfigError
from learn_spark.core.ledger import StepResult
from learn_spark.core.steps import Context
from learn_spark.embedding.encoders import encoder_id
from learn_spark.embedding.matrix import extend_matrix, matrix_path
from learn_spark.embedding.prompts import template
from learn_spark.embedding.store import encode_new_texts, write_item_text


def embed_items(context: Context, days: Sequence[date]) -> StepResult:
    """Gives every item first seen before the last of `days` a text, a vector and a row of the matrix.

    Reads items and item_index; writes item_text, content_embeddings and the content matrix. Only what is
    new is encoded: a text that any item has had under this encoder never meets the model again.

    Raises:
        ConfigError: where there are no items, or the encoder or template cannot be used.
        QualityError: where a vector is not finite or does not fit in fp16.
    """
    chosen = template(context.config.embedding.template)
    encoder = encoder_id(context.config)
    texts = write_item_text(context, chosen, before=max(days))
    if not texts.items:
        raise ConfigError(f"there are no items before {max(days)}: run ingest_events first")
    started = time.monotonic()
    encoded = encode_new_texts(context, chosen, encoder)
    seconds = time.monotonic() - started
    matrix = extend_matrix(context, chosen, encoder)
    return StepResult(
        rows_in=texts.items,
        rows_out=encoded.texts,
        details={
            "items": texts.items,
            "texts": texts.texts,
            "texts_encoded": encoded.texts,
            "tokens": encoded.tokens,
            "seconds": round(seconds, 2),
            "encoder_id": encoder,
            "dim": matrix.dim,
            "template_version": chosen.version,
            "matrix": str(matrix_path(context)),
            "matrix_rows": matrix.rows,
        },
    )
